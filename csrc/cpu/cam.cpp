// The ops of the Grad-CAM family on the CPU.
#include "../dispatch.h"
#include "cam_compute.h"

namespace camfast {

extern template void compute_cam<Half>(const CamInputs&, const Extent&, bool, void*); // cam_16bit.cpp
extern template void compute_cam<BFloat16>(const CamInputs&, const Extent&, bool, void*);

namespace {

template <Rule rule>
Tensor cam_op(const Tensor& activations, const Tensor& second, OptionalSizes size, bool normalize) {
  const Sizes out_size = output_size(size, activations, 2);
  const CamInputs in = cam_inputs(activations, second, rule);
  Tensor out = empty_heatmaps(in, out_size);
  if (out.numel() == 0) return out;
  dispatch<Floating>(in.activations.scalar_type(), [&](auto type) {
    compute_cam<typename decltype(type)::type>(in, extent_of(out_size), normalize, out.mutable_data_ptr());
  });
  return out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  using camfast::Rule;
  m.impl("cam", TORCH_BOX(&camfast::cam_op<Rule::weights>));
  m.impl("grad_cam", TORCH_BOX(&camfast::cam_op<Rule::grad_cam>));
  m.impl("grad_cam_plus_plus", TORCH_BOX(&camfast::cam_op<Rule::grad_cam_plus_plus>));
  m.impl("xgrad_cam", TORCH_BOX(&camfast::cam_op<Rule::xgrad_cam>));
  m.impl("hires_cam", TORCH_BOX(&camfast::cam_op<Rule::hires_cam>));
  m.impl("layer_cam", TORCH_BOX(&camfast::cam_op<Rule::layer_cam>));
  m.impl("grad_cam_elementwise", TORCH_BOX(&camfast::cam_op<Rule::grad_cam_elementwise>));
}

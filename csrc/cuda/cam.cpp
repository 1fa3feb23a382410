// The Grad-CAM family on CUDA.
#include <cstdlib>
#include <cstring>

#include "../cam.h"
#include "../dispatch.h"
#include "cam.h"
#include "device.h"
#include "reference.h"

namespace camfast::cuda {
namespace {

// Not yet timed on a GPU, therefore only where it is asked for (benchmarks/NOTES.md). Asked at every call it serves, so that one
// process can compare.
bool pipeline_wanted() {
  const char* set = std::getenv("CAMFAST_PIPELINE");
  return set != nullptr && std::strcmp(set, "1") == 0;
}

template <Rule rule>
Tensor cam_op(const Tensor& activations, const Tensor& second, OptionalSizes size, bool normalize) {
  const Sizes out_size = output_size(size, activations, 2);
  const int device = activations.get_device_index();
  const DeviceGuard guard(device);
  CamInputs in = cam_inputs(activations, second, rule);
  const int64_t S = in.map.positions();
  const bool channels_adjacent = in.layout == Layout::channels_adjacent;
  if (!channels_adjacent && in.C > 1 && (in.a_step != S || (rule != Rule::weights && in.s_step != S))) {
    // The kernel walks dense channels; a gap between them is rare enough for a copy.
    in = cam_inputs(torch::stable::contiguous(in.activations), torch::stable::contiguous(in.second), rule);
  }
  Tensor out = empty_heatmaps(in, out_size);
  if (out.numel() == 0) return out;
  const Extent out_extent = extent_of(out_size);
  const int64_t maps = in.N * in.K;
  check_counts(maps, in.map, out_extent, in.C);

  CamCall call{};
  call.activations = in.activations.const_data_ptr();
  call.second = in.second.const_data_ptr();
  call.a = {in.a_image, 0, in.a_step};
  call.s = {in.s_image, in.s_target, in.s_step};
  call.rule = rule;
  call.channels_adjacent = in.layout == Layout::channels_adjacent;
  call.maps = int(maps);
  call.K = int(in.K);
  call.C = int(in.C);
  call.resize = {extent(in.map), extent(out_extent), normalize};
  call.out = out.mutable_data_ptr();
  call.plan = plan_cam(machine(device),
                       {maps, int(in.C), int(S), out_extent.positions(), int(in.activations.element_size()),
                        int(out.element_size()), rule, call.channels_adjacent,
                        pipeline_serves(rule, int(S), call.channels_adjacent) && pipeline_wanted()});
  Scratch scratch(call.plan.scratch_bytes, in.activations);
  call.scratch = scratch.data();
  call.stream = current_stream(device);
  dispatch<UpToSingle>(in.activations.scalar_type(),
                       [&](auto type) { STD_CUDA_CHECK(launch_cam<typename decltype(type)::type>(call)); });
  return out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  using camfast::Rule;
  CAMFAST_IMPL_OR_REFERENCE(m, cam, &camfast::cuda::cam_op<Rule::weights>);
  CAMFAST_IMPL_OR_REFERENCE(m, grad_cam, &camfast::cuda::cam_op<Rule::grad_cam>);
  CAMFAST_IMPL_OR_REFERENCE(m, grad_cam_plus_plus, &camfast::cuda::cam_op<Rule::grad_cam_plus_plus>);
  CAMFAST_IMPL_OR_REFERENCE(m, xgrad_cam, &camfast::cuda::cam_op<Rule::xgrad_cam>);
  CAMFAST_IMPL_OR_REFERENCE(m, hires_cam, &camfast::cuda::cam_op<Rule::hires_cam>);
  CAMFAST_IMPL_OR_REFERENCE(m, layer_cam, &camfast::cuda::cam_op<Rule::layer_cam>);
  CAMFAST_IMPL_OR_REFERENCE(m, grad_cam_elementwise, &camfast::cuda::cam_op<Rule::grad_cam_elementwise>);
}

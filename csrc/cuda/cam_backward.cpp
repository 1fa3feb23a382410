// The derivative of the Grad-CAM family's channel sum on CUDA.
#include <tuple>

#include "../cam_backward.h"
#include "../dispatch.h"
#include "cam_backward.h"
#include "device.h"
#include "reference.h"

namespace camfast::cuda {
namespace {

Walk walk(int64_t image, int64_t target, int64_t step, Layout layout) {
  return layout == Layout::channels_adjacent ? Walk{image, target, 1, int(step)} : Walk{image, target, int(step), 1};
}

std::tuple<Tensor, Tensor> cam_backward(const Tensor& grad, const Tensor& activations, const Tensor& second, int64_t rule) {
  const int device = activations.get_device_index();
  const DeviceGuard guard(device);
  const CamBackwardInputs all = cam_backward_inputs(grad, activations, second, rule);
  const CamInputs& in = all.in;
  Tensor by_a = all.by_a, by_second = all.by_second;
  if (by_a.numel() == 0 || by_second.numel() == 0) {
    torch::stable::zero_(by_a);
    return {by_a, by_second};
  }
  check_counts(in.N * in.K, in.map, in.map, in.C);
  const int64_t S = in.map.positions(), dense = in.layout == Layout::channels_adjacent ? in.C : S;
  const bool weights = in.rule == Rule::weights;

  CamBackwardCall call{};
  call.rule = in.rule;
  call.N = int(in.N);
  call.K = int(in.K);
  call.C = int(in.C);
  call.S = int(S);
  call.grad = static_cast<const float*>(all.grad.const_data_ptr());
  call.activations = in.activations.const_data_ptr();
  call.second = in.second.const_data_ptr();
  call.a = walk(in.a_image, 0, in.a_step, in.layout);
  call.s = weights ? Walk{in.s_image, in.s_target, 1, 0} : walk(in.s_image, in.s_target, in.s_step, in.layout);
  call.by_a = by_a.mutable_data_ptr();
  call.by_second = by_second.mutable_data_ptr();
  call.to_a = walk(in.C * S, 0, dense, in.layout);
  call.to_s = weights ? Walk{in.K * in.C, in.C, 1, 0} : walk(in.K * in.C * S, in.C * S, dense, in.layout);
  const bool summed = in.K > 1 && in.activations.scalar_type() != ScalarType::Float;
  Scratch scratch(summed ? in.N * in.C * S * int64_t(sizeof(float)) : 0, activations);
  call.sums = static_cast<float*>(scratch.data());
  call.stream = current_stream(device);
  dispatch<UpToSingle>(in.activations.scalar_type(),
                       [&](auto type) { STD_CUDA_CHECK(launch_cam_backward<typename decltype(type)::type>(call)); });
  return {by_a, by_second};
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { CAMFAST_IMPL_OR_REFERENCE(m, cam_backward, &camfast::cuda::cam_backward); }

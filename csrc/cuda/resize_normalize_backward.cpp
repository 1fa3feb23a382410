// The derivative of resize_normalize on CUDA.
#include "../resize_normalize_backward.h"
#include "device.h"
#include "reference.h"
#include "resize_normalize_backward.h"

namespace camfast::cuda {
namespace {

Tensor resize_normalize_backward(const Tensor& grad, const Tensor& maps, bool normalize, bool relu) {
  const int device = maps.get_device_index();
  const DeviceGuard guard(device);
  const ResizeBackwardInputs in = resize_backward_inputs(grad, maps, normalize, relu);
  if (in.out.numel() == 0) return in.out;
  check_counts(in.M, in.map, in.size, 1);

  ResizeBackwardCall call{};
  call.grad = static_cast<const float*>(in.grad.const_data_ptr());
  call.maps = static_cast<const float*>(in.maps.const_data_ptr());
  call.M = int(in.M);
  call.resize = {extent(in.map), extent(in.size), normalize};
  call.relu = relu;
  Tensor out = in.out;
  call.out = static_cast<float*>(out.mutable_data_ptr());
  Scratch scratch(normalize ? in.M * in.map.positions() * int64_t(sizeof(float)) : 0, maps);
  call.scaled = static_cast<float*>(scratch.data());
  call.stream = current_stream(device);
  STD_CUDA_CHECK(launch_resize_backward(call));
  return out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  CAMFAST_IMPL_OR_REFERENCE(m, resize_normalize_backward, &camfast::cuda::resize_normalize_backward);
}

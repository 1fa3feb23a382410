#include "launch.cuh"
#include "resize_normalize_backward_kernel.cuh"

namespace camfast::cuda {

cudaError_t launch_resize_backward(const ResizeBackwardCall& call) {
  return launch(&resize_backward_kernel, {dim3(unsigned(call.M)), dim3(kResizeBackwardThreads), 0, call.stream}, call);
}

} // namespace camfast::cuda

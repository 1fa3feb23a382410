// The derivative of resize_normalize on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "resize_normalize.h"

namespace camfast::cuda {

struct ResizeBackwardCall {
  const float* grad; // [M, *resize.out], dense
  const float* maps; // [M, *resize.in], dense
  int M;
  ResizeJob resize;
  bool relu;
  float* scaled; // [M, *resize.in], the launch's own
  float* out;    // [M, *resize.in]
  cudaStream_t stream;
};

cudaError_t launch_resize_backward(const ResizeBackwardCall& call);

} // namespace camfast::cuda

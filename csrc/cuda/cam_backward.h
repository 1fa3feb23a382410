// The derivative of the Grad-CAM family's channel sum on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "../math/cam_backward.h"

namespace camfast::cuda {

// Strides in elements: between images, between targets, between channels and between positions.
struct Walk {
  long long image, target;
  int channel, position;
};

struct CamBackwardCall {
  Rule rule;
  int N, K, C, S;
  const float* grad;                // [N, K, S], dense
  const void *activations, *second; // of one dtype
  Walk a, s;                        // how these are read
  void *by_a, *by_second;           // of the same dtype
  Walk to_a, to_s;                  // how these are written
  float* sums;                      // [N, C, S], the launch's own, where several targets are summed in half precision; or nullptr
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_cam_backward(const CamBackwardCall& call);

} // namespace camfast::cuda

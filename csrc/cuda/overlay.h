// overlay on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "plan.h"

namespace camfast::cuda {

struct OverlayCall {
  const unsigned char* frames; // [N, H, W, 3]
  const float* heat;           // [N, h, w]
  const unsigned char* colors; // [256, 3]
  unsigned char* out;
  int N;
  MapExtent map, frame;
  float alpha, frame_share;
  int blocks; // a frame
  cudaStream_t stream;
};

cudaError_t launch_overlay(const OverlayCall& call);

} // namespace camfast::cuda

// mask_images on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "plan.h"

namespace camfast::cuda {

struct MaskCall {
  const void* images; // [N, planes, *size], dense or channels_last
  const void* maps;   // [N, C, *map], dense, of the accumulation type
  void* out;          // [N * C, planes, *size], laid out as the images
  int N, C, planes;
  bool channels_last, corners, scale_first;
  MapExtent map, size;
  int group;        // blocks a map
  int shared_bytes; // the map's, or 0: read from global memory
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_masks(const MaskCall& call);

} // namespace camfast::cuda

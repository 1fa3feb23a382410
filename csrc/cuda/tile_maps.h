// tile_maps on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "../math/tile_maps.h"

namespace camfast::cuda {

struct TileCall {
  const void* maps;            // [M, h, w], dense
  const unsigned char* colors; // [256, 3]
  const float* limits;         // [2], or null
  unsigned char* out;          // [H, W, 3]
  TileLayout layout;
  unsigned char background;
  int parts; // blocks a cell
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_tile_maps(const TileCall& call);

} // namespace camfast::cuda

// preprocess on CUDA: the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "../math/preprocess.h"

namespace camfast::cuda {

struct PreprocessCall {
  const unsigned char* frames; // [N, H, W, 3]
  void* out;                   // [N, 3, h, w], or interleaved [N, h, w, 3]
  ResizeAxis rows, columns;
  Normalise normalise;
  int N;
  bool interleaved;
  cudaStream_t stream;
};

template <class Out>
cudaError_t launch_preprocess(const PreprocessCall& call);

} // namespace camfast::cuda

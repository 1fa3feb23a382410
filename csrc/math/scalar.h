// What the formulas in this folder share. Each stands once, a scalar at a time, for the CPU kernels (csrc/cpu) and the CUDA
// kernels (csrc/cuda); `T` is the type in which sums are taken: float for fp32, fp16 and bf16 inputs, double for fp64.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define CAMFAST_HD __host__ __device__ __forceinline__
#else
#define CAMFAST_HD inline __attribute__((always_inline))
#endif

namespace camfast {

// max(x, 0), written so that NaN passes through, as torch.clamp and numpy.maximum let it.
template <class T>
CAMFAST_HD T positive(T x) {
  return x < T(0) ? T(0) : x;
}

} // namespace camfast

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

// max(x, 0) of what is known: NaN passes through, and minus infinity becomes NaN, so that no value that is not finite is cut off
// without a trace. A product by minus zero does both: 0 for finite negative numbers, NaN for the infinite one.
template <class T>
CAMFAST_HD T positive(T x) {
  return x < T(0) ? x * T(-0.0) : x;
}

} // namespace camfast

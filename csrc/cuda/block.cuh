// What the threads of a block do together: load runs of values, and reduce.
#pragma once

#include "../cam_math.h"
#include "portable.cuh"

namespace camfast::cuda {

constexpr int kWarp = 32;
constexpr unsigned kFullMask = 0xffffffffu;
constexpr int kMaxWarps = 32;

template <class In>
struct Accumulation {
  using type = float;
};
template <>
struct Accumulation<double> {
  using type = double;
};
template <class In>
using AccOf = typename Accumulation<In>::type;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ double widen(double x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

// 16 bytes of values: what one thread loads or stores at a time. V = 1 is the path for addresses that are not aligned.
template <class In>
constexpr int kVector = int(16 / sizeof(In));

template <class In, int V>
struct Pack {
  In values[V];

  __device__ __forceinline__ explicit Pack(const In* p) {
    if constexpr (V == 1) {
      values[0] = *p;
    } else {
      static_assert(V * sizeof(In) == 16, "a pack is one value or 16 bytes");
      const uint4 raw = *reinterpret_cast<const uint4*>(p);
      memcpy(values, &raw, sizeof(raw));
    }
  }
  __device__ __forceinline__ AccOf<In> operator[](int i) const { return widen(values[i]); }
};

// The sum over `width` neighbouring lanes (a power of two), in every one of them.
template <class T>
__device__ __forceinline__ T warp_sum(T x, int width = kWarp) {
  for (int offset = width / 2; offset > 0; offset /= 2) x += __shfl_xor_sync(kFullMask, x, offset);
  return x;
}

// The least and greatest of all threads' values and the sum of `unknown`, in every thread. `shared`: 3 * kMaxWarps values.
template <class T>
struct Range {
  T low, high, unknown;
};

template <class T>
__device__ Range<T> block_range(Range<T> r, T* shared) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T low = __shfl_xor_sync(kFullMask, r.low, offset);
    const T high = __shfl_xor_sync(kFullMask, r.high, offset);
    const T unknown = __shfl_xor_sync(kFullMask, r.unknown, offset);
    r.low = low < r.low ? low : r.low;
    r.high = high > r.high ? high : r.high;
    r.unknown += unknown;
  }
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp;
  __syncthreads(); // the previous use of `shared` is over
  if (threadIdx.x % kWarp == 0) {
    shared[warp] = r.low;
    shared[kMaxWarps + warp] = r.high;
    shared[2 * kMaxWarps + warp] = r.unknown;
  }
  __syncthreads();
  for (int w = 0; w < warps; ++w) {
    const T low = shared[w], high = shared[kMaxWarps + w];
    r.low = low < r.low ? low : r.low;
    r.high = high > r.high ? high : r.high;
  }
  r.unknown = T(0);
  for (int w = 0; w < warps; ++w) r.unknown += shared[2 * kMaxWarps + w];
  return r;
}

} // namespace camfast::cuda

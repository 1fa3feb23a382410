// What the threads of a block do together: load runs of values, and reduce.
#pragma once

#include "plan.h"
#include "portable.cuh"

namespace camfast::cuda {

constexpr unsigned kFullMask = 0xffffffffu;

// The type in which values of In are summed: there are no kernels for fp64 (reference.h).
template <class In>
using AccOf = float;

__device__ __forceinline__ float widen(float x) { return x; }
__device__ __forceinline__ float widen(__half x) { return __half2float(x); }
__device__ __forceinline__ float widen(__nv_bfloat16 x) { return __bfloat162float(x); }

__device__ __forceinline__ void narrow(float x, float* to) { *to = x; }
__device__ __forceinline__ void narrow(float x, __half* to) { *to = __float2half(x); }
__device__ __forceinline__ void narrow(float x, __nv_bfloat16* to) { *to = __float2bfloat16(x); }

// A byte as a float, and a float from 0 to below 2^23 without its fraction, by adding 2^23: conversions run at a quarter of the
// speed of additions.
__device__ __forceinline__ float widened(uint8_t x) { return __uint_as_float(0x4B000000u | x) - 8388608.f; }
__device__ __forceinline__ int truncated(float x) { return int(__float_as_uint(__fadd_rz(x, 8388608.f)) & 0x7FFFFFu); }

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

// V values of shared memory, 16 bytes at a time (bank conflicts otherwise): V is 1, or `from` is aligned.
template <int V, class T>
__device__ __forceinline__ void load_shared(const T* from, T* to) {
  if constexpr (V == 1) {
    *to = *from;
  } else {
#pragma unroll
    for (int i = 0; i < int(V * sizeof(T) / 16); ++i) {
      const uint4 raw = reinterpret_cast<const uint4*>(from)[i];
      memcpy(to + i * (16 / sizeof(T)), &raw, sizeof(raw));
    }
  }
}

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
__device__ __forceinline__ Range<T> warp_range(Range<T> r) {
  for (int offset = kWarp / 2; offset > 0; offset /= 2) {
    const T low = __shfl_xor_sync(kFullMask, r.low, offset);
    const T high = __shfl_xor_sync(kFullMask, r.high, offset);
    const T unknown = __shfl_xor_sync(kFullMask, r.unknown, offset);
    r.low = low < r.low ? low : r.low;
    r.high = high > r.high ? high : r.high;
    r.unknown += unknown;
  }
  return r;
}

template <class T>
__device__ __forceinline__ void put_range(const Range<T>& r, T* shared) {
  const int warp = threadIdx.x / kWarp;
  shared[warp] = r.low;
  shared[kMaxWarps + warp] = r.high;
  shared[2 * kMaxWarps + warp] = r.unknown;
}

template <class T>
__device__ __forceinline__ Range<T> all_ranges(const T* shared) {
  const int lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp, other = lane < warps ? lane : 0;
  return warp_range(Range<T>{shared[other], shared[kMaxWarps + other], lane < warps ? shared[2 * kMaxWarps + lane] : T(0)});
}

template <class T>
__device__ Range<T> block_range(Range<T> r, T* shared) {
  r = warp_range(r);
  __syncthreads(); // the previous use of `shared` is over
  if (threadIdx.x % kWarp == 0) put_range(r, shared);
  __syncthreads();
  return all_ranges(shared);
}

// Two at once; `shared`: 6 * kMaxWarps values.
template <class T>
__device__ void block_ranges(Range<T>* one, Range<T>* two, T* shared) {
  *one = warp_range(*one);
  *two = warp_range(*two);
  __syncthreads();
  if (threadIdx.x % kWarp == 0) {
    put_range(*one, shared);
    put_range(*two, shared + 3 * kMaxWarps);
  }
  __syncthreads();
  *one = all_ranges(shared);
  *two = all_ranges(shared + 3 * kMaxWarps);
}

} // namespace camfast::cuda

// Score-CAM's inputs, one launch: each block finds its map's range by itself and writes a share of the masked image.
#pragma once

#include "../math/mask_images.h"
#include "mask_images.h"
#include "resize.cuh"

namespace camfast::cuda {

constexpr int kMaskThreads = 256;

template <class In>
struct MaskJob {
  const In* images;      // [N, planes, *size]
  const AccOf<In>* maps; // [N, C, *map]
  In* out;               // [N * C, planes, *size]
  int C, planes;
  bool channels_last; // planes innermost, in images and out
  bool scale_first;   // by the range of the map, not of the resized one
  bool map_in_shared;
  bool vectors; // every plane starts at a multiple of 16 bytes
  ResizeJob resize;
  int group; // blocks a map
};

template <bool corners, class T>
__device__ __forceinline__ T mask_at(const ResizeJob& job, const T* map, const Normalizer<T>& normalizer, int position) {
  const int x = position % job.out.w, zy = position / job.out.w;
  return normalizer(sample_map(map, job.in, sample_at<T, corners>(zy / job.out.h, job.in.d, job.out.d),
                               sample_at<T, corners>(zy % job.out.h, job.in.h, job.out.h),
                               sample_at<T, corners>(x, job.in.w, job.out.w)));
}

// V positions of every plane, from `position` on.
template <bool corners, int V, class In>
__device__ __forceinline__ void mask_positions(const MaskJob<In>& job, const AccOf<In>* map,
                                               const Normalizer<AccOf<In>>& normalizer, const In* image, In* out, int position) {
  const int area = job.resize.out.positions();
  AccOf<In> mask[V];
#pragma unroll
  for (int e = 0; e < V; ++e) mask[e] = mask_at<corners>(job.resize, map, normalizer, position + e);
  for (int p = 0; p < job.planes; ++p) {
    const long long at = job.channels_last ? (long long)position * job.planes + p : (long long)p * area + position;
    const Pack<In, V> values(image + at);
    alignas(16) In masked[V];
#pragma unroll
    for (int e = 0; e < V; ++e) narrow(values[e] * mask[e], masked + e);
    if constexpr (V == 1) {
      out[at] = masked[0];
    } else {
      uint4 raw;
      memcpy(&raw, masked, sizeof(raw));
      *reinterpret_cast<uint4*>(out + at) = raw;
    }
  }
}

template <class In, bool corners>
__global__ void __launch_bounds__(kMaskThreads, 2) mask_kernel(const MaskJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions(), area = job.resize.out.positions();
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
  CAMFAST_DYNAMIC_SHARED(T, own_map);
  __shared__ RangeScratch<T> range_scratch;
  const T* map = job.maps + (long long)m * S;
  if (job.map_in_shared) {
    for (int s = threadIdx.x; s < S; s += blockDim.x) own_map[s] = map[s];
    map = own_map;
  }
  __syncthreads();
  const Ranges<T> r = find_ranges<T, corners>(job.resize, map, &range_scratch);
  const Normalizer<T> normalizer = mask_normalizer(job.scale_first ? r.map_min : r.low, job.scale_first ? r.map_max : r.high,
                                                       r.map_min == r.map_max, r.finite);

  constexpr int V = kVector<In>;
  const In* image = job.images + (long long)(m / job.C) * job.planes * area;
  In* out = job.out + (long long)m * job.planes * area;
  const int begin = int((long long)area * rank / job.group / V * V);
  const int end = rank + 1 == job.group ? area : int((long long)area * (rank + 1) / job.group / V * V);
  if (job.vectors) {
    for (long long p = begin + (long long)threadIdx.x * V; p < end; p += (long long)blockDim.x * V) {
      mask_positions<corners, V>(job, map, normalizer, image, out, int(p));
    }
  } else {
    for (long long p = begin + (long long)threadIdx.x; p < end; p += blockDim.x) {
      mask_positions<corners, 1>(job, map, normalizer, image, out, int(p));
    }
  }
}

} // namespace camfast::cuda

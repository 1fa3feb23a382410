// Maps [M, *map] -> [M, *size], one launch: each block finds its map's range by itself and writes a share of the output.
#pragma once

#include "resize.cuh"

namespace camfast::cuda {

constexpr int kResizeThreads = 256;

template <class In>
struct ResizeMapsJob {
  ResizeJob resize;
  bool relu;
  int group;      // blocks a map
  const In* maps; // [M, S], dense
  AccOf<In>* out; // [M, *out]
};

// The map fits in shared memory (S values).
template <class In>
__global__ void __launch_bounds__(kResizeThreads) resize_kernel(const ResizeMapsJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions();
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
  CAMFAST_DYNAMIC_SHARED(T, map);
  __shared__ RangeScratch<T> range_scratch;
  const In* from = job.maps + (long long)m * S;
  for (int s = threadIdx.x; s < S; s += blockDim.x) {
    const T value = widen(from[s]);
    map[s] = job.relu ? positive(value) : value;
  }
  __syncthreads();
  const Normalizer<T> normalizer = find_normalizer(job.resize, map, &range_scratch);
  const int area = job.resize.out.positions();
  write_outputs(job.resize, map, normalizer, rank, job.group, job.out + (long long)m * area);
}

// ---------------------------------------------------------------------------------------------------------------------
// Maps too large for a block's shared memory, in two launches.

template <class In>
struct LargeFinishJob {
  ResizeJob resize;
  bool relu;
  int group;                         // blocks a map, for the writing
  const In* raw;                     // [maps, S]
  AccOf<In>* maps;                   // [maps, S], widened and rectified
  Normalizer<AccOf<In>>* normalizer; // [maps]
  AccOf<In>* out;                    // [maps, *out]
};

// One block a map: widen, rectify, and find the range.
template <class In>
__global__ void __launch_bounds__(kResizeThreads) large_range_kernel(const LargeFinishJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions();
  const In* raw = job.raw + (long long)blockIdx.x * S;
  T* map = job.maps + (long long)blockIdx.x * S;
  __shared__ RangeScratch<T> range_scratch;
  for (int s = threadIdx.x; s < S; s += blockDim.x) {
    const T value = widen(raw[s]);
    map[s] = job.relu ? positive(value) : value;
  }
  __syncthreads();
  const Normalizer<T> normalizer = find_normalizer(job.resize, map, &range_scratch);
  if (threadIdx.x == 0) job.normalizer[blockIdx.x] = normalizer;
}

template <class In>
__global__ void __launch_bounds__(kResizeThreads) large_write_kernel(const LargeFinishJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions(), area = job.resize.out.positions();
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
  write_outputs(job.resize, job.maps + (long long)m * S, job.normalizer[m], rank, job.group, job.out + (long long)m * area);
}

} // namespace camfast::cuda

// The whole of a Grad-CAM in one launch: weights, channel sum, ReLU, range, resize and normalisation.
//
//   map m:  block 0    block 1   ...  block R-1      a group of R blocks; each sums its share of the channels
//             |          |              |
//             +---- partial maps [S] ---+            exchanged through the cluster's shared memory (9.0 and later) or
//             |          |              |            through global memory and a grid barrier (before)
//           rows 0..   rows ..       rows ..         every block adds them up in the same order, finds the range by
//                                                    itself, and writes its share of the output
//
// No floating-point atomics: results are the same from run to run.
#pragma once

#include "cam_columns.cuh"
#include "resize.cuh"

namespace camfast::cuda {

template <class In>
struct CamJob {
  ChannelSumJob<In> sum;
  ResizeJob resize;
  int K;              // targets an image
  int group;          // blocks a map
  Exchange exchange;  // how a group of more than one shares its partial maps
  AccOf<In>* partial; // [maps, group, S], for Exchange::grid
  AccOf<In>* out;     // [maps, *out]
};

// A block's share of the channels, cut at multiples of the vector, so that every block's loads are aligned.
template <class In>
__device__ __forceinline__ Slice<In> slice_of(const CamJob<In>& job, int m, int rank) {
  const ChannelSumJob<In>& sum = job.sum;
  const int V = kVector<In>, n = m / job.K, k = m % job.K;
  const int vectors = (sum.C + V - 1) / V;
  Slice<In> slice;
  slice.a = sum.activations + n * sum.a_image;
  slice.second = sum.second + n * sum.s_image + k * sum.s_target;
  slice.first = int((long long)vectors * rank / job.group) * V;
  slice.last = int((long long)vectors * (rank + 1) / job.group) * V;
  if (slice.last > sum.C) slice.last = sum.C;
  return slice;
}

// From a block's own sums in `map` to its share of the output, by way of `full`, the sums of the whole group (`map` itself for a
// group of one). Between a thread's own values of `map` and this no barrier is needed but the exchange's.
template <class In, class T = AccOf<In>>
__device__ __forceinline__ void finish_map(const CamJob<In>& job, int m, int rank, T* map, T* full, RangeScratch<T>* scratch) {
  const int S = job.sum.S;
  if (job.exchange == Exchange::cluster) {
    group::require_clusters();
    group::cluster_sync();
    for (int s = threadIdx.x; s < S; s += blockDim.x) {
      T value = T(0);
#pragma unroll 8
      for (int r = 0; r < job.group; ++r) value += group::cluster_peer(map, r)[s];
      full[s] = value;
    }
  } else if (job.exchange == Exchange::grid) {
    T* partial = job.partial + (long long)m * job.group * S;
    for (int s = threadIdx.x; s < S; s += blockDim.x) partial[rank * S + s] = map[s];
    group::grid_sync();
    for (int s = threadIdx.x; s < S; s += blockDim.x) {
      T value = T(0);
      for (int r = 0; r < job.group; ++r) value += __ldcg(partial + r * S + s);
      full[s] = value;
    }
  }
  if (job.resize.normalize) { // each thread rectifies what it has just written itself (or, alone, what the block agrees on)
    for (int s = threadIdx.x; s < S; s += blockDim.x) full[s] = positive(full[s]);
  }
  __syncthreads();

  const Normalizer<T> normalizer = find_normalizer(job.resize, full, scratch);
  const int area = job.resize.out.positions();
  write_outputs(job.resize, full, normalizer, rank, job.group, job.out + (long long)m * area);
  // A block's shared memory must live until its peers have read it.
  if (job.exchange == Exchange::cluster) group::cluster_sync();
}

template <class In, bool weighted, bool channels_adjacent>
__global__ void __launch_bounds__(kMaxCamThreads, sizeof(AccOf<In>) == 8 ? 1 : 2) cam_kernel(const CamJob<In> job) {
  using T = AccOf<In>;
  const ChannelSumJob<In>& sum = job.sum;
  const int S = sum.S, V = kVector<In>;
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;

  CAMFAST_DYNAMIC_SHARED(T, shared);
  const CamShared sizes(sum.chunk, S, V, sum.rule, channels_adjacent, blockDim.x, job.group > 1);
  T* w = shared;
  T* sum_a = w + sizes.w;
  T* threads = sum_a + sizes.sum_a;
  T* map = threads + sizes.threads;
  T* full = job.group > 1 ? map + sizes.map : map;
  __shared__ RangeScratch<T> range_scratch;

  for (int s = threadIdx.x; s < S; s += blockDim.x) map[s] = T(0);
  __syncthreads();

  const Slice<In> slice = slice_of(job, m, rank);
  if (channels_adjacent) {
    if (sum.vectors) {
      sum_channels_adjacent<weighted, In, kVector<In>>(sum, slice, w, sum_a, threads, map);
    } else {
      sum_channels_adjacent<weighted, In, 1>(sum, slice, w, sum_a, threads, map);
    }
  } else {
    sum_positions_adjacent<weighted>(sum, slice, threads, map);
  }
  finish_map(job, m, rank, map, full, &range_scratch);
}

} // namespace camfast::cuda

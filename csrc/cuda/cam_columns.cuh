// Channels adjacent (channels_last): rows of n values, one per position.
//
//   s0 |c c c c c c c c|   weights: threads own columns (weights_of_columns)
//   s1 |c c c c c c c c|   map: warps own rows, dot products with the weights
//
// A range of channels is cut into chunks: weights of a chunk first (shared memory), then its share of the map, so that rules
// which need the activations twice find them in the cache.
#pragma once

#include "cam_rows.cuh"

namespace camfast::cuda {

constexpr int kRows = 4; // positions a warp sums side by side

// A warp owns positions: the dot products of their n channels with w, or the sums of their element-wise terms.
template <bool weighted, class In, int V>
__device__ void add_columns(const ChannelSumJob<In>& job, const In* a, const In* g, const AccOf<In>* w, int n, AccOf<In>* map) {
  using T = AccOf<In>;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  const ElementTerm<T> term(job.rule);
  for (int s = warp * kRows; s < job.S; s += warps * kRows) {
    T sum[kRows];
    const In *row[kRows], *other[kRows];
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      const int at = s + j < job.S ? s + j : s; // loaded again and not kept
      sum[j] = T(0);
      row[j] = a + at * job.a_step;
      other[j] = g + at * job.s_step;
    }
#pragma unroll 1
    for (int c = lane * V; c < n; c += kWarp * V) { // V = 1, or V divides n
      T own[V];
      if (weighted) load_shared<V>(w + c, own);
#pragma unroll
      for (int j = 0; j < kRows; ++j) {
        const Pack<In, V> x(row[j] + c);
        if (weighted) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[j] += x[e] * own[e];
        } else {
          const Pack<In, V> y(other[j] + c);
#pragma unroll
          for (int e = 0; e < V; ++e) sum[j] += term(x[e], y[e]);
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kRows; ++j) {
      sum[j] = warp_sum(sum[j]);
      if (lane == 0 && s + j < job.S) map[s + j] += sum[j];
    }
  }
}

template <bool weighted, class In, int V>
__device__ void sum_channels_adjacent(const ChannelSumJob<In>& job, const Slice<In>& slice, AccOf<In>* w, AccOf<In>* sum_a,
                                      AccOf<In>* shared, AccOf<In>* map) {
  for (int c0 = slice.first; c0 < slice.last; c0 += job.chunk) {
    const int n = slice.last - c0 < job.chunk ? slice.last - c0 : job.chunk;
    const In* a = slice.a + c0;
    const In* g = slice.second + c0;
    if (weighted) {
      __syncthreads(); // the previous chunk is done with w
      if (job.rule == Rule::weights) {
        for (int c = threadIdx.x; c < n; c += blockDim.x) w[c] = widen(g[c]);
        __syncthreads();
      } else {
        weights_of_columns<In, V>(job, a, g, n, w, sum_a, shared);
      }
    }
    add_columns<weighted, In, V>(job, a, g, w, n, map);
  }
  __syncthreads();
}

} // namespace camfast::cuda

// Activations and gradients of one image, a range of channels -> that range's share of the low-resolution map, by one block.
//
//   positions adjacent (contiguous)            channels adjacent (channels_last)
//   the range is one run of n * S values:      rows of n values, one a position:
//   |c0: s s s s s|c1: s s s s s|c2: ...       s0 |c c c c c c c c|
//   a channel's values fit in registers        s1 |c c c c c c c c|
//   (register_rows.cuh)                        weights: threads own columns; map: warps own rows,
//                                              dot products with the weights
//
// Where channels are adjacent, a range is cut into chunks: weights of a chunk first (shared memory), then its share of the map,
// so that rules which need the activations twice find them in the cache.
#pragma once

#include "register_rows.cuh"

namespace camfast::cuda {

template <class In>
struct ChannelSumJob {
  const In* activations;
  const In* second; // gradients, or weights
  Rule rule;
  int C, S;
  int chunk;                          // channels at a time, a multiple of the vector
  bool vectors;                       // 16-byte loads: every address and stride allows them
  long long a_image, s_image, s_target; // strides in elements
  long long a_step, s_step;             // between channels (must be S) or between positions
};

// Where a block finds its image and channels.
template <class In>
struct Slice {
  const In* a;
  const In* second;
  int first, last; // channels
};

template <bool weighted, class In>
__device__ void sum_positions_adjacent(const ChannelSumJob<In>& job, const Slice<In>& slice, AccOf<In>* shared, AccOf<In>* map) {
  const long long first = (long long)slice.first * job.S;
  const In* second = slice.second + (job.rule == Rule::weights ? slice.first : first);
  add_register_rows<weighted>(job.rule, job.vectors, slice.a + first, second, slice.last - slice.first, job.S, shared, map);
  __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent

// Sums over every slices-th position, of V columns: of a row's values x, or of what `rule` makes of them.
template <Rule rule, class In, int V>
__device__ __forceinline__ void add_positions(const In* x, long long x_step, const In* other, long long other_step, int S, int slice,
                                              int slices, const AccOf<In>* sum_a, AccOf<In>* sum, AccOf<In>* sum_other) {
#pragma unroll 4
  for (int s = slice; s < S; s += slices) {
    const Pack<In, V> values(x + s * x_step);
    if constexpr (rule == Rule::xgrad_cam) {
      const Pack<In, V> others(other + s * other_step);
#pragma unroll
      for (int e = 0; e < V; ++e) {
        sum[e] += values[e] * others[e];
        sum_other[e] += others[e];
      }
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        sum[e] += rule == Rule::grad_cam_plus_plus ? plus_plus_term(values[e], sum_a[e]) : AccOf<In>(values[e]);
      }
    }
  }
}

// w[c] for c < n <= blockDim.x * V: a thread owns V columns and every slices-th row; slices meet in `shared`
// (blockDim.x * V values). `sum_a`, n values, is used by the rules that need the activations.
template <class In, int V>
__device__ void weights_of_columns(const ChannelSumJob<In>& job, const In* a, const In* g, int n, AccOf<In>* w,
                                   AccOf<In>* sum_a, AccOf<In>* shared) {
  using T = AccOf<In>;
  const int columns = (n + V - 1) / V; // V = 1, or V divides n
  const int slices = int(blockDim.x) / columns;
  const int column = int(threadIdx.x) % columns * V, slice = int(threadIdx.x) / columns;
  const bool works = slice < slices;
  T sum[V], sum_other[V], known[V];
  const auto clear = [&] {
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] = sum_other[e] = T(0);
  };
  const auto totals = [&](const T* own, T* to) { // of the slices' sums, into to[c], c < n
    __syncthreads();
    if (works) {
#pragma unroll
      for (int e = 0; e < V; ++e) shared[slice * columns * V + column + e] = own[e];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      T total = T(0);
#pragma unroll 4
      for (int i = 0; i < slices; ++i) total += shared[i * columns * V + c];
      to[c] = total;
    }
  };
  clear();
  if (job.rule == Rule::xgrad_cam) {
    if (works) {
      add_positions<Rule::xgrad_cam, In, V>(g + column, job.s_step, a + column, job.a_step, job.S, slice, slices, nullptr, sum,
                                            sum_other);
    }
    totals(sum_other, sum_a);
  } else if (job.rule == Rule::grad_cam_plus_plus) {
    if (works) add_positions<Rule::grad_cam, In, V>(a + column, job.a_step, a, 0, job.S, slice, slices, nullptr, sum, sum_other);
    totals(sum, sum_a);
    __syncthreads();
    clear();
    if (works) {
#pragma unroll
      for (int e = 0; e < V; ++e) known[e] = sum_a[column + e];
      add_positions<Rule::grad_cam_plus_plus, In, V>(g + column, job.s_step, a, 0, job.S, slice, slices, known, sum, sum_other);
    }
  } else if (works) {
    add_positions<Rule::grad_cam, In, V>(g + column, job.s_step, a, 0, job.S, slice, slices, nullptr, sum, sum_other);
  }
  totals(sum, w);
  for (int c = threadIdx.x; c < n; c += blockDim.x) { // each what it has just written itself
    if (job.rule == Rule::grad_cam) w[c] /= T(job.S);
    if (job.rule == Rule::xgrad_cam) w[c] = xgrad_weight(w[c], sum_a[c]);
  }
  __syncthreads();
}

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

// Activations and gradients of one image, a range of channels -> that range's share of the low-resolution map, by one block.
//
//   positions adjacent (contiguous)            channels adjacent (channels_last)
//   the range is one run of n * S values:      rows of n values, one a position:
//   |c0: s s s s s|c1: s s s s s|c2: ...       s0 |c c c c c c c c|
//   a thread strides by a multiple of S,       s1 |c c c c c c c c|
//   so its positions never change: it adds     weights: threads own columns; map: a warp owns a row,
//   them up in registers, 16 bytes at a time   a dot product with the weights
//
// A range is cut into chunks: weights of a chunk first (shared memory), then its share of the map, so that rules which need
// the activations twice find them in the cache.
#pragma once

#include "block.cuh"

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

constexpr int kUnroll = 4; // channels a warp sums side by side, so that enough loads are in flight

template <class T>
__device__ __forceinline__ T element_term_of(Rule rule, T a, T g) {
  if (rule == Rule::layer_cam) return positive(g) * a;
  if (rule == Rule::grad_cam_elementwise) return positive(g * a);
  return g * a;
}

// ---------------------------------------------------------------------------------------------------------------------
// Positions adjacent

// w[c] for c < n; `a` and `g` start at the chunk's first channel. Lanes share a channel's S values: all 32, or fewer for
// small maps, so that a warp takes several channels at once.
template <class In, int V>
__device__ void weights_of_rows(Rule rule, const In* a, const In* g, int n, int S, AccOf<In>* w) {
  using T = AccOf<In>;
  int lanes = kWarp;
  while (lanes > 1 && lanes / 2 * V >= S) lanes /= 2;
  const int lane = threadIdx.x % lanes;
  const int groups = blockDim.x / lanes, group = threadIdx.x / lanes;
  // The same number of turns for every lane: all of a warp's lanes take part in its shuffles.
  const int turns = (n + groups * kUnroll - 1) / (groups * kUnroll);
  for (int turn = 0; turn < turns; ++turn) {
    const int c0 = (turn * groups + group) * kUnroll;
    T sum[kUnroll], sum_a[kUnroll];
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) sum[j] = sum_a[j] = T(0);
    if (weights_need_activations(rule)) {
      for (int s = lane * V; s < S; s += lanes * V) {
#pragma unroll
        for (int j = 0; j < kUnroll; ++j) {
          if (c0 + j >= n) continue;
          const Pack<In, V> x(a + (long long)(c0 + j) * S + s);
#pragma unroll
          for (int e = 0; e < V; ++e) sum_a[j] += x[e];
        }
      }
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) sum_a[j] = warp_sum(sum_a[j], lanes);
    }
    for (int s = lane * V; s < S; s += lanes * V) {
#pragma unroll
      for (int j = 0; j < kUnroll; ++j) {
        if (c0 + j >= n) continue;
        const long long at = (long long)(c0 + j) * S + s;
        const Pack<In, V> x(g + at);
        if (rule == Rule::xgrad_cam) {
          const Pack<In, V> y(a + at);
#pragma unroll
          for (int e = 0; e < V; ++e) sum[j] += x[e] * y[e];
        } else if (rule == Rule::grad_cam_plus_plus) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[j] += plus_plus_term(x[e], sum_a[j]);
        } else {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[j] += x[e];
        }
      }
    }
#pragma unroll
    for (int j = 0; j < kUnroll; ++j) {
      T total = warp_sum(sum[j], lanes);
      if (rule == Rule::grad_cam) total /= T(S);
      if (rule == Rule::xgrad_cam) total = xgrad_weight(total, sum_a[j]);
      if (lane == 0 && c0 + j < n) w[c0 + j] = total;
    }
  }
}

// Threads after which the positions of a flat walk in packs of V repeat: S / gcd(S, V).
__device__ __forceinline__ int flat_unit(int S, int V) {
  int divisor = S, rest = V;
  while (rest) {
    const int t = divisor % rest;
    divisor = rest;
    rest = t;
  }
  return S / divisor;
}

// Flat walk over n * S values, for maps of which a block covers at least one: thread t holds positions (t * V + e) % S.
// Partial sums of the threads that share positions meet in `shared` (blockDim.x * V values) and go into `map`.
template <bool weighted, class In, int V>
__device__ void add_flat(Rule rule, const In* a, const In* g, const AccOf<In>* w, int n, int S, AccOf<In>* shared,
                         AccOf<In>* map) {
  using T = AccOf<In>;
  const int unit = flat_unit(S, V);
  const int active = int(blockDim.x) / unit * unit;
  const int step = active * V, channels_a_step = step / S; // a whole number of channels
  const int total = n * S;
  T sum[V];
  int channel[V];
#pragma unroll
  for (int e = 0; e < V; ++e) {
    sum[e] = T(0);
    channel[e] = (int(threadIdx.x) * V + e) / S;
  }
  if (int(threadIdx.x) < active) {
#pragma unroll 4
    for (int at = threadIdx.x * V, c = 0; at < total; at += step, c += channels_a_step) {
      if (at + V <= total) {
        const Pack<In, V> x(a + at);
        if (weighted) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] += x[e] * w[c + channel[e]];
        } else {
          const Pack<In, V> y(g + at);
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] += element_term_of<T>(rule, x[e], y[e]);
        }
      } else {
#pragma unroll
        for (int e = 0; e < V; ++e) {
          if (at + e < total) {
            const T x = widen(a[at + e]);
            sum[e] += weighted ? x * w[c + channel[e]] : element_term_of<T>(rule, x, widen(g[at + e]));
          }
        }
      }
    }
  }
  __syncthreads(); // the previous use of `shared` is over
#pragma unroll
  for (int e = 0; e < V; ++e) shared[threadIdx.x * V + e] = sum[e];
  __syncthreads();
  const int held = active * V; // `shared` is now held / S copies of the map
  for (int s = threadIdx.x; s < S; s += blockDim.x) {
    T value = map[s];
    for (int i = s; i < held; i += S) value += shared[i];
    map[s] = value;
  }
}

// Row by row, for maps larger than a block: a thread owns positions and walks over the channels. V divides S.
template <bool weighted, class In, int V>
__device__ void add_rows(Rule rule, const In* a, const In* g, const AccOf<In>* w, int n, int S, AccOf<In>* map) {
  using T = AccOf<In>;
  for (int s = threadIdx.x * V; s < S; s += blockDim.x * V) {
    T sum[V];
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] = T(0);
#pragma unroll 4
    for (int c = 0; c < n; ++c) {
      const Pack<In, V> x(a + (long long)c * S + s);
      if (weighted) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += x[e] * w[c];
      } else {
        const Pack<In, V> y(g + (long long)c * S + s);
#pragma unroll
        for (int e = 0; e < V; ++e) sum[e] += element_term_of<T>(rule, x[e], y[e]);
      }
    }
#pragma unroll
    for (int e = 0; e < V; ++e) map[s + e] += sum[e];
  }
}

template <bool weighted, class In>
__device__ void sum_positions_adjacent(const ChannelSumJob<In>& job, const Slice<In>& slice, AccOf<In>* w, AccOf<In>* shared,
                                       AccOf<In>* map) {
  constexpr int V = kVector<In>;
  const int S = job.S;
  for (int c0 = slice.first; c0 < slice.last; c0 += job.chunk) {
    const int n = slice.last - c0 < job.chunk ? slice.last - c0 : job.chunk;
    const In* a = slice.a + (long long)c0 * S;
    const In* g = job.rule == Rule::weights ? slice.second : slice.second + (long long)c0 * S;
    if (weighted) {
      __syncthreads(); // the previous chunk is done with w
      if (job.rule == Rule::weights) {
        for (int c = threadIdx.x; c < n; c += blockDim.x) w[c] = widen(slice.second[c0 + c]);
      } else if (job.vectors && S % V == 0) {
        weights_of_rows<In, V>(job.rule, a, g, n, S, w);
      } else {
        weights_of_rows<In, 1>(job.rule, a, g, n, S, w);
      }
      __syncthreads();
    }
    if (job.vectors && flat_unit(S, V) <= int(blockDim.x)) {
      add_flat<weighted, In, V>(job.rule, a, g, w, n, S, shared, map);
    } else if (S <= int(blockDim.x)) {
      add_flat<weighted, In, 1>(job.rule, a, g, w, n, S, shared, map);
    } else if (job.vectors && S % V == 0) {
      add_rows<weighted, In, V>(job.rule, a, g, w, n, S, map);
    } else {
      add_rows<weighted, In, 1>(job.rule, a, g, w, n, S, map);
    }
  }
  __syncthreads();
}

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent

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
  const bool both = weights_need_activations(job.rule);
  for (int pass = both ? 0 : 1; pass < 2; ++pass) { // pass 0: sums of activations; pass 1: the weights
    T sum[V];
#pragma unroll
    for (int e = 0; e < V; ++e) sum[e] = T(0);
    if (works) {
#pragma unroll 4
      for (int s = slice; s < job.S; s += slices) {
        const Pack<In, V> x(pass == 0 ? a + s * job.a_step + column : g + s * job.s_step + column);
        if (pass == 1 && job.rule == Rule::grad_cam_plus_plus) {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] += plus_plus_term(x[e], sum_a[column + e]);
        } else if (pass == 1 && job.rule == Rule::xgrad_cam) {
          const Pack<In, V> y(a + s * job.a_step + column);
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] += x[e] * y[e];
        } else {
#pragma unroll
          for (int e = 0; e < V; ++e) sum[e] += x[e];
        }
      }
    }
    __syncthreads();
    if (works) {
#pragma unroll
      for (int e = 0; e < V; ++e) shared[slice * columns * V + column + e] = sum[e];
    }
    __syncthreads();
    for (int c = threadIdx.x; c < n; c += blockDim.x) {
      T total = T(0);
      for (int i = 0; i < slices; ++i) total += shared[i * columns * V + c];
      if (pass == 0) {
        sum_a[c] = total;
      } else {
        if (job.rule == Rule::grad_cam) total /= T(job.S);
        if (job.rule == Rule::xgrad_cam) total = xgrad_weight(total, sum_a[c]);
        w[c] = total;
      }
    }
    __syncthreads();
  }
}

// A warp owns a position: the dot product of its n channels with w, or the sum of their element-wise terms.
template <bool weighted, class In, int V>
__device__ void add_columns(const ChannelSumJob<In>& job, const In* a, const In* g, const AccOf<In>* w, int n, AccOf<In>* map) {
  using T = AccOf<In>;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  for (int s = warp; s < job.S; s += warps) {
    const In* row = a + s * job.a_step;
    const In* other = g + s * job.s_step;
    T sum = T(0);
#pragma unroll 4
    for (int c = lane * V; c < n; c += kWarp * V) { // V = 1, or V divides n
      const Pack<In, V> x(row + c);
      if (weighted) {
#pragma unroll
        for (int e = 0; e < V; ++e) sum += x[e] * w[c + e];
      } else {
        const Pack<In, V> y(other + c);
#pragma unroll
        for (int e = 0; e < V; ++e) sum += element_term_of<T>(job.rule, x[e], y[e]);
      }
    }
    sum = warp_sum(sum);
    if (lane == 0) map[s] += sum;
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

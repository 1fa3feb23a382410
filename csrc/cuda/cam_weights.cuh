// The weights of channels under every rule, three ways, as a call is laid out:
//
//   row_weights          a channel's row of positions lies in a team's registers   (cam_rows.cuh)
//   weights_of_columns   channels are adjacent: threads own columns                (cam_columns.cuh)
//   large_weight         maps too large for either: a block per channel            (cam_large.cuh)
#pragma once

#include "block.cuh"
#include "cam.h"

namespace camfast::cuda {

// One block's part of a call: the activations and gradients that it sums.
template <class In>
struct ChannelSumJob {
  const In* activations;
  const In* second; // gradients, or weights
  Rule rule;
  int C, S;
  int chunk;                            // channels at a time, a multiple of the vector
  bool vectors;                         // 16-byte loads: every address and stride allows them
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

// Element (c, s) of image n at n * image + c * channel + s * position.
struct LargeStrides {
  long long image, target, channel, position;
};

template <class In>
struct LargeJob {
  const In* activations;
  const In* second;
  Rule rule;
  int K, C, S;
  int maps_count;
  LargeStrides a, g;
  AccOf<In>* weights; // [maps, C]
  AccOf<In>* maps;    // [maps, S], raw
};

// ---------------------------------------------------------------------------------------------------------------------
// Rows in registers

// The sums of x[0], ..., x[U - 1] over a team, in every thread of it. `exchange`: 2 * U * kMaxWarps values, used in turns.
template <bool whole_block, int U, class T>
__device__ __forceinline__ void team_sums(T* x, int lanes, T* exchange, int* turn) {
#pragma unroll
  for (int j = 0; j < U; ++j) x[j] = warp_sum(x[j], whole_block ? kWarp : lanes);
  if (!whole_block) return;
  T* own = exchange + (*turn & 1) * U * kMaxWarps; // of the turn before last, all have read by now
  ++*turn;
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  if (lane == 0) {
#pragma unroll
    for (int j = 0; j < U; ++j) own[j * kMaxWarps + warp] = x[j];
  }
  __syncthreads();
#pragma unroll
  for (int j = 0; j < U; ++j) x[j] = warp_sum(lane < warps ? own[j * kMaxWarps + lane] : T(0));
}

// The weights of U channels whose rows, P packs of V values, lie in registers; what is beyond a row is zero in both.
template <bool whole_block, int U, int N, class T>
__device__ __forceinline__ void row_weights(Rule rule, const T (*a)[N], const T (*g)[N], int S, int lanes, T* exchange, int* turn,
                                            T* w) {
  // A loop for each rule: a branch inside would be one for each element.
  T sum_a[U];
#pragma unroll
  for (int j = 0; j < U; ++j) w[j] = sum_a[j] = T(0);
  if (weights_need_activations(rule)) {
#pragma unroll
    for (int j = 0; j < U; ++j) {
#pragma unroll
      for (int i = 0; i < N; ++i) sum_a[j] += a[j][i];
    }
    team_sums<whole_block, U>(sum_a, lanes, exchange, turn);
  }
  if (rule == Rule::xgrad_cam) {
#pragma unroll
    for (int j = 0; j < U; ++j) {
#pragma unroll
      for (int i = 0; i < N; ++i) w[j] += g[j][i] * a[j][i];
    }
  } else if (rule == Rule::grad_cam_plus_plus) {
#pragma unroll
    for (int j = 0; j < U; ++j) {
#pragma unroll
      for (int i = 0; i < N; ++i) w[j] += plus_plus_term(g[j][i], sum_a[j]);
    }
  } else {
#pragma unroll
    for (int j = 0; j < U; ++j) {
#pragma unroll
      for (int i = 0; i < N; ++i) w[j] += g[j][i];
    }
  }
  team_sums<whole_block, U>(w, lanes, exchange, turn);
#pragma unroll
  for (int j = 0; j < U; ++j) {
    if (rule == Rule::grad_cam) w[j] /= T(S);
    if (rule == Rule::xgrad_cam) w[j] = xgrad_weight(w[j], sum_a[j]);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent

// Sums over every slices-th position, of V columns: of a row's values x, or of what `rule` makes of them.
template <Rule rule, class In, int V>
__device__ __forceinline__ void add_positions(const In* x, long long x_step, const In* other, long long other_step, int S,
                                              int slice, int slices, const AccOf<In>* sum_a, AccOf<In>* sum, AccOf<In>* sum_other) {
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
__device__ void weights_of_columns(const ChannelSumJob<In>& job, const In* a, const In* g, int n, AccOf<In>* w, AccOf<In>* sum_a,
                                   AccOf<In>* shared) {
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

// ---------------------------------------------------------------------------------------------------------------------
// Large maps

// The weight of channel blockIdx.x, by one block.
template <class In>
__device__ void large_weight(const LargeJob<In>& job, int m, AccOf<In>* shared) {
  using T = AccOf<In>;
  const int c = blockIdx.x, n = m / job.K, k = m % job.K;
  const In* a = job.activations + n * job.a.image + c * job.a.channel;
  const In* g = job.second + n * job.g.image + k * job.g.target + c * job.g.channel;
  const auto block_sum = [&](T x) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    T total = T(0);
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w) total += shared[w];
    return total;
  };
  T sum_a = T(0), sum = T(0);
  if (weights_need_activations(job.rule)) {
    for (int s = threadIdx.x; s < job.S; s += blockDim.x) sum_a += widen(a[s * job.a.position]);
    sum_a = block_sum(sum_a);
  }
  for (int s = threadIdx.x; s < job.S; s += blockDim.x) {
    const T value = widen(g[s * job.g.position]);
    if (job.rule == Rule::grad_cam) sum += value;
    if (job.rule == Rule::xgrad_cam) sum += value * widen(a[s * job.a.position]);
    if (job.rule == Rule::grad_cam_plus_plus) sum += plus_plus_term(value, sum_a);
  }
  sum = block_sum(sum);
  if (job.rule == Rule::grad_cam) sum /= T(job.S);
  if (job.rule == Rule::xgrad_cam) sum = xgrad_weight(sum, sum_a);
  if (threadIdx.x == 0) job.weights[(long long)m * job.C + c] = sum;
}

} // namespace camfast::cuda

// Rows of positions that fit in registers: a team of threads holds a channel's activations and gradients at once, so that both
// are loaded once, side by side, and a weight is a sum over the team.
//
//   team of up to a warp           c0: |p p p p|p p p p|...   U channels a turn; p: a pack of V values, P of them a thread
//   (map of up to 256 positions)   c1: |p p p p|...           no barrier: weights are summed by shuffles
//
//   team of all the block          the same for larger maps: the weights of a turn's channels meet in shared memory, at one
//   (up to 8 values a thread)      barrier for all of them
//
// Every rule is one visit, also those whose weights need the activations.
#pragma once

#include "cam_weights.cuh"

namespace camfast::cuda {

// element_term of math/cam.h for a rule known at run time: bounds instead of a branch for each element. Without a bound, minus
// infinity; NaN passes both.
template <class T>
struct ElementTerm {
  T least_gradient, least_product;

  __device__ __forceinline__ explicit ElementTerm(Rule rule) {
    const T none = -T(__builtin_huge_val());
    least_gradient = rule == Rule::layer_cam ? T(0) : none;
    least_product = rule == Rule::grad_cam_elementwise ? T(0) : none;
  }
  __device__ __forceinline__ T operator()(T a, T g) const {
    const T product = (g < least_gradient ? g * T(-0.0) : g) * a; // cut off as positive() does
    return product < least_product ? product * T(-0.0) : product;
  }
};

// What a thread holds of the rows of U channels from `rows` on, `own` of them real; zero beyond them and beyond S.
template <int U, int V, int P, class In, class T>
__device__ __forceinline__ void load_rows(const In* rows, int own, int S, int lane, int lanes, T (*to)[P * V]) {
#pragma unroll
  for (int j = 0; j < U; ++j) {
#pragma unroll
    for (int p = 0; p < P; ++p) {
      const int s = (p * lanes + lane) * V;
      if (j < own && s < S) {
        const Pack<In, V> x(rows + (j * S + s));
#pragma unroll
        for (int e = 0; e < V; ++e) to[j][p * V + e] = x[e];
      } else {
#pragma unroll
        for (int e = 0; e < V; ++e) to[j][p * V + e] = T(0);
      }
    }
  }
}

// Adds the rows of n channels to `map` (S values): `a` and `g` (for Rule::weights, the weights) start at the first one. V divides
// S, and a team's P * V * lanes values hold a row. `shared`: as CamShared has it for `threads`.
template <bool weighted, bool whole_block, int V, int P, class In>
__device__ void add_rows(Rule rule, const In* a, const In* g, int n, int S, int lanes, AccOf<In>* shared, AccOf<In>* map) {
  using T = AccOf<In>;
  constexpr int N = P * V;
  constexpr int U = N >= kRowValues ? 1 : kRowValues / N; // channels a turn
  const int lane = threadIdx.x % lanes, team = threadIdx.x / lanes, teams = blockDim.x / lanes;
  const ElementTerm<T> term(rule);
  T sum[N];
#pragma unroll
  for (int i = 0; i < N; ++i) sum[i] = T(0);
  int exchanged = 0;
  const int turns = (n + teams * U - 1) / (teams * U); // the same for all: they meet in shuffles and barriers
#pragma unroll 1
  for (int turn = 0; turn < turns; ++turn) {
    const int c = (turn * teams + team) * U, own = n - c;
    T x[U][N], y[U][N];
    load_rows<U, V, P>(a + c * S, own, S, lane, lanes, x);
    if (!weighted || rule != Rule::weights) load_rows<U, V, P>(g + c * S, own, S, lane, lanes, y);
    if (weighted) {
      T w[U];
      if (rule == Rule::weights) {
#pragma unroll
        for (int j = 0; j < U; ++j) w[j] = j < own ? widen(g[c + j]) : T(0);
      } else {
        row_weights<whole_block, U, N>(rule, x, y, S, lanes, shared, &exchanged, w);
      }
#pragma unroll
      for (int j = 0; j < U; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += x[j][i] * w[j];
      }
    } else {
#pragma unroll
      for (int j = 0; j < U; ++j) {
#pragma unroll
        for (int i = 0; i < N; ++i) sum[i] += term(x[j][i], y[j][i]);
      }
    }
  }
#pragma unroll
  for (int p = 0; p < P; ++p) {
    const int first = p * lanes * V; // positions [first, first + lanes * V): each team has summed its own channels'
    if (whole_block) {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        if (first + lane * V + e < S) map[first + lane * V + e] += sum[p * V + e];
      }
    } else {
      __syncthreads(); // the previous use of `shared` is over
#pragma unroll
      for (int e = 0; e < V; ++e) shared[threadIdx.x * V + e] = sum[p * V + e];
      __syncthreads();
      const int held = S - first < lanes * V ? S - first : lanes * V;
      for (int s = threadIdx.x; s < held; s += blockDim.x) {
        T value = map[first + s];
#pragma unroll 8
        for (int i = 0; i < teams; ++i) value += shared[i * lanes * V + s];
        map[first + s] = value;
      }
    }
  }
}

// The smallest power of two of lanes whose packs of V hold S values in P steps, at most a warp.
__device__ __forceinline__ int team_lanes(int S, int V, int P) {
  int lanes = kWarp;
  while (lanes > 1 && lanes / 2 * V * P >= S) lanes /= 2;
  return lanes;
}

// Adds the rows of n channels to `map`, of S <= kRowValues * blockDim.x values. With `vectors`, addresses allow loads of 16 bytes.
template <bool weighted, class In>
__device__ void add_register_rows(Rule rule, bool vectors, const In* a, const In* g, int n, int S, AccOf<In>* shared,
                                  AccOf<In>* map) {
  constexpr int V = kVector<In>, P = kRowValues / V; // steps of the widest row
  const int block = blockDim.x;
  if (vectors && S % V == 0) {
    if (S <= kWarp * V) {
      add_rows<weighted, false, V, 1>(rule, a, g, n, S, team_lanes(S, V, 1), shared, map);
    } else if (S <= kWarp * V * P) {
      add_rows<weighted, false, V, P>(rule, a, g, n, S, kWarp, shared, map);
    } else if (S <= block * V) {
      add_rows<weighted, true, V, 1>(rule, a, g, n, S, block, shared, map);
    } else {
      add_rows<weighted, true, V, P>(rule, a, g, n, S, block, shared, map);
    }
  } else if (S <= kWarp * 2) {
    add_rows<weighted, false, 1, 2>(rule, a, g, n, S, team_lanes(S, 1, 2), shared, map);
  } else if (S <= kWarp * kRowValues) {
    add_rows<weighted, false, 1, kRowValues>(rule, a, g, n, S, kWarp, shared, map);
  } else if (S <= block * 2) {
    add_rows<weighted, true, 1, 2>(rule, a, g, n, S, block, shared, map);
  } else {
    add_rows<weighted, true, 1, kRowValues>(rule, a, g, n, S, block, shared, map);
  }
}

// The share of a slice, by one block.
template <bool weighted, class In>
__device__ void sum_positions_adjacent(const ChannelSumJob<In>& job, const Slice<In>& slice, AccOf<In>* shared, AccOf<In>* map) {
  const long long first = (long long)slice.first * job.S;
  const In* second = slice.second + (job.rule == Rule::weights ? slice.first : first);
  add_register_rows<weighted>(job.rule, job.vectors, slice.a + first, second, slice.last - slice.first, job.S, shared, map);
  __syncthreads();
}

} // namespace camfast::cuda

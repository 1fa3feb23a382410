// The weights of channels under every rule: a sum along a channel's row where positions are adjacent, sums down the columns
// where channels are.
#pragma once

#include "../cam.h"
#include "simd.h"

namespace camfast {

// The formulas of math/cam.h, lane by lane.
template <class T, int W>
CAMFAST_INLINE Vec<T, W> positive_lanes(Vec<T, W> x) {
  const Vec<T, W> zero{};
  return choose<T, W>(x < zero, x * T(-0.0), x);
}

// `sum_a`: of each lane's channel, or of the one channel that all lanes belong to.
template <class T, int W, class Sum>
CAMFAST_INLINE Vec<T, W> plus_plus_lanes(Vec<T, W> g, Sum sum_a) {
  const Vec<T, W> zero{}, g2 = g * g;
  const Vec<T, W> alpha = g2 / (g2 * T(2) + (g2 * g) * sum_a + T(kPlusPlusEps));
  return choose<T, W>(g <= zero, g * T(-0.0), g * alpha);
}

template <Rule rule, class T, int W>
CAMFAST_INLINE Vec<T, W> element_lanes(Vec<T, W> a, Vec<T, W> g) {
  if constexpr (rule == Rule::layer_cam) return positive_lanes<T, W>(g) * a;
  if constexpr (rule == Rule::grad_cam_elementwise) return positive_lanes<T, W>(g * a);
  return g * a;
}

// One piece of work: channels [0, C) behind the two pointers, added up into `map`.
template <class In>
struct Piece {
  using T = AccOf<In>;
  const In* a;      // activations
  const In* second; // gradients, or one weight per channel
  int64_t C, S;
  int64_t a_step, s_step; // between channels (positions adjacent) or between positions (channels adjacent)
  T* scratch;             // piece_scratch() values
  T* map;                 // [S], overwritten
  // Channels adjacent: what writes the weights of n channels from c0 on (ColumnWeights).
  void (*weights)(const Piece& piece, const int64_t& c0, const int64_t& n, T* const& w, T* const& sum_a);
};

// ---------------------------------------------------------------------------------------------------------------------
// Positions adjacent. A run of S is walked in full vectors and one last vector that ends at S, in which the lanes already
// seen are masked out: no scalar tail (7x7 = 49 = 6 * 8 + 1).

// Where the vectors of a run start, and which lanes of the last one count.
template <class T, int W>
struct Lanes {
  int64_t full, last;
  Vec<IntOf<T>, W> mask;
  CAMFAST_INLINE explicit Lanes(int64_t S) : full(S / W), last(S - W) {
    for (int l = 0; l < W; ++l) mask[l] = last + l >= full * W ? -1 : 0;
  }
  CAMFAST_INLINE bool has_tail() const { return last > (full - 1) * W; }
};

template <class In, int W, class T = AccOf<In>>
CAMFAST_INLINE T sum_row(const In* x, const Lanes<T, W>& lanes) {
  Vec<T, W> even{}, odd{};
  int64_t v = 0;
  for (; v + 1 < lanes.full; v += 2) {
    even += load<T, W>(x + v * W);
    odd += load<T, W>(x + v * W + W);
  }
  if (v < lanes.full) even += load<T, W>(x + v * W);
  if (lanes.has_tail()) odd += masked<T, W>(load<T, W>(x + lanes.last), lanes.mask);
  return horizontal_sum<T, W>(even + odd);
}

template <class In, int W, class T = AccOf<In>>
CAMFAST_INLINE T sum_products(const In* x, const In* y, const Lanes<T, W>& lanes) {
  Vec<T, W> total{};
  for (int64_t v = 0; v < lanes.full; ++v) total += load<T, W>(x + v * W) * load<T, W>(y + v * W);
  if (lanes.has_tail()) {
    total += masked<T, W>(load<T, W>(x + lanes.last) * load<T, W>(y + lanes.last), lanes.mask);
  }
  return horizontal_sum<T, W>(total);
}

template <class In, int W, class T = AccOf<In>>
CAMFAST_INLINE T sum_plus_plus(const In* g, T sum_a, const Lanes<T, W>& lanes) {
  Vec<T, W> total{};
  for (int64_t v = 0; v < lanes.full; ++v) total += plus_plus_lanes<T, W>(load<T, W>(g + v * W), sum_a);
  if (lanes.has_tail()) {
    total += masked<T, W>(plus_plus_lanes<T, W>(load<T, W>(g + lanes.last), sum_a), lanes.mask);
  }
  return horizontal_sum<T, W>(total);
}

// The weight of channel c.
template <Rule rule, class In, int W, class T = AccOf<In>>
CAMFAST_INLINE T row_weight(const Piece<In>& p, int64_t c, const Lanes<T, W>& lanes) {
  if constexpr (rule == Rule::weights) return widen<T>(p.second[c]);
  const In* a = p.a + c * p.a_step;
  const In* g = p.second + c * p.s_step;
  if constexpr (rule == Rule::grad_cam) return sum_row<In, W>(g, lanes) / T(p.S);
  if constexpr (rule == Rule::xgrad_cam) return xgrad_weight(sum_products<In, W>(g, a, lanes), sum_row<In, W>(a, lanes));
  if constexpr (rule == Rule::grad_cam_plus_plus) return sum_plus_plus<In, W>(g, sum_row<In, W>(a, lanes), lanes);
  return T(0);
}

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent

template <Rule rule, class In, int W, class T = AccOf<In>>
CAMFAST_INLINE Vec<T, W> weight_term(const In* g, const In* a, const T* sum_a) {
  const Vec<T, W> gv = load<T, W>(g);
  if constexpr (rule == Rule::xgrad_cam) return gv * load<T, W>(a);
  if constexpr (rule == Rule::grad_cam_plus_plus) return plus_plus_lanes<T, W>(gv, load<T, W>(sum_a));
  return gv;
}

// The weights of n channels from c0 on, and where the rule needs them the sums of their activations.
template <class In, Rule rule>
struct ColumnWeights {
  using T = AccOf<In>;
  using Scalar = T;
  template <int bytes>
  static CAMFAST_INLINE void run(const Piece<In>& p, const int64_t& c0, const int64_t& n, T* const& w, T* const& sum_a) {
    // By value: behind a reference everything would be read again after each store.
    compute<bytes / sizeof(T)>(p.a + c0, p.second + c0, {p.S, n, p.a_step, p.s_step}, w, sum_a);
  }

 private:
  struct Walk {
    int64_t S, n, a_step, s_step;
  };

  template <int W>
  static CAMFAST_INLINE void compute(const In* first_a, const In* first_s, const Walk walk, T* w, T* sum_a) {
    const int64_t n = walk.n;
    if constexpr (rule == Rule::weights) {
      for (int64_t c = 0; c < n; ++c) w[c] = widen<T>(first_s[c]);
    } else {
      for (int64_t c = 0; c < n; ++c) w[c] = sum_a[c] = T(0);
      if constexpr (weights_need_activations(rule)) {
        for (int64_t s = 0; s < walk.S; ++s) {
          const In* a = first_a + s * walk.a_step;
          int64_t c = 0;
          for (; c + W <= n; c += W) store(sum_a + c, load<T, W>(sum_a + c) + load<T, W>(a + c));
          for (; c < n; ++c) sum_a[c] += widen<T>(a[c]);
        }
      }
      for (int64_t s = 0; s < walk.S; ++s) {
        const In* a = first_a + s * walk.a_step;
        const In* g = first_s + s * walk.s_step;
        int64_t c = 0;
        for (; c + W <= n; c += W) store(w + c, load<T, W>(w + c) + weight_term<rule, In, W>(g + c, a + c, sum_a + c));
        for (; c < n; ++c) w[c] += weight_term<rule, In, 1>(g + c, a + c, sum_a + c)[0];
      }
      for (int64_t c = 0; c < n; ++c) {
        if constexpr (rule == Rule::grad_cam) w[c] /= T(walk.S);
        if constexpr (rule == Rule::xgrad_cam) w[c] = xgrad_weight(w[c], sum_a[c]);
      }
    }
  }
};

} // namespace camfast

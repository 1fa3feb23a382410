// Activations and gradients of one image, a range of channels -> its share of the low-resolution map [S].
//
//   positions adjacent                       channels adjacent (channels_last)
//   c0 |s s s s s s s|  a run of S values    s0 |c c c c c c c c c|
//   c1 |s s s s s s s|                       s1 |c c c c c c c c c|
//   w_c: sum along the run                   w_c: sum down the columns
//   map: add w_c * run, lane by lane         map: dot product of a row with w
//
// Each input is read once from memory; where a rule visits activations twice, the second visit finds them in the cache.
#pragma once

#include "../tensor.h"
#include "simd.h"

namespace camfast {

template <class In>
using AccOf = std::conditional_t<std::is_same_v<In, double>, double, float>;

// One piece of work: channels [0, C) behind the two pointers, added up into `map`.
template <class In>
struct Piece {
  using T = AccOf<In>;
  const In* a;      // activations
  const In* second; // gradients, or one weight a channel
  int64_t C, S;
  int64_t a_step, s_step; // between channels (positions adjacent) or between positions (channels adjacent)
  T* scratch;             // piece_scratch() values
  T* map;                 // [S], overwritten
};

constexpr int64_t kMaxLanes = kAvx512Bytes / 4;
constexpr int64_t kChannelBlock = 2048; // channels_last: columns at a time; their sums stay in the first-level cache
// Positions adjacent: channels that one running sum takes in before it is added to the total. One chain of all channels was
// off two to four times as much (256 to 2048 positive terms), since each addition rounds at the size of what came before.
constexpr int64_t kChannelsASum = 128;

inline int64_t piece_scratch(Layout layout, int64_t S) {
  return layout == Layout::positions_adjacent ? 2 * (S + 2 * kMaxLanes) : 2 * kChannelBlock;
}

// ---------------------------------------------------------------------------------------------------------------------
// Positions adjacent. A run of S is walked in full vectors and one last vector that ends at S, in which the lanes already
// seen are masked out: no scalar tail (7x7 = 49 = 6 * 8 + 1). Maps smaller than a vector take the width-1 instance.

template <class In, Rule rule>
struct SumPositionsAdjacent {
  using T = AccOf<In>;

  // Where the vectors of a run start, and which lanes of the last one count.
  template <int W>
  struct Lanes {
    int64_t full, last;
    Vec<IntOf<T>, W> mask;
    CAMFAST_INLINE explicit Lanes(int64_t S) : full(S / W), last(S - W) {
      for (int l = 0; l < W; ++l) mask[l] = last + l >= full * W ? -1 : 0;
    }
    CAMFAST_INLINE bool has_tail() const { return last > (full - 1) * W; }
  };

  template <int W>
  static CAMFAST_INLINE T sum(const In* x, const Lanes<W>& lanes) {
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

  template <int W>
  static CAMFAST_INLINE T sum_products(const In* x, const In* y, const Lanes<W>& lanes) {
    Vec<T, W> total{};
    for (int64_t v = 0; v < lanes.full; ++v) total += load<T, W>(x + v * W) * load<T, W>(y + v * W);
    if (lanes.has_tail()) {
      total += masked<T, W>(load<T, W>(x + lanes.last) * load<T, W>(y + lanes.last), lanes.mask);
    }
    return horizontal_sum<T, W>(total);
  }

  template <int W>
  static CAMFAST_INLINE T sum_plus_plus(const In* g, T sum_a, const Lanes<W>& lanes) {
    Vec<T, W> total{};
    for (int64_t v = 0; v < lanes.full; ++v) total += plus_plus_lanes<T, W>(load<T, W>(g + v * W), sum_a);
    if (lanes.has_tail()) {
      total += masked<T, W>(plus_plus_lanes<T, W>(load<T, W>(g + lanes.last), sum_a), lanes.mask);
    }
    return horizontal_sum<T, W>(total);
  }

  template <int W>
  static CAMFAST_INLINE T weight(const Piece<In>& p, int64_t c, const Lanes<W>& lanes) {
    if constexpr (rule == Rule::weights) return widen<T>(p.second[c]);
    const In* a = p.a + c * p.a_step;
    const In* g = p.second + c * p.s_step;
    if constexpr (rule == Rule::grad_cam) return sum<W>(g, lanes) / T(p.S);
    if constexpr (rule == Rule::xgrad_cam) return xgrad_weight(sum_products<W>(g, a, lanes), sum<W>(a, lanes));
    if constexpr (rule == Rule::grad_cam_plus_plus) return sum_plus_plus<W>(g, sum<W>(a, lanes), lanes);
    return T(0);
  }

  // Adds `count` channels from `c` on, lane by lane; the last vector's lanes gather in a place of their own. The first ones
  // of a sum overwrite what was there.
  template <int W, int count, bool first = false>
  static CAMFAST_INLINE void add_channels(const Piece<In>& p, int64_t c, const Lanes<W>& lanes, T* acc) {
    T w[count];
    if constexpr (has_weights(rule)) {
      for (int i = 0; i < count; ++i) w[i] = weight<W>(p, c + i, lanes);
    }
    const In* a = p.a + c * p.a_step;
    const In* g = p.second + c * p.s_step;
    const auto terms = [&](int64_t at) __attribute__((always_inline)) {
      Vec<T, W> v{};
      for (int i = 0; i < count; ++i) {
        const Vec<T, W> x = load<T, W>(a + i * p.a_step + at);
        if constexpr (has_weights(rule)) {
          v += x * w[i];
        } else {
          v += element_lanes<rule, T, W>(x, load<T, W>(g + i * p.s_step + at));
        }
      }
      return v;
    };
    for (int64_t v = 0; v < lanes.full; ++v) {
      T* to = acc + v * W;
      store(to, first ? terms(v * W) : load<T, W>(to) + terms(v * W));
    }
    if (lanes.has_tail()) {
      T* to = acc + lanes.full * W;
      const Vec<T, W> tail = masked<T, W>(terms(lanes.last), lanes.mask);
      store(to, first ? tail : load<T, W>(to) + tail);
    }
  }

  template <int W>
  static CAMFAST_INLINE void sum_all(const Piece<In>& p) {
    const Lanes<W> lanes(p.S);
    const int64_t used = lanes.full * W + W;
    T* total = p.scratch;
    T* acc = total + used;
    for (int64_t i = 0; i < 2 * used; ++i) total[i] = T(0);
    for (int64_t c = 0; c < p.C;) {
      const int64_t end = std::min(c + kChannelsASum, p.C);
      if (c + 4 <= end) {
        add_channels<W, 4, true>(p, c, lanes, acc);
        c += 4;
      } else {
        add_channels<W, 1, true>(p, c++, lanes, acc);
      }
      for (; c + 4 <= end; c += 4) add_channels<W, 4>(p, c, lanes, acc);
      for (; c < end; ++c) add_channels<W, 1>(p, c, lanes, acc);
      for (int64_t i = 0; i < used; ++i) total[i] += acc[i];
    }
    for (int64_t s = 0; s < lanes.full * W; ++s) p.map[s] = total[s];
    for (int64_t s = lanes.full * W; s < p.S; ++s) p.map[s] = total[lanes.full * W + (s - lanes.last)];
  }

  template <int bytes>
  static CAMFAST_INLINE void run(const Piece<In>& p) {
    constexpr int W = bytes / sizeof(T);
    if (p.S >= W) {
      sum_all<W>(p);
    } else {
      sum_all<1>(p);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent: sums of columns, then one dot product a position.

template <class In, Rule rule>
struct SumChannelsAdjacent {
  using T = AccOf<In>;

  template <int W>
  static CAMFAST_INLINE void weights(const Piece<In>& p, int64_t c0, int64_t n, T* w, T* sum_a) {
    if constexpr (rule == Rule::weights) {
      for (int64_t c = 0; c < n; ++c) w[c] = widen<T>(p.second[c0 + c]);
    } else {
      for (int64_t c = 0; c < n; ++c) w[c] = sum_a[c] = T(0);
      if constexpr (weights_need_activations(rule)) {
        for (int64_t s = 0; s < p.S; ++s) {
          const In* a = p.a + c0 + s * p.a_step;
          int64_t c = 0;
          for (; c + W <= n; c += W) store(sum_a + c, load<T, W>(sum_a + c) + load<T, W>(a + c));
          for (; c < n; ++c) sum_a[c] += widen<T>(a[c]);
        }
      }
      for (int64_t s = 0; s < p.S; ++s) {
        const In* a = p.a + c0 + s * p.a_step;
        const In* g = p.second + c0 + s * p.s_step;
        int64_t c = 0;
        for (; c + W <= n; c += W) store(w + c, load<T, W>(w + c) + weight_term<W>(g + c, a + c, sum_a + c));
        for (; c < n; ++c) w[c] += weight_term<1>(g + c, a + c, sum_a + c)[0];
      }
      for (int64_t c = 0; c < n; ++c) {
        if constexpr (rule == Rule::grad_cam) w[c] /= T(p.S);
        if constexpr (rule == Rule::xgrad_cam) w[c] = xgrad_weight(w[c], sum_a[c]);
      }
    }
  }

  template <int W>
  static CAMFAST_INLINE Vec<T, W> weight_term(const In* g, const In* a, const T* sum_a) {
    const Vec<T, W> gv = load<T, W>(g);
    if constexpr (rule == Rule::xgrad_cam) return gv * load<T, W>(a);
    if constexpr (rule == Rule::grad_cam_plus_plus) {
      const Vec<T, W> zero{}, g2 = gv * gv;
      const Vec<T, W> alpha = g2 / (g2 * T(2) + (g2 * gv) * load<T, W>(sum_a) + T(kPlusPlusEps));
      return choose<T, W>(gv <= zero, zero, gv * alpha);
    }
    return gv;
  }

  template <int W>
  static CAMFAST_INLINE Vec<T, W> term(const In* a, const In* g, const T* w) {
    if constexpr (has_weights(rule)) {
      return load<T, W>(a) * load<T, W>(w);
    } else {
      return element_lanes<rule, T, W>(load<T, W>(a), load<T, W>(g));
    }
  }

  template <int bytes>
  static CAMFAST_INLINE void run(const Piece<In>& p) {
    constexpr int W = bytes / sizeof(T);
    T* w = p.scratch;
    T* sum_a = w + kChannelBlock;
    for (int64_t s = 0; s < p.S; ++s) p.map[s] = T(0);
    for (int64_t c0 = 0; c0 < p.C; c0 += kChannelBlock) {
      const int64_t n = std::min(kChannelBlock, p.C - c0);
      if constexpr (has_weights(rule)) weights<W>(p, c0, n, w, sum_a);
      for (int64_t s = 0; s < p.S; ++s) {
        const In* a = p.a + c0 + s * p.a_step;
        const In* g = p.second + c0 + s * p.s_step;
        Vec<T, W> sums[4] = {}; // side by side, so that no addition waits for the one before
        int64_t c = 0;
        for (; c + 4 * W <= n; c += 4 * W) {
          for (int i = 0; i < 4; ++i) sums[i] += term<W>(a + c + i * W, g + c + i * W, w + c + i * W);
        }
        for (; c + W <= n; c += W) sums[0] += term<W>(a + c, g + c, w + c);
        T total = horizontal_sum<T, W>((sums[0] + sums[1]) + (sums[2] + sums[3]));
        for (; c < n; ++c) total += term<1>(a + c, g + c, w + c)[0];
        p.map[s] += total;
      }
    }
  }
};

} // namespace camfast

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

#include "cam_weights.h"

namespace camfast {

constexpr int64_t kMaxLanes = kAvx512Bytes / 4;
// Positions adjacent: channels that one running sum takes in before it is added to the total. One chain of all channels was
// off two to four times as much (256 to 2048 positive terms), since each addition rounds at the size of what came before.
constexpr int64_t kChannelsASum = 128;

constexpr int64_t kChannelBlock = 2048; // channels_last: columns at a time; their sums stay in the first-level cache

inline int64_t piece_scratch(Layout layout, int64_t S) {
  return layout == Layout::positions_adjacent ? 2 * (S + 2 * kMaxLanes) : 2 * kChannelBlock;
}

// ---------------------------------------------------------------------------------------------------------------------
// Positions adjacent, in vectors as cam_weights.h walks them.

template <class In, Rule rule>
struct SumPositionsAdjacent {
  using T = AccOf<In>;
  using Scalar = T;

  // Adds `count` channels from `c` on, lane by lane; the last vector's lanes gather in a place of their own. The first ones
  // of a sum overwrite what was there.
  template <int W, int count, bool first = false>
  static CAMFAST_INLINE void add_channels(const Piece<In>& p, int64_t c, const Lanes<T, W>& lanes, T* acc) {
    T w[count];
    if constexpr (has_weights(rule)) {
      for (int i = 0; i < count; ++i) w[i] = row_weight<rule, In, W>(p, c + i, lanes);
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
    const Lanes<T, W> lanes(p.S);
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
        for (int64_t i = 0; i < used; ++i) acc[i] = T(0);
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
    if (bytes > kBaselineBytes || p.S >= W) { // wider vectors are for maps that fill them (isa_for)
      sum_all<W>(p);
    } else {
      sum_all<1>(p);
    }
  }
};

// ---------------------------------------------------------------------------------------------------------------------
// Channels adjacent: sums of columns, then one dot product per position. `rule`: an element-wise one, or Rule::weights for all
// that have weights.

template <class In, Rule rule>
struct SumChannelsAdjacent {
  using T = AccOf<In>;
  using Scalar = T;

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
      if constexpr (has_weights(rule)) p.weights(p, c0, n, w, sum_a);
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

// ---------------------------------------------------------------------------------------------------------------------
// The kernels of a rule and a layout, under the best instruction set whose vectors a map fills.

template <class In>
struct CamKernels {
  void (*sum)(const Piece<In>&);
  decltype(Piece<In>::weights) weights = nullptr;
};

template <class In, Rule rule>
CamKernels<In> kernels_of(Layout layout, int64_t S) {
  using T = AccOf<In>;
  if (layout == Layout::positions_adjacent) {
    return {variant<SumPositionsAdjacent<In, rule>, Piece<In>>(isa_for(S * int64_t(sizeof(T))))};
  }
  if constexpr (has_weights(rule)) {
    return {variant<SumChannelsAdjacent<In, Rule::weights>, Piece<In>>(isa()),
            variant<ColumnWeights<In, rule>, Piece<In>, int64_t, int64_t, T*, T*>(isa())};
  } else {
    return {variant<SumChannelsAdjacent<In, rule>, Piece<In>>(isa())};
  }
}

template <class In>
CamKernels<In> kernels_of(Rule rule, Layout layout, int64_t S) {
  switch (rule) {
    case Rule::weights: return kernels_of<In, Rule::weights>(layout, S);
    case Rule::grad_cam: return kernels_of<In, Rule::grad_cam>(layout, S);
    case Rule::grad_cam_plus_plus: return kernels_of<In, Rule::grad_cam_plus_plus>(layout, S);
    case Rule::xgrad_cam: return kernels_of<In, Rule::xgrad_cam>(layout, S);
    case Rule::hires_cam: return kernels_of<In, Rule::hires_cam>(layout, S);
    case Rule::layer_cam: return kernels_of<In, Rule::layer_cam>(layout, S);
    case Rule::grad_cam_elementwise: break;
  }
  return kernels_of<In, Rule::grad_cam_elementwise>(layout, S);
}

} // namespace camfast

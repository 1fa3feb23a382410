// Resizing a map linearly, and scaling it to its range: where samples lie, which of them decide the range, and what is done
// to each.
#pragma once

#include "scalar.h"

namespace camfast {

constexpr double kRangeEps = 1e-7; // recipes: x / (1e-7 + max x)

// Where an output sample falls between two source samples: value = (1 - weight) * source[low] + weight * source[high].
// Half-pixel centres, edges clamped, no antialiasing: torch.nn.functional.interpolate(align_corners=False). With `corners` the
// first and last samples lie on each other instead (align_corners=True).
template <class T>
struct Sample {
  int32_t low, high;
  T weight;
};

// above / below as a whole number and what is left. The quotient is guessed in F, whose rounding is off by one at most, and made
// right in whole numbers, so that the weight is the only thing that is rounded, however long the axis is.
template <class T, class F, class I>
CAMFAST_HD Sample<T> split(I above, I below, int32_t in_size) {
  const F share = F(1) / F(below);
  I low = I(F(above) * share), rest = above - low * below;
  if (rest < 0) {
    --low;
    rest += below;
  } else if (rest >= below) {
    ++low;
    rest -= below;
  }
  return {int32_t(low), int32_t(low < in_size - 1 ? low + 1 : low), T(F(rest) * share)};
}

template <class T, bool corners = false>
CAMFAST_HD Sample<T> sample_at(int32_t out_index, int32_t in_size, int32_t out_size) {
  if (in_size == out_size) return {out_index, out_index, T(0)};
  if (in_size <= (1 << 20) && int64_t(in_size) * out_size <= (1 << 28)) { // 64 bits take a GPU several times as long
    const int32_t below = corners ? (out_size > 1 ? out_size - 1 : 1) : 2 * out_size;
    const int32_t above = corners ? (in_size - 1) * out_index : in_size * (2 * out_index + 1) - out_size;
    return split<T, T, int32_t>(above < 0 ? 0 : above, below, in_size);
  }
  const int64_t below = corners ? (out_size > 1 ? out_size - 1 : 1) : 2 * int64_t(out_size);
  const int64_t above =
      corners ? int64_t(in_size - 1) * out_index : int64_t(in_size) * (2 * int64_t(out_index) + 1) - out_size;
  return split<T, double, int64_t>(above < 0 ? 0 : above, below, in_size);
}

template <class T>
CAMFAST_HD T mix(T low, T high, T weight) {
  return (T(1) - weight) * low + weight * high;
}

// A resized map is linear between neighbouring source centres, so along each axis the extremes of the samples that fall
// into one cell are its first and its last sample: only these need to be looked at to know the range of the whole output
// (7x7 -> 224x224: 256 samples instead of 50,176). True for samples at the border of a cell, and for the two ends.
// Where the samples lie does not matter to this, so that it holds with aligned corners too.
template <class T, bool corners = false>
CAMFAST_HD bool is_cell_border(int32_t out_index, int32_t in_size, int32_t out_size) {
  if (out_index == 0 || out_index == out_size - 1) return true;
  const int32_t low = sample_at<T, corners>(out_index, in_size, out_size).low;
  return low != sample_at<T, corners>(out_index - 1, in_size, out_size).low ||
      low != sample_at<T, corners>(out_index + 1, in_size, out_size).low;
}

// value -> clamp((value - low) * scale, bottom, top): what is done to each resized sample.
template <class T>
struct Normalizer {
  T low, scale, bottom, top;

  CAMFAST_HD T operator()(T value) const {
    const T x = (value - low) * scale;
    return x < bottom ? bottom : (x > top ? top : x); // NaN passes
  }
};

// Min-max at low resolution, resize, min-max at full resolution, folded into one step after the resize. With M the range
// of the low-resolution map and R that of the resized one,
//   (x / (eps + M) - ...) / (eps + R / (eps + M)) = (x - low) / (R + eps * (eps + M)).
// A range that is not finite (NaN or Inf in the map) makes everything NaN. A constant map becomes 0: what range its resized
// values have is rounding, which a min-max would magnify.
template <class T>
CAMFAST_HD Normalizer<T> min_max_normalizer(T map_min, T map_max, T resized_min, T resized_max) {
  const T map_range = map_max - map_min;
  const T range = resized_max - resized_min;
  const T scale = map_range == T(0) ? T(0) : T(1) / (range + T(kRangeEps) * (T(kRangeEps) + map_range));
  const bool finite = map_range - map_range == T(0);
  const T nan = map_range - map_range;
  return {resized_min, finite ? scale : nan, T(0), range * scale};
}

} // namespace camfast

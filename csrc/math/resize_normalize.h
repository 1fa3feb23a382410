// Resizing a map linearly, and scaling it to its range: where samples lie, which of them decide the range, and what is done
// to each.
#pragma once

#include "scalar.h"

namespace camfast {

constexpr double kRangeEps = 1e-7; // recipes: x / (1e-7 + max x)

// Where an output sample falls between two source samples: value = (1 - weight) * source[low] + weight * source[high].
// Half-pixel centres, edges clamped, no antialiasing: torch.nn.functional.interpolate(align_corners=False), in the same
// order of operations, so that rounding agrees. With `corners` the first and last samples lie on each other instead
// (align_corners=True).
template <class T>
struct Sample {
  int32_t low, high;
  T weight;
};

template <class T, bool corners = false>
CAMFAST_HD Sample<T> sample_at(int32_t out_index, int32_t in_size, int32_t out_size) {
  if (in_size == out_size) return {out_index, out_index, T(0)};
  T centre;
  if (corners) {
    centre = out_size > 1 ? T(in_size - 1) / T(out_size - 1) * T(out_index) : T(0);
  } else {
    const T scale = T(in_size) / T(out_size);
    centre = scale * (T(out_index) + T(0.5)) - T(0.5);
    if (centre < T(0)) centre = T(0);
  }
  int32_t low = int32_t(centre); // 64 bits would take a GPU several times as long
  if (low > in_size - 1) low = in_size - 1;
  T weight = centre - T(low);
  if (weight > T(1)) weight = T(1);
  return {low, low < in_size - 1 ? low + 1 : low, weight};
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
// A range that is not finite (NaN or Inf in the map) makes everything NaN.
template <class T>
CAMFAST_HD Normalizer<T> min_max_normalizer(T map_min, T map_max, T resized_min, T resized_max) {
  const T map_range = map_max - map_min;
  const T range = resized_max - resized_min;
  const T scale = T(1) / (range + T(kRangeEps) * (T(kRangeEps) + map_range));
  const bool finite = map_range - map_range == T(0);
  const T nan = map_range - map_range;
  return {resized_min, finite ? scale : nan, T(0), range * scale};
}

} // namespace camfast

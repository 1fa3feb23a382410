// How maps and images lie in memory: their extent, the layouts that kernels read without a copy, and the sizes of results.
#pragma once

#include "tensor.h"

namespace camfast {

constexpr int kMaxMapRank = 3;

// A map's extent, always as [depth, height, width]; missing dimensions are 1.
struct Extent {
  int64_t d = 1, h = 1, w = 1;
  int64_t positions() const { return d * h * w; }
};

inline Extent extent_of(const Tensor& t, int64_t first_dim) {
  const int64_t rank = t.dim() - first_dim;
  Extent e;
  e.w = t.size(t.dim() - 1);
  if (rank > 1) e.h = t.size(t.dim() - 2);
  if (rank > 2) e.d = t.size(t.dim() - 3);
  return e;
}

inline Extent extent_of(const Sizes& size) {
  Extent e;
  e.w = size[size.size() - 1];
  if (size.size() > 1) e.h = size[size.size() - 2];
  if (size.size() > 2) e.d = size[size.size() - 3];
  return e;
}

// The size asked for, or the map's own.
inline Sizes output_size(const OptionalSizes& size, const Tensor& t, int64_t first_dim) {
  const int64_t rank = t.dim() - first_dim;
  STD_TORCH_CHECK(rank >= 1 && rank <= kMaxMapRank, "maps must have 1, 2 or 3 dimensions, got shape ", shape_string(t));
  Sizes own;
  for (int64_t d = first_dim; d < t.dim(); ++d) {
    STD_TORCH_CHECK(t.size(d) > 0, "maps must not be empty, got shape ", shape_string(t));
    own.push_back(t.size(d));
  }
  if (!size.has_value()) return own;
  STD_TORCH_CHECK(int64_t(size->size()) == rank, "size must have ", rank, " numbers, got ", size->size());
  for (int64_t n : *size) STD_TORCH_CHECK(n > 0 && n <= INT32_MAX, "size must be from 1 to 2147483647, got ", n);
  return *size;
}

// The stride of a map's positions when its spatial dimensions, from `first_dim` on, can be walked as one; -1 when not.
inline int64_t position_stride(const Tensor& t, int64_t first_dim) {
  int64_t stride = -1, expected = 0;
  for (int64_t d = t.dim() - 1; d >= first_dim; --d) {
    if (t.size(d) == 1) continue;
    if (stride < 0) {
      stride = t.stride(d);
      expected = stride * t.size(d);
    } else {
      if (t.stride(d) != expected) return -1;
      expected *= t.size(d);
    }
  }
  return stride < 0 ? 1 : stride;
}

// Two layouts are read without a copy, both with any stride between images and targets:
//   positions adjacent (contiguous):     element (c, s) at c * step + s
//   channels adjacent (channels_last):   element (c, s) at c + s * step
enum class Layout : int { positions_adjacent, channels_adjacent, other };

struct LayoutOf {
  Layout layout;
  int64_t step;
};

// `channel_dim` is followed by the spatial dimensions.
inline LayoutOf layout_of(const Tensor& t, int64_t channel_dim) {
  const int64_t positions = position_stride(t, channel_dim + 1);
  const int64_t channels = t.size(channel_dim) == 1 ? 1 : t.stride(channel_dim);
  int64_t count = 1;
  for (int64_t d = channel_dim + 1; d < t.dim(); ++d) count *= t.size(d);
  if (positions < 0 || positions == 0) return {Layout::other, 0};
  if (count == 1 && channels == 1) return {Layout::channels_adjacent, 0};
  if (positions == 1 && t.size(channel_dim) == 1) return {Layout::positions_adjacent, 0};
  if (positions == 1 && channels > 0) return {Layout::positions_adjacent, channels};
  if (channels == 1) return {Layout::channels_adjacent, positions};
  return {Layout::other, 0};
}

// Whether the planes of [N, P, *size] are innermost and everything else is dense; a size of 1 has any stride.
inline bool is_channels_last(const Tensor& t) {
  int64_t expected = 1;
  const auto fits = [&](int64_t d) {
    const bool fit = t.size(d) == 1 || t.stride(d) == expected;
    expected *= t.size(d);
    return fit;
  };
  bool dense = fits(1);
  for (int64_t d = t.dim() - 1; d >= 2; --d) dense = fits(d) && dense;
  return fits(0) && dense;
}

} // namespace camfast

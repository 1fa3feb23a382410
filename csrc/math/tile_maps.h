// Where maps stand in a picture of tiles, and which colour a value gets: shared by the CPU and the CUDA kernel.
//
//     pad_x |<- w * scale ->| pad_x |<- w * scale ->| pad_x
//     +---------------------------------------------------+  pad_y
//     |     +---------------+       +---------------+     |  h * scale
//     |     |    map 0      |       |    map 1      |     |
//     |     +---------------+       +---------------+     |
//     |                                                   |  pad_y
//     |     |    map 2      |            (empty)          |
//     +---------------------------------------------------+  pad_y
//
// A cell is a tile with the gap above it and the gap to its left; cells of the last column and row have the gap behind
// them as well, so that the cells cover the picture, and nothing is written twice.
#pragma once

#include "scalar.h"

namespace camfast {

constexpr int kUnknownShade = 256; // NaN: the background shows
constexpr int kShades = 257;

struct TileCell {
  int64_t top, left, height, width; // in pixels of the picture
};

struct TileLayout {
  int64_t maps, h, w, columns, pad_y, pad_x, scale;

  CAMFAST_HD int64_t rows() const { return maps / columns + (maps % columns != 0); }
  CAMFAST_HD int64_t height() const { return rows() * (h * scale + pad_y) + pad_y; }
  CAMFAST_HD int64_t width() const { return columns * (w * scale + pad_x) + pad_x; }
  CAMFAST_HD TileCell cell(int64_t index) const {
    const int64_t row = index / columns, column = index % columns;
    const int64_t tall = h * scale + pad_y, wide = w * scale + pad_x;
    return {row * tall, column * wide, tall + (row == rows() - 1 ? pad_y : 0), wide + (column == columns - 1 ? pad_x : 0)};
  }
};

// Takes one more value into a range of finite values.
CAMFAST_HD void widen_range(float value, float* low, float* high) {
  if (!(value - value == 0.f)) return;
  if (value < *low) *low = value;
  if (value > *high) *high = value;
}

// value -> row of the colour table: from 0 at `low` to 255 at the other end, rounded; what lies outside is cut off.
struct Shader {
  float low, scale;

  CAMFAST_HD static Shader between(float low, float high) {
    const float span = high - low;
    return {low, span > 0.f ? 255.f / span : 0.f};
  }
  CAMFAST_HD int operator()(float value) const {
    if (!(value == value)) return kUnknownShade;
    const float x = (value - low) * scale;
    return int((x > 0.f ? (x < 255.f ? x : 255.f) : 0.f) + 0.5f); // written so that infinity times 0 is 0
  }
};

} // namespace camfast

// Maps as pictures side by side on the CPU: each map's range, its colours and its place in the picture, a cell at a time.
#include <limits>
#include <memory>

#include "../dispatch.h"
#include "../tile_maps.h"
#include "simd.h"
#include "team.h"

namespace camfast {
namespace {

// The least and the greatest finite value of n.
struct FiniteRange {
  template <int bytes, class In>
  static CAMFAST_INLINE void run(const In* const& values, const int64_t& n, float* const& low, float* const& high) {
    constexpr int W = bytes / 4;
    const Vec<float, W> zero{};
    Vec<float, W> lows = splat<float, W>(*low), highs = splat<float, W>(*high);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      const Vec<float, W> v = load<float, W>(values + i);
      const auto finite = (v - v) == zero;
      lows = choose<float, W>(finite & (v < lows), v, lows);
      highs = choose<float, W>(finite & (v > highs), v, highs);
    }
    for (int l = 0; l < W; ++l) {
      if (lows[l] < *low) *low = lows[l];
      if (highs[l] > *high) *high = highs[l];
    }
    for (; i < n; ++i) widen_range(widen<float>(values[i]), low, high);
  }
};

// A row of values as rows of the colour table; NaN has one of its own, behind the others.
struct ShadeLine {
  template <int bytes, class In>
  static CAMFAST_INLINE void run(const In* const& values, const int64_t& n, const Shader& shader, int32_t* const& index) {
    constexpr int W = bytes / 4;
    const Vec<float, W> zero{}, top = splat<float, W>(255.f);
    const Vec<int32_t, W> unknown = splat<int32_t, W>(kUnknownShade);
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      const Vec<float, W> v = load<float, W>(values + i);
      Vec<float, W> x = (v - shader.low) * shader.scale;
      x = choose<float, W>(x > zero, x, zero);
      x = choose<float, W>(x < top, x, top);
      const Vec<int32_t, W> shade = __builtin_convertvector(x + 0.5f, Vec<int32_t, W>);
      const Vec<int32_t, W> is_nan = bits<Vec<int32_t, W>>(v != v);
      store(index + i, (shade & ~is_nan) | (unknown & is_nan));
    }
    for (; i < n; ++i) index[i] = shader(widen<float>(values[i]));
  }
};

struct Picture {
  TileLayout layout;
  const float* limits;         // low and high of every map, or null: each map's own
  uint8_t colors[kShades * 4]; // red, green, blue, padding: a colour is copied by one load
  uint8_t background;
  uint8_t* out; // [H, W, 3]
};

// The map of one cell with the gap above it and to its left; the last cells also the gap behind them.
template <class In>
void draw_cell(const Picture& picture, const In* maps, int64_t cell) {
  const TileLayout& at = picture.layout;
  const TileCell place = at.cell(cell);
  const int64_t row_bytes = 3 * at.width(), bytes = 3 * place.width;
  uint8_t* corner = picture.out + place.top * row_bytes + 3 * place.left;
  if (cell >= at.maps) {
    for (int64_t y = 0; y < place.height; ++y) memset(corner + y * row_bytes, picture.background, bytes);
    return;
  }
  const In* map = maps + cell * at.h * at.w;
  float low = std::numeric_limits<float>::infinity(), high = -low;
  if (picture.limits) {
    low = picture.limits[0];
    high = picture.limits[1];
  } else {
    multiversion<FiniteRange>(map, at.h * at.w, &low, &high);
  }
  const Shader shader = Shader::between(low, high);

  const auto index = std::make_unique<int32_t[]>(at.w);
  const auto line = std::make_unique<uint8_t[]>(bytes + 1);
  memset(line.get(), picture.background, bytes);
  for (int64_t y = 0; y < at.pad_y; ++y) memcpy(corner + y * row_bytes, line.get(), bytes);
  for (int64_t y = at.pad_y + at.h * at.scale; y < place.height; ++y) memcpy(corner + y * row_bytes, line.get(), bytes);
  for (int64_t y = 0; y < at.h; ++y) {
    multiversion<ShadeLine>(map + y * at.w, at.w, shader, index.get());
    uint8_t* to = line.get() + 3 * at.pad_x;
    for (int64_t x = 0; x < at.w; ++x) {
      const uint8_t* color = picture.colors + 4 * index[x];
      for (int64_t s = 0; s < at.scale; ++s, to += 3) memcpy(to, color, 4);
    }
    *to = picture.background; // the last colour's padding
    uint8_t* rows = corner + (at.pad_y + y * at.scale) * row_bytes;
    for (int64_t s = 0; s < at.scale; ++s) memcpy(rows + s * row_bytes, line.get(), bytes);
  }
}

template <class In>
void draw(const Picture& picture, const In* maps) {
  const TileLayout& at = picture.layout;
  const auto cell = [&](int64_t item) { draw_cell(picture, maps, item); };
  const int64_t threads = std::clamp<int64_t>(at.height() * at.width() / 32768, 1, torch::stable::get_num_threads());
  run_team(threads, at.rows() * at.columns, 0, 1, cell, [](int64_t, int64_t) {});
}

Tensor tile_maps(const Tensor& maps, const Tensor& colors, int64_t columns, int64_t pad_y, int64_t pad_x, int64_t scale,
                 std::optional<Tensor> limits, int64_t background) {
  const TileInputs in = tile_inputs(maps, colors, columns, pad_y, pad_x, scale, limits, background);
  Picture picture{};
  picture.layout = in.layout;
  picture.limits = in.limits;
  const auto* table = static_cast<const uint8_t*>(in.colors.const_data_ptr());
  for (int i = 0; i < 256; ++i) memcpy(picture.colors + 4 * i, table + 3 * i, 3);
  memset(picture.colors + 4 * kUnknownShade, in.background, 4);
  picture.background = in.background;
  picture.out = static_cast<uint8_t*>(in.out.mutable_data_ptr());
  dispatch<UpToSingle>(maps.scalar_type(), [&](auto type) {
    draw(picture, static_cast<const typename decltype(type)::type*>(in.maps.const_data_ptr()));
  });
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("tile_maps", TORCH_BOX(&camfast::tile_maps)); }

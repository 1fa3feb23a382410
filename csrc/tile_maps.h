// The arguments of tile_maps, checked, for the CPU and the CUDA kernel.
#pragma once

#include "math/tile_maps.h"
#include "tensor.h"

namespace camfast {

struct TileInputs {
  Tensor maps, colors;                // dense
  std::optional<Tensor> dense_limits; // what `limits` points into
  const float* limits;                // low and high of every map, or null: each map's own
  Tensor out;                         // [H, W, 3]
  TileLayout layout;
  uint8_t background;
};

// Whether the picture's sides can be counted: before they are, since any of the numbers may be as large as 64 bits hold.
inline bool fits(const TileLayout& at) {
  for (int64_t n : {at.h, at.w, at.columns, at.pad_y, at.pad_x, at.scale}) {
    if (n > INT32_MAX) return false;
  }
  const __int128 tall = __int128(at.h) * at.scale + at.pad_y, wide = __int128(at.w) * at.scale + at.pad_x;
  return at.rows() * tall + at.pad_y <= INT32_MAX && at.columns * wide + at.pad_x <= INT32_MAX / 3;
}

inline TileInputs tile_inputs(const Tensor& maps, const Tensor& colors, int64_t columns, int64_t pad_y, int64_t pad_x,
                              int64_t scale, const std::optional<Tensor>& limits, int64_t background) {
  const ScalarType type = maps.scalar_type();
  STD_TORCH_CHECK((type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16) && maps.dim() == 3 &&
                      maps.numel() > 0,
                  "maps must be float32, float16 or bfloat16 [M, h, w] and not empty, got ", torch::headeronly::toString(type), " ",
                  shape_string(maps));
  check_color_table(colors);
  STD_TORCH_CHECK(columns > 0 && pad_y >= 0 && pad_x >= 0 && scale > 0,
                  "columns and scale must be positive and the gaps not negative, got ", columns, ", ", scale, ", ", pad_y, " and ",
                  pad_x);
  STD_TORCH_CHECK(!limits.has_value() || (limits->scalar_type() == ScalarType::Float && limits->dim() == 1 && limits->size(0) == 2),
                  "limits must be float32 [2]");
  STD_TORCH_CHECK(background >= 0 && background <= 255, "background must be 0 to 255, got ", background);
  const TileLayout layout{maps.size(0), maps.size(1), maps.size(2), columns, pad_y, pad_x, scale};
  STD_TORCH_CHECK(fits(layout), "the picture must have at most 2147483647 rows and 715827882 columns, got maps ",
                  shape_string(maps), " in ", columns, " columns with scale ", scale, " and gaps of ", pad_y, " and ", pad_x);
  std::optional<Tensor> dense_limits;
  if (limits.has_value()) dense_limits = torch::stable::contiguous(*limits);
  const auto* bounds = dense_limits ? static_cast<const float*>(dense_limits->const_data_ptr()) : nullptr;
  return {torch::stable::contiguous(maps),
          torch::stable::contiguous(colors),
          dense_limits,
          bounds,
          allocate({layout.height(), layout.width(), 3}, ScalarType::Byte, maps),
          layout,
          uint8_t(background)};
}

} // namespace camfast

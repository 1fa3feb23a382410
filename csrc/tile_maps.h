// What the CPU op and the CUDA op check alike before tiling maps.
#pragma once

#include "tensor.h"
#include "tile_layout.h"

namespace camfast {

inline TileLayout check_tile_maps(const Tensor& maps, const Tensor& colors, int64_t columns, int64_t pad_y, int64_t pad_x,
                                  int64_t scale, const std::optional<Tensor>& limits, int64_t background) {
  const ScalarType type = maps.scalar_type();
  STD_TORCH_CHECK(
      (type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16) && maps.dim() == 3 &&
          maps.numel() > 0,
      "maps must be float32, float16 or bfloat16 [M, h, w] and not empty, got ", torch::headeronly::toString(type), " ",
      shape_string(maps));
  STD_TORCH_CHECK(colors.scalar_type() == ScalarType::Byte && colors.dim() == 2 && colors.size(0) == 256 && colors.size(1) == 3,
                  "colors must be uint8 [256, 3], got ", shape_string(colors));
  STD_TORCH_CHECK(columns > 0 && pad_y >= 0 && pad_x >= 0 && scale > 0,
                  "columns and scale must be positive and the gaps not negative, got ", columns, ", ", scale, ", ", pad_y,
                  " and ", pad_x);
  STD_TORCH_CHECK(!limits.has_value() ||
                      (limits->scalar_type() == ScalarType::Float && limits->dim() == 1 && limits->size(0) == 2),
                  "limits must be float32 [2]");
  STD_TORCH_CHECK(background >= 0 && background <= 255, "background must be 0 to 255, got ", background);
  const TileLayout layout{maps.size(0), maps.size(1), maps.size(2), columns, pad_y, pad_x, scale};
  STD_TORCH_CHECK(layout.height() <= INT32_MAX && layout.width() <= INT32_MAX / 3, "the picture must be smaller, got ",
                  layout.height(), " x ", layout.width());
  return layout;
}

} // namespace camfast

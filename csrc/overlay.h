// The arguments of overlay, checked, for the CPU and the CUDA kernel.
#pragma once

#include "layout.h"

namespace camfast {

struct OverlayInputs {
  Tensor frames, heatmap, colors; // dense
  Tensor out;                     // [N, H, W, 3]
  int64_t N;
  Extent map, frame;
  float alpha, frame_share; // of the colours, and of the frame
};

inline OverlayInputs overlay_inputs(const Tensor& frames, const Tensor& heatmap, const Tensor& colors, double alpha) {
  STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Byte && frames.dim() == 4 && frames.size(3) == 3,
                  "frames must be uint8 [N, H, W, 3], got ", shape_string(frames));
  STD_TORCH_CHECK(heatmap.scalar_type() == ScalarType::Float && heatmap.dim() == 3 && heatmap.size(0) == frames.size(0) &&
                      heatmap.size(1) > 0 && heatmap.size(2) > 0,
                  "heatmap must be float32 [N, h, w] with one map per frame, got ", shape_string(heatmap));
  check_color_table(colors);
  const int64_t N = frames.size(0), H = frames.size(1), W = frames.size(2);
  return {torch::stable::contiguous(frames),
          torch::stable::contiguous(heatmap),
          torch::stable::contiguous(colors),
          allocate({N, H, W, 3}, ScalarType::Byte, frames),
          N,
          extent_of(heatmap, 1),
          Extent{1, H, W},
          float(alpha),
          float(1.0 - alpha)};
}

} // namespace camfast

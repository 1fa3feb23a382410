// The arguments of preprocess, checked, for the CPU and the CUDA kernel.
#pragma once

#include "math/preprocess.h"
#include "tensor.h"

namespace camfast {

struct PreprocessInputs {
  Tensor frames; // [N, H, W, 3], dense
  Tensor out;    // [N, 3, h, w], contiguous or channels_last
  int64_t N, H, W, h, w;
  ResizeAxis rows, columns;
  Normalise normalise;
  bool channels_last;
};

inline PreprocessInputs preprocess_inputs(const Tensor& frames, const Sizes& size, const std::vector<double>& mean,
                                          const std::vector<double>& std, ScalarType dtype,
                                          const std::optional<std::vector<double>>& box, bool channels_last) {
  STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Byte && frames.dim() == 4 && frames.size(1) > 0 && frames.size(2) > 0 &&
                      frames.size(3) == 3,
                  "frames must be uint8 [N, H, W, 3], got ", shape_string(frames));
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0 && size[0] <= INT32_MAX / 16 && size[1] <= INT32_MAX / 16,
                  "size must be two positive numbers");
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "mean and std must have three numbers each");
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "dtype must be float32, float16 or bfloat16, got ", torch::headeronly::toString(dtype));
  PreprocessInputs a{frames, frames, frames.size(0), frames.size(1), frames.size(2), size[0], size[1]};
  STD_TORCH_CHECK(a.H <= INT32_MAX / 16 && a.W <= INT32_MAX / 16, "frames are too large, got ", shape_string(frames));
  double edges[4] = {0, 0, double(a.W), double(a.H)};
  if (box.has_value()) {
    STD_TORCH_CHECK(box->size() == 4, "box must be left, top, right, bottom, got ", box->size(), " numbers");
    std::copy(box->begin(), box->end(), edges);
  }
  STD_TORCH_CHECK(edges[0] < edges[2] && edges[1] < edges[3], "box must not be empty");
  a.rows = resize_axis(edges[1], edges[3], a.H, a.h);
  a.columns = resize_axis(edges[0], edges[2], a.W, a.w);
  for (int c = 0; c < 3; ++c) {
    a.normalise.scale[c] = float(1.0 / (255.0 * std[c]));
    a.normalise.shift[c] = float(-mean[c] / std[c]);
  }
  const int64_t plane = a.h * a.w;
  a.channels_last = channels_last;
  a.frames = torch::stable::contiguous(frames);
  a.out = allocate({a.N, 3, a.h, a.w}, channels_last ? Sizes{3 * plane, 1, 3 * a.w, 3} : Sizes{3 * plane, plane, a.w, 1}, dtype,
                   frames);
  return a;
}

} // namespace camfast

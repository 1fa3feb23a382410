// The arguments of `preprocess`, checked, and its result's tensor.
#pragma once

#include "preprocess.h"
#include "tensor.h"

namespace camfast {

struct PreprocessArguments {
  int64_t N, H, W, h, w;
  ResizeAxis rows, columns;
  Normalise normalise;
};

inline PreprocessArguments check_preprocess(const Tensor& frames, const Sizes& size, const std::vector<double>& mean,
                                            const std::vector<double>& std, ScalarType dtype,
                                            const std::optional<std::vector<double>>& box) {
  STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Byte && frames.dim() == 4 && frames.size(1) > 0 &&
                      frames.size(2) > 0 && frames.size(3) == 3,
                  "frames must be uint8 [N, H, W, 3], got ", shape_string(frames));
  STD_TORCH_CHECK(size.size() == 2 && size[0] > 0 && size[1] > 0 && size[0] <= INT32_MAX / 16 && size[1] <= INT32_MAX / 16,
                  "size must be two positive numbers");
  STD_TORCH_CHECK(mean.size() == 3 && std.size() == 3, "mean and std must have three numbers each");
  STD_TORCH_CHECK(dtype == ScalarType::Float || dtype == ScalarType::Half || dtype == ScalarType::BFloat16,
                  "dtype must be float32, float16 or bfloat16, got ", torch::headeronly::toString(dtype));
  PreprocessArguments a{frames.size(0), frames.size(1), frames.size(2), size[0], size[1]};
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
  return a;
}

// [N, 3, h, w], contiguous or channels_last.
inline Tensor allocate_images(const PreprocessArguments& a, ScalarType dtype, bool channels_last, const Tensor& like) {
  const int64_t shape[] = {a.N, 3, a.h, a.w}, plane = a.h * a.w;
  const int64_t contiguous[] = {3 * plane, plane, a.w, 1}, interleaved[] = {3 * plane, 1, 3 * a.w, 3};
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t type = dtype == ScalarType::Half ? aoti_torch_dtype_float16()
      : dtype == ScalarType::BFloat16            ? aoti_torch_dtype_bfloat16()
                                                 : aoti_torch_dtype_float32();
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(4, shape, channels_last ? interleaved : contiguous, type, device_type,
                                                  like.get_device_index(), &handle));
  return Tensor(handle);
}

} // namespace camfast

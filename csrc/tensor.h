// What the kernels need of LibTorch's stable ABI, in one place: aliases, and what the ABI lacks for tensors.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/Exception.h>

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;
using OptionalSizes = std::optional<std::vector<int64_t>>;

inline std::string shape_string(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

inline std::string size_string(const Sizes& sizes) {
  std::string text = "[";
  for (size_t d = 0; d < sizes.size(); ++d) text += (d ? ", " : "") + std::to_string(sizes[d]);
  return text + "]";
}

inline ScalarType accumulation_type(ScalarType type) { return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float; }

inline void check_floating(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16, name,
      " must be float64, float32, float16 or bfloat16, got ", torch::headeronly::toString(type));
}

inline void check_color_table(const Tensor& colors) {
  STD_TORCH_CHECK(colors.scalar_type() == ScalarType::Byte && colors.dim() == 2 && colors.size(0) == 256 && colors.size(1) == 3,
                  "colors must be uint8 [256, 3], got ", shape_string(colors));
}

// Whether the product of all sizes, each taken for 1 at least, is a number that 64 bits hold, as bytes too.
inline bool is_countable(const Sizes& shape) {
  int64_t bytes = int64_t(sizeof(double));
  for (int64_t n : shape) {
    if (__builtin_mul_overflow(bytes, std::max<int64_t>(n, 1), &bytes)) return false;
  }
  return true;
}

// A new tensor of given strides on the device of `like`, straight from the allocator: a call through the dispatcher would cost
// as much as the arithmetic of a small map.
inline Tensor allocate(const Sizes& shape, const Sizes& strides, ScalarType type, const Tensor& like) {
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const int32_t dtype = type == ScalarType::Double ? aoti_torch_dtype_float64()
      : type == ScalarType::Float                  ? aoti_torch_dtype_float32()
      : type == ScalarType::Half                   ? aoti_torch_dtype_float16()
      : type == ScalarType::BFloat16               ? aoti_torch_dtype_bfloat16()
                                                   : aoti_torch_dtype_uint8();
  AtenTensorHandle handle = nullptr;
  const bool made = is_countable(shape) &&
      aoti_torch_empty_strided(int64_t(shape.size()), shape.data(), strides.data(), dtype, device_type, like.get_device_index(),
                               &handle) == AOTI_TORCH_SUCCESS;
  STD_TORCH_CHECK(made, "not enough memory for a result of shape ", size_string(shape));
  return Tensor(handle);
}

inline Tensor allocate(const Sizes& shape, ScalarType type, const Tensor& like) {
  STD_TORCH_CHECK(is_countable(shape), "not enough memory for a result of shape ", size_string(shape));
  Sizes strides(shape.size(), 1);
  for (int64_t d = int64_t(shape.size()) - 2; d >= 0; --d) strides[d] = strides[d + 1] * std::max<int64_t>(shape[d + 1], 1);
  return allocate(shape, strides, type, like);
}

} // namespace camfast

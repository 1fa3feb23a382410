// What the kernels need of LibTorch's stable ABI, in one place: aliases, checks, and the layout of a stack of maps.
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

#include "cam_math.h"

namespace camfast {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = std::vector<int64_t>;
using OptionalSizes = std::optional<std::vector<int64_t>>;

constexpr int kMaxMapRank = 3;

inline std::string shape_string(const Tensor& t) {
  std::string text = "[";
  for (int64_t d = 0; d < t.dim(); ++d) text += (d ? ", " : "") + std::to_string(t.size(d));
  return text + "]";
}

inline ScalarType accumulation_type(ScalarType type) {
  return type == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_floating(const Tensor& t, const char* name) {
  const ScalarType type = t.scalar_type();
  STD_TORCH_CHECK(
      type == ScalarType::Double || type == ScalarType::Float || type == ScalarType::Half || type == ScalarType::BFloat16,
      name, " must be float64, float32, float16 or bfloat16, got ", torch::headeronly::toString(type));
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
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      int64_t(shape.size()), shape.data(), strides.data(), dtype, device_type, like.get_device_index(), &handle));
  return Tensor(handle);
}

inline Tensor allocate(const Sizes& shape, ScalarType type, const Tensor& like) {
  Sizes strides(shape.size(), 1);
  for (int64_t d = int64_t(shape.size()) - 2; d >= 0; --d) strides[d] = strides[d + 1] * std::max<int64_t>(shape[d + 1], 1);
  return allocate(shape, strides, type, like);
}

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
  for (int64_t n : *size) STD_TORCH_CHECK(n > 0 && n <= INT32_MAX, "size must be positive, got ", n);
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


// Activations [N, C, *map] with gradients [N, (K,) C, *map] or weights [N, (K,) C], checked and brought into one of the
// two layouts (copied only when they are in neither, or not in the same one).
struct CamInputs {
  Tensor activations, second; // second: gradients or weights
  Rule rule;
  Layout layout;
  int64_t N, K, C;
  bool has_targets; // whether K is a dimension of the result
  Extent map;
  // strides in elements
  int64_t a_image, a_step;
  int64_t s_image, s_target, s_step;
};

inline CamInputs cam_inputs(Tensor activations, Tensor second, Rule rule) {
  check_floating(activations, "activations");
  const char* name = rule == Rule::weights ? "weights" : "gradients";
  STD_TORCH_CHECK(
      activations.scalar_type() == second.scalar_type(), "activations and ", name, " must have one dtype, got ",
      torch::headeronly::toString(activations.scalar_type()), " and ", torch::headeronly::toString(second.scalar_type()));
  const int64_t rank = activations.dim() - 2;
  STD_TORCH_CHECK(rank >= 1 && rank <= kMaxMapRank, "activations must have shape [N, C, *map] with 1 to 3 map dimensions, got ",
                  shape_string(activations));
  const int64_t plain_dim = rule == Rule::weights ? 2 : activations.dim();
  const bool has_targets = second.dim() == plain_dim + 1;
  const int64_t channel_dim = has_targets ? 2 : 1;
  bool fits = (has_targets || second.dim() == plain_dim) && second.size(0) == activations.size(0) &&
              second.size(channel_dim) == activations.size(1);
  for (int64_t d = 0; fits && rule != Rule::weights && d < rank; ++d) {
    fits = second.size(channel_dim + 1 + d) == activations.size(2 + d);
  }
  STD_TORCH_CHECK(fits, name, " must fit activations ", shape_string(activations), ", got ", shape_string(second));

  LayoutOf a = layout_of(activations, 1);
  LayoutOf s = rule == Rule::weights ? LayoutOf{a.layout, 0} : layout_of(second, channel_dim);
  if (a.layout == Layout::other || s.layout != a.layout) {
    activations = torch::stable::contiguous(activations);
    a = layout_of(activations, 1);
    if (rule != Rule::weights) {
      second = torch::stable::contiguous(second);
      s = layout_of(second, channel_dim);
      // Plain [N, C, *map] with one position or one channel may be read either way; the other tensor decides.
      if (s.layout != a.layout) s = {a.layout, a.step};
    }
  }
  if (rule == Rule::weights && second.size(channel_dim) > 1 && second.stride(channel_dim) != 1) {
    second = torch::stable::contiguous(second);
  }
  CamInputs in{activations, second, rule, a.layout, activations.size(0), has_targets ? second.size(1) : 1,
               activations.size(1), has_targets, extent_of(activations, 2)};
  in.a_image = activations.stride(0);
  in.a_step = a.step;
  in.s_image = second.stride(0);
  in.s_target = has_targets ? second.stride(1) : 0;
  in.s_step = s.step;
  return in;
}

inline void check_overlay(const Tensor& frames, const Tensor& heatmap, const Tensor& colors) {
  STD_TORCH_CHECK(frames.scalar_type() == ScalarType::Byte && frames.dim() == 4 && frames.size(3) == 3,
                  "frames must be uint8 [N, H, W, 3], got ", shape_string(frames));
  STD_TORCH_CHECK(heatmap.scalar_type() == ScalarType::Float && heatmap.dim() == 3 && heatmap.size(0) == frames.size(0) &&
                      heatmap.size(1) > 0 && heatmap.size(2) > 0,
                  "heatmap must be float32 [N, h, w] with one map a frame, got ", shape_string(heatmap));
  STD_TORCH_CHECK(colors.scalar_type() == ScalarType::Byte && colors.dim() == 2 && colors.size(0) == 256 && colors.size(1) == 3,
                  "colors must be uint8 [256, 3], got ", shape_string(colors));
}

// The result's shape: [N, (K,) *size].
inline Sizes heatmap_shape(const CamInputs& in, const Sizes& size) {
  Sizes shape{in.N};
  if (in.has_targets) shape.push_back(in.K);
  shape.insert(shape.end(), size.begin(), size.end());
  return shape;
}

} // namespace camfast

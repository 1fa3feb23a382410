// The arguments of linear_imputation, checked.
#pragma once

#include "math/linear_imputation.h"
#include "tensor.h"

namespace camfast {

struct ImputationInputs {
  Tensor images, removed;            // contiguous: fp32 [B, C, H, W], bool [B, H, W]
  std::optional<Tensor> dense_noise; // fp32 [B, C, H, W]
  const float* noise;                // null: none
  Tensor out;                        // fp32 [B, C, H, W]
  int64_t B, C, H, W;
  float tolerance;
};

inline ImputationInputs imputation_inputs(const Tensor& images, const Tensor& removed, const std::optional<Tensor>& noise,
                                          double tolerance) {
  STD_TORCH_CHECK(images.scalar_type() == ScalarType::Float && images.dim() == 4, "images must be float32 [B, C, H, W], got ",
                  torch::headeronly::toString(images.scalar_type()), " ", shape_string(images));
  STD_TORCH_CHECK(removed.scalar_type() == ScalarType::Bool && removed.dim() == 3 && removed.size(0) == images.size(0) &&
                      removed.size(1) == images.size(2) && removed.size(2) == images.size(3),
                  "removed must be bool [B, H, W] for images ", shape_string(images), ", got ",
                  torch::headeronly::toString(removed.scalar_type()), " ", shape_string(removed));
  STD_TORCH_CHECK(!noise.has_value() || (noise->scalar_type() == ScalarType::Float && shape_string(*noise) == shape_string(images)),
                  "noise must be float32 and as large as the images ", shape_string(images));
  STD_TORCH_CHECK(tolerance > 0, "tolerance must be positive, got ", tolerance);
  std::optional<Tensor> dense_noise;
  if (noise.has_value()) dense_noise = torch::stable::contiguous(*noise);
  const auto* drawn = dense_noise ? static_cast<const float*>(dense_noise->const_data_ptr()) : nullptr;
  const Sizes shape{images.size(0), images.size(1), images.size(2), images.size(3)};
  return {torch::stable::contiguous(images),
          torch::stable::contiguous(removed),
          dense_noise,
          drawn,
          allocate(shape, ScalarType::Float, images),
          shape[0],
          shape[1],
          shape[2],
          shape[3],
          float(tolerance)};
}

} // namespace camfast

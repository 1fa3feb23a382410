// The arguments of resize_normalize's derivative, checked and laid out, for the CPU and the CUDA kernel.
#pragma once

#include "resize_normalize.h"

namespace camfast {

struct ResizeBackwardInputs {
  Tensor grad, maps; // [M, *size] and [M, *map], dense, in the accumulation type
  Tensor out;        // [M, *map], not yet written
  Extent map, size;
  int64_t M;
  bool normalize, relu;
};

inline ResizeBackwardInputs resize_backward_inputs(const Tensor& grad, const Tensor& maps, bool normalize, bool relu) {
  check_floating(maps, "maps");
  const ScalarType type = accumulation_type(maps.scalar_type());
  STD_TORCH_CHECK(maps.scalar_type() == type && grad.scalar_type() == type,
                  "grad and maps must have one dtype, float32 or float64, got ", torch::headeronly::toString(grad.scalar_type()),
                  " and ", torch::headeronly::toString(maps.scalar_type()));
  STD_TORCH_CHECK(grad.dim() == maps.dim() && grad.size(0) == maps.size(0), "grad must be of maps ", shape_string(maps), ", got ",
                  shape_string(grad));
  const Sizes own = output_size(std::nullopt, maps, 1), size = output_size(std::nullopt, grad, 1);
  Sizes shape{maps.size(0)};
  shape.insert(shape.end(), own.begin(), own.end());
  return {torch::stable::contiguous(grad),
          torch::stable::contiguous(maps),
          allocate(shape, type, maps),
          extent_of(own),
          extent_of(size),
          maps.size(0),
          normalize,
          relu};
}

} // namespace camfast

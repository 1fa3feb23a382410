// The arguments of resize_normalize, checked and laid out, for the CPU and the CUDA kernel.
#pragma once

#include "layout.h"

namespace camfast {

struct ResizeInputs {
  Tensor maps; // [M, *map], dense
  Tensor out;  // [M, *size]
  Extent map, size;
  int64_t M;
  bool normalize, relu;
};

inline ResizeInputs resize_inputs(const Tensor& maps, const OptionalSizes& asked, bool normalize, bool relu) {
  check_floating(maps, "maps");
  const Sizes size = output_size(asked, maps, 1);
  Sizes shape{maps.size(0)};
  shape.insert(shape.end(), size.begin(), size.end());
  const Tensor out = allocate(shape, accumulation_type(maps.scalar_type()), maps);
  return {torch::stable::contiguous(maps), out, extent_of(maps, 1), extent_of(size), maps.size(0), normalize, relu};
}

} // namespace camfast

// The arguments of eigen_cam and kpca_cam, checked and laid out, for the CPU and the CUDA kernels.
#pragma once

#include "layout.h"

namespace camfast {

// Element (c, s) of image n at n * image + c * channel + s * position; `channel` or `position` is 1.
struct EigenInputs {
  Tensor activations, out;
  Extent map, size;
  int64_t N, C, S;
  int64_t image, channel, position;
  bool kernel; // a kernel PCA, with
  double gamma;
};

inline EigenInputs eigen_inputs(const Tensor& activations, const OptionalSizes& asked, bool kernel, std::optional<double> gamma) {
  check_floating(activations, "activations");
  const int64_t rank = activations.dim() - 2;
  STD_TORCH_CHECK(rank >= 1 && rank <= kMaxMapRank && activations.size(1) > 0,
                  "activations must have shape [N, C, *map] with channels and 1 to 3 map dimensions, got ",
                  shape_string(activations));
  const Sizes size = output_size(asked, activations, 2);
  EigenInputs in{activations, activations};
  in.N = activations.size(0);
  in.C = activations.size(1);
  in.map = extent_of(activations, 2);
  in.size = extent_of(size);
  in.S = in.map.positions();
  in.kernel = kernel;
  in.gamma = gamma.value_or(1.0 / double(in.C));
  Sizes shape{in.N};
  shape.insert(shape.end(), size.begin(), size.end());
  in.out = allocate(shape, accumulation_type(activations.scalar_type()), activations);
  LayoutOf layout = layout_of(activations, 1);
  if (layout.layout == Layout::other) {
    in.activations = torch::stable::contiguous(activations);
    layout = layout_of(in.activations, 1);
  }
  const bool adjacent = layout.layout == Layout::positions_adjacent;
  in.image = in.activations.stride(0);
  in.channel = adjacent ? layout.step : 1;
  in.position = adjacent ? 1 : layout.step;
  return in;
}

} // namespace camfast

// The arguments of the Grad-CAM family, checked and laid out, for the CPU and the CUDA kernels.
#pragma once

#include "layout.h"
#include "math/cam.h"

namespace camfast {

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
  STD_TORCH_CHECK(activations.scalar_type() == second.scalar_type(), "activations and ", name, " must have one dtype, got ",
                  torch::headeronly::toString(activations.scalar_type()), " and ",
                  torch::headeronly::toString(second.scalar_type()));
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
  CamInputs in{activations,
               second,
               rule,
               a.layout,
               activations.size(0),
               has_targets ? second.size(1) : 1,
               activations.size(1),
               has_targets,
               extent_of(activations, 2)};
  in.a_image = activations.stride(0);
  in.a_step = a.step;
  in.s_image = second.stride(0);
  in.s_target = has_targets ? second.stride(1) : 0;
  in.s_step = s.step;
  return in;
}

// The result, not yet written: [N, (K,) *size].
inline Tensor empty_heatmaps(const CamInputs& in, const Sizes& size) {
  Sizes shape{in.N};
  if (in.has_targets) shape.push_back(in.K);
  shape.insert(shape.end(), size.begin(), size.end());
  return allocate(shape, accumulation_type(in.activations.scalar_type()), in.activations);
}

} // namespace camfast

// The arguments of the Grad-CAM family's derivative, checked and laid out, for the CPU and the CUDA kernels.
#pragma once

#include "cam.h"
#include "math/cam_backward.h"

namespace camfast {

// The derivatives have the layout and dtype of what they belong to.
struct CamBackwardInputs {
  CamInputs in;
  Tensor grad;            // [N, (K,) *map] in the accumulation type, dense
  Tensor by_a, by_second; // not yet written; dense
};

inline Rule rule_of(int64_t number) {
  STD_TORCH_CHECK(number >= 0 && number <= int64_t(Rule::grad_cam_elementwise), "rule must be from 0 to 6, got ", number);
  return Rule(number);
}

// Dense strides of [lead..., C, *map] in a layout.
inline Tensor allocate_like(const Tensor& t, int64_t channel_dim, Layout layout) {
  Sizes shape, strides(t.dim(), 1);
  for (int64_t d = 0; d < t.dim(); ++d) shape.push_back(t.size(d));
  int64_t step = 1;
  const auto take = [&](int64_t d) {
    strides[d] = step;
    step *= std::max<int64_t>(shape[d], 1);
  };
  if (layout == Layout::channels_adjacent) take(channel_dim);
  for (int64_t d = t.dim() - 1; d >= 0; --d) {
    if (d != channel_dim || layout != Layout::channels_adjacent) take(d);
  }
  return allocate(shape, strides, t.scalar_type(), t);
}

inline CamBackwardInputs cam_backward_inputs(const Tensor& grad, const Tensor& activations, const Tensor& second, int64_t number) {
  const Rule rule = rule_of(number);
  CamInputs in = cam_inputs(activations, second, rule);
  STD_TORCH_CHECK(grad.scalar_type() == accumulation_type(in.activations.scalar_type()),
                  "grad must have the dtype of the map, got ", torch::headeronly::toString(grad.scalar_type()));
  const int64_t rank = in.activations.dim() - 2;
  bool fits = grad.dim() == 1 + in.has_targets + rank && grad.size(0) == in.N && (!in.has_targets || grad.size(1) == in.K);
  for (int64_t d = 0; fits && d < rank; ++d) fits = grad.size(grad.dim() - rank + d) == in.activations.size(2 + d);
  STD_TORCH_CHECK(fits, "grad must be of maps of activations ", shape_string(in.activations), ", got ", shape_string(grad));
  const Layout layout_of_second = rule == Rule::weights ? Layout::positions_adjacent : in.layout;
  return {in, torch::stable::contiguous(grad), allocate_like(in.activations, 1, in.layout),
          allocate_like(in.second, 1 + in.has_targets, layout_of_second)};
}

} // namespace camfast

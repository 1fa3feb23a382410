// The Grad-CAM family: which rules there are, and their arithmetic. Names follow the papers: a = an activation, g = its
// gradient, w = a channel's weight. The weights are summed up in cpu/cam_weights.h and cuda/cam_weights.cuh.
#pragma once

#include "scalar.h"

namespace camfast {

// What is summed over the channels. The order is that of the schemas in library.cpp.
enum class Rule : int {
  weights,              // w * a, weights given                                 (CAM)
  grad_cam,             // w * a, w = mean g
  grad_cam_plus_plus,   // w * a, w = sum max(g, 0) * alpha(g, sum a)
  xgrad_cam,            // w * a, w = sum(g * a) / (sum a + 1e-7)
  hires_cam,            // g * a
  layer_cam,            // max(g, 0) * a
  grad_cam_elementwise, // max(g * a, 0)
};

CAMFAST_HD constexpr bool has_weights(Rule rule) { return rule <= Rule::xgrad_cam; }
// Rules whose weights need the activations as well as the gradients, so that activations are visited twice.
CAMFAST_HD constexpr bool weights_need_activations(Rule rule) {
  return rule == Rule::grad_cam_plus_plus || rule == Rule::xgrad_cam;
}

constexpr double kXGradEps = 1e-7;
constexpr double kPlusPlusEps = 1e-6;

// One term of Grad-CAM++'s weight (Chattopadhay 2018, eq. 19): max(g, 0) * g^2 / (2 g^2 + sum_a * g^3 + eps).
template <class T>
CAMFAST_HD T plus_plus_term(T g, T sum_a) {
  const T g2 = g * g;
  const T alpha = g2 / (T(2) * g2 + sum_a * (g2 * g) + T(kPlusPlusEps));
  return g <= T(0) ? g * T(-0.0) : g * alpha; // as positive() has it
}

template <class T>
CAMFAST_HD T xgrad_weight(T sum_ga, T sum_a) {
  return sum_ga / (sum_a + T(kXGradEps));
}

// One element's term under an element-wise rule.
template <Rule rule, class T>
CAMFAST_HD T element_term(T a, T g) {
  if (rule == Rule::layer_cam) return positive(g) * a;
  if (rule == Rule::grad_cam_elementwise) return positive(g * a);
  return g * a;
}

} // namespace camfast

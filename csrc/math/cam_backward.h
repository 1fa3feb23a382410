// The derivatives of the Grad-CAM family (math/cam.h): of an element's term, and of a channel's weight. r is the derivative of
// the loss by the map at a position, so that with m = sum_c w_c * a_c the derivatives are
//
//   by a:   r * w  +  (sum r * a) * dw/da        by g:   (sum r * a) * dw/dg
//
// and under element-wise rules r times those of the term. A rule's kinks (g = 0, g * a = 0) have the derivative 0.
#pragma once

#include "cam.h"

namespace camfast {

// One element's term under an element-wise rule: by its activation, and by its gradient.
template <Rule rule, class T>
CAMFAST_HD T element_by_a(T a, T g) {
  if (rule == Rule::layer_cam) return positive(g);
  if (rule == Rule::grad_cam_elementwise) return g * a > T(0) ? g : T(0);
  return g;
}

template <Rule rule, class T>
CAMFAST_HD T element_by_g(T a, T g) {
  if (rule == Rule::layer_cam) return g > T(0) ? a : T(0);
  if (rule == Rule::grad_cam_elementwise) return g * a > T(0) ? a : T(0);
  return a;
}

// One term of Grad-CAM++'s weight, g^3 / D with D = 2 g^2 + sum_a * g^3 + eps: by its gradient, and by sum_a.
template <class T>
CAMFAST_HD T plus_plus_by_g(T g, T sum_a) {
  if (!(g > T(0))) return T(0);
  const T g2 = g * g, g3 = g2 * g;
  const T share = T(1) / (T(2) * g2 + sum_a * g3 + T(kPlusPlusEps));
  return (T(3) * g2 - g3 * (T(4) * g + T(3) * sum_a * g2) * share) * share;
}

template <class T>
CAMFAST_HD T plus_plus_by_sum(T g, T sum_a) {
  if (!(g > T(0))) return T(0);
  const T g2 = g * g, g3 = g2 * g;
  const T term = g3 / (T(2) * g2 + sum_a * g3 + T(kPlusPlusEps));
  return -term * term;
}

// A channel: its weight, and what the derivatives of the weight at its positions are made of.
template <class T>
struct ChannelSlope {
  T weight;
  T sum_a;    // the channel's activations
  T by_any_a; // dw/da that is the same at every position
  T share;    // 1 / positions, or 1 / (sum a + eps)
};

template <Rule rule, class T>
CAMFAST_HD T weight_by_g(const ChannelSlope<T>& c, T a, T g) {
  if (rule == Rule::grad_cam) return c.share;
  if (rule == Rule::xgrad_cam) return a * c.share;
  if (rule == Rule::grad_cam_plus_plus) return plus_plus_by_g(g, c.sum_a);
  return T(0);
}

template <Rule rule, class T>
CAMFAST_HD T weight_by_a(const ChannelSlope<T>& c, T g) {
  if (rule == Rule::xgrad_cam) return (g - c.weight) * c.share;
  if (rule == Rule::grad_cam_plus_plus) return c.by_any_a;
  return T(0);
}

} // namespace camfast

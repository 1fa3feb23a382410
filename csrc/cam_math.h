// The arithmetic of every op, one scalar at a time, shared by the CPU kernels (csrc/cpu) and the CUDA kernels (csrc/cuda).
//
// Names follow the papers: a = an activation, g = its gradient, w = a channel's weight. `T` is the type in which sums are
// taken: float for fp32, fp16 and bf16 inputs, double for fp64.
#pragma once

#include <stdint.h>

#ifdef __CUDACC__
#define CAMFAST_HD __host__ __device__ __forceinline__
#else
#define CAMFAST_HD inline __attribute__((always_inline))
#endif

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

constexpr double kRangeEps = 1e-7;     // recipes: x / (1e-7 + max x)
constexpr double kXGradEps = 1e-7;
constexpr double kPlusPlusEps = 1e-6;
constexpr double kMaskEps = 1e-8;

// max(x, 0), written so that NaN passes through, as torch.clamp and numpy.maximum let it.
template <class T>
CAMFAST_HD T positive(T x) {
  return x < T(0) ? T(0) : x;
}

// One term of Grad-CAM++'s weight (Chattopadhay 2018, eq. 19): max(g, 0) * g^2 / (2 g^2 + sum_a * g^3 + eps).
template <class T>
CAMFAST_HD T plus_plus_term(T g, T sum_a) {
  const T g2 = g * g;
  const T alpha = g2 / (T(2) * g2 + sum_a * (g2 * g) + T(kPlusPlusEps));
  return g <= T(0) ? T(0) : g * alpha;
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

// Where an output sample falls between two source samples: value = (1 - weight) * source[low] + weight * source[high].
// Half-pixel centres, edges clamped, no antialiasing: torch.nn.functional.interpolate(align_corners=False), in the same
// order of operations, so that rounding agrees. With `corners` the first and last samples lie on each other instead
// (align_corners=True).
template <class T>
struct Sample {
  int32_t low, high;
  T weight;
};

template <class T, bool corners = false>
CAMFAST_HD Sample<T> sample_at(int32_t out_index, int32_t in_size, int32_t out_size) {
  if (in_size == out_size) return {out_index, out_index, T(0)};
  T centre;
  if (corners) {
    centre = out_size > 1 ? T(in_size - 1) / T(out_size - 1) * T(out_index) : T(0);
  } else {
    const T scale = T(in_size) / T(out_size);
    centre = scale * (T(out_index) + T(0.5)) - T(0.5);
    if (centre < T(0)) centre = T(0);
  }
  int32_t low = int32_t(centre); // 64 bits would take a GPU several times as long
  if (low > in_size - 1) low = in_size - 1;
  T weight = centre - T(low);
  if (weight > T(1)) weight = T(1);
  return {low, low < in_size - 1 ? low + 1 : low, weight};
}

template <class T>
CAMFAST_HD T mix(T low, T high, T weight) {
  return (T(1) - weight) * low + weight * high;
}

// A resized map is linear between neighbouring source centres, so along each axis the extremes of the samples that fall
// into one cell are its first and its last sample: only these need to be looked at to know the range of the whole output
// (7x7 -> 224x224: 256 samples instead of 50,176). True for samples at the border of a cell, and for the two ends.
// Where the samples lie does not matter to this, so that it holds with aligned corners too.
template <class T, bool corners = false>
CAMFAST_HD bool is_cell_border(int32_t out_index, int32_t in_size, int32_t out_size) {
  if (out_index == 0 || out_index == out_size - 1) return true;
  const int32_t low = sample_at<T, corners>(out_index, in_size, out_size).low;
  return low != sample_at<T, corners>(out_index - 1, in_size, out_size).low ||
         low != sample_at<T, corners>(out_index + 1, in_size, out_size).low;
}

// value -> clamp((value - low) * scale, bottom, top): what is done to each resized sample.
template <class T>
struct Normalizer {
  T low, scale, bottom, top;

  CAMFAST_HD T operator()(T value) const {
    const T x = (value - low) * scale;
    return x < bottom ? bottom : (x > top ? top : x); // NaN passes
  }
};

// Min-max at low resolution, resize, min-max at full resolution, folded into one step after the resize. With M the range
// of the low-resolution map and R that of the resized one,
//   (x / (eps + M) - ...) / (eps + R / (eps + M)) = (x - low) / (R + eps * (eps + M)).
// A range that is not finite (NaN or Inf in the map) makes everything NaN.
template <class T>
CAMFAST_HD Normalizer<T> min_max_normalizer(T map_min, T map_max, T resized_min, T resized_max) {
  const T map_range = map_max - map_min;
  const T range = resized_max - resized_min;
  const T scale = T(1) / (range + T(kRangeEps) * (T(kRangeEps) + map_range));
  const bool finite = map_range - map_range == T(0);
  const T nan = map_range - map_range;
  return {resized_min, finite ? scale : nan, T(0), range * scale};
}

// A mask of Score-CAM: the resized map from 0 to 1, (x - min) / (max - min + eps), the range being that of the resized map,
// or of the map itself. A range that is not finite makes everything NaN.
template <class T>
CAMFAST_HD Normalizer<T> mask_normalizer(T low, T high, T finite) {
  const T range = high - low;
  const T scale = T(1) / (range + T(kMaskEps)) + finite * T(0);
  return {low, scale, T(0), range * scale};
}

// One 8-bit colour channel of an overlay, (1 - alpha) * frame + alpha * colour; without its fraction, halves are rounded up.
CAMFAST_HD float blended(float frame, float frame_share, float color_times_alpha) {
  return frame * frame_share + color_times_alpha + 0.5f;
}

CAMFAST_HD uint8_t blend(float frame, float frame_share, float color_times_alpha) {
  return uint8_t(blended(frame, frame_share, color_times_alpha));
}

// Where in the colour table a heat value lies, from 0 to 255; its row is this without the fraction.
CAMFAST_HD float color_place(float heat) {
  return (heat < 0.f ? 0.f : heat > 1.f ? 1.f : heat) * 255.f;
}

// The row of the colour table for a heat value; -1 for NaN, where the frame shows through.
CAMFAST_HD int color_index(float heat) {
  return heat == heat ? int(color_place(heat)) : -1;
}

} // namespace camfast

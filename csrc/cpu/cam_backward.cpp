// The derivative of the Grad-CAM family's channel sum on the CPU: from the map's to the activations' and the gradients'.
//
// A channel at a time: its activations and gradients are brought into rows of the accumulation type, whatever their layout, so
// that every loop runs over adjacent values; its derivatives go back the same way. Channels of one block share cache lines where
// channels are adjacent.
#include <memory>
#include <tuple>

#include "../cam_backward.h"
#include "../dispatch.h"
#include "simd.h"
#include "team.h"

namespace camfast {
namespace {

constexpr int64_t kChannelsAnItem = 16;
constexpr int64_t kBytesWorthAThread = 64 * 1024;

// Rows of S values.
template <class T>
struct Rows {
  int64_t S;
  const T* r; // the derivative by the map
  const T* a;
  const T* g; // under Rule::weights one value, the weight
  T* by_a;    // added to
  T* by_g;    // overwritten; under Rule::weights one value
};

template <int W, class T>
CAMFAST_INLINE T dot(const T* x, const T* y, int64_t n) {
  Vec<T, W> total{};
  int64_t i = 0;
  for (; i + W <= n; i += W) total += load<T, W>(x + i) * load<T, W>(y + i);
  T sum = horizontal_sum<T, W>(total);
  for (; i < n; ++i) sum += x[i] * y[i];
  return sum;
}

template <int W, class T>
CAMFAST_INLINE T sum_of(const T* x, int64_t n) {
  Vec<T, W> total{};
  int64_t i = 0;
  for (; i + W <= n; i += W) total += load<T, W>(x + i);
  T sum = horizontal_sum<T, W>(total);
  for (; i < n; ++i) sum += x[i];
  return sum;
}

template <Rule rule, class T>
struct ChannelBackward {
  using Scalar = T;

  template <int bytes>
  static CAMFAST_INLINE void run(const Rows<T>& rows) {
    constexpr int W = bytes / sizeof(T);
    const int64_t S = rows.S;
    const T* const r = rows.r;
    const T* const a = rows.a;
    const T* const g = rows.g;
    T* const __restrict by_a = rows.by_a;
    T* const __restrict by_g = rows.by_g;
    if constexpr (!has_weights(rule)) {
      for (int64_t s = 0; s < S; ++s) {
        by_a[s] += r[s] * element_by_a<rule>(a[s], g[s]);
        by_g[s] = r[s] * element_by_g<rule>(a[s], g[s]);
      }
    } else {
      const T by_weight = dot<W>(r, a, S);
      if constexpr (rule == Rule::weights) {
        const T weight = *g;
        *by_g = by_weight;
        for (int64_t s = 0; s < S; ++s) by_a[s] += r[s] * weight;
      } else {
        ChannelSlope<T> c{};
        if constexpr (rule == Rule::grad_cam) {
          c.share = T(1) / T(S);
          c.weight = sum_of<W>(g, S) * c.share;
        } else {
          c.sum_a = sum_of<W>(a, S);
          if constexpr (rule == Rule::xgrad_cam) {
            c.share = T(1) / (c.sum_a + T(kXGradEps));
            c.weight = dot<W>(g, a, S) * c.share;
          } else {
            for (int64_t s = 0; s < S; ++s) {
              c.weight += plus_plus_term(g[s], c.sum_a);
              c.by_any_a += plus_plus_by_sum(g[s], c.sum_a);
            }
          }
        }
        for (int64_t s = 0; s < S; ++s) {
          by_a[s] += r[s] * c.weight + by_weight * weight_by_a<rule>(c, g[s]);
          by_g[s] = by_weight * weight_by_g<rule>(c, a[s], g[s]);
        }
      }
    }
  }
};

template <class T>
using ChannelKernel = void (*)(const Rows<T>&);

template <class T>
ChannelKernel<T> kernel_of(Rule rule) {
  switch (rule) {
    case Rule::weights: return variant<ChannelBackward<Rule::weights, T>, Rows<T>>(isa());
    case Rule::grad_cam: return variant<ChannelBackward<Rule::grad_cam, T>, Rows<T>>(isa());
    case Rule::grad_cam_plus_plus: return variant<ChannelBackward<Rule::grad_cam_plus_plus, T>, Rows<T>>(isa());
    case Rule::xgrad_cam: return variant<ChannelBackward<Rule::xgrad_cam, T>, Rows<T>>(isa());
    case Rule::hires_cam: return variant<ChannelBackward<Rule::hires_cam, T>, Rows<T>>(isa());
    case Rule::layer_cam: return variant<ChannelBackward<Rule::layer_cam, T>, Rows<T>>(isa());
    case Rule::grad_cam_elementwise: break;
  }
  return variant<ChannelBackward<Rule::grad_cam_elementwise, T>, Rows<T>>(isa());
}

template <class In>
void compute(const CamBackwardInputs& all) {
  using T = AccOf<In>;
  const CamInputs& in = all.in;
  const auto* activations = static_cast<const In*>(in.activations.const_data_ptr());
  const auto* second = static_cast<const In*>(in.second.const_data_ptr());
  const auto* grad = static_cast<const T*>(all.grad.const_data_ptr());
  auto* by_a = static_cast<In*>(all.by_a.mutable_data_ptr());
  auto* by_second = static_cast<In*>(all.by_second.mutable_data_ptr());
  const int64_t S = in.map.positions(), C = in.C, K = in.K;
  const bool adjacent = in.layout == Layout::positions_adjacent, weights = in.rule == Rule::weights;
  const ChannelKernel<T> kernel = kernel_of<T>(in.rule);

  const auto block = [&](int64_t item) {
    const int64_t blocks = (C + kChannelsAnItem - 1) / kChannelsAnItem;
    const int64_t n = item / blocks, first = (item % blocks) * kChannelsAnItem, end = std::min(first + kChannelsAnItem, C);
    const auto buffer = std::make_unique<T[]>(4 * S);
    T *a = buffer.get(), *g = a + S, *to_a = g + S, *to_g = to_a + S;
    for (int64_t c = first; c < end; ++c) {
      const In* from = activations + n * in.a_image + c * (adjacent ? in.a_step : 1);
      const int64_t a_next = adjacent ? 1 : in.a_step, s_next = adjacent ? 1 : in.s_step;
      for (int64_t s = 0; s < S; ++s) a[s] = widen<T>(from[s * a_next]);
      for (int64_t s = 0; s < S; ++s) to_a[s] = T(0);
      for (int64_t k = 0; k < K; ++k) {
        const In* own = second + n * in.s_image + k * in.s_target;
        own += weights || !adjacent ? c : c * in.s_step;
        In* result = by_second + (n * K + k) * C * (weights ? 1 : S) + (weights || !adjacent ? c : c * S);
        const int64_t count = weights ? 1 : S, next = adjacent ? 1 : C;
        for (int64_t s = 0; s < count; ++s) g[s] = widen<T>(own[s * s_next]);
        kernel({S, grad + (n * K + k) * S, a, g, to_a, to_g});
        for (int64_t s = 0; s < count; ++s) result[s * next] = In(to_g[s]);
      }
      In* result = by_a + n * C * S + (adjacent ? c * S : c);
      const int64_t next = adjacent ? 1 : C;
      for (int64_t s = 0; s < S; ++s) result[s * next] = In(to_a[s]);
    }
  };
  const int64_t items = in.N * ((C + kChannelsAnItem - 1) / kChannelsAnItem);
  const int64_t bytes = in.N * C * S * int64_t(sizeof(In)) * 2 * (1 + K);
  const int64_t threads = std::clamp<int64_t>(bytes / kBytesWorthAThread, 1, torch::stable::get_num_threads());
  run_team(std::min(threads, items), items, 0, 1, block, [](int64_t, int64_t) {});
}

std::tuple<Tensor, Tensor> cam_backward(const Tensor& grad, const Tensor& activations, const Tensor& second, int64_t rule) {
  const CamBackwardInputs all = cam_backward_inputs(grad, activations, second, rule);
  if (all.by_a.numel() > 0 && all.by_second.numel() > 0) {
    dispatch<Floating>(all.in.activations.scalar_type(), [&](auto type) { compute<typename decltype(type)::type>(all); });
  } else if (all.by_a.numel() > 0) {
    Tensor zeros = all.by_a; // no targets
    torch::stable::zero_(zeros);
  }
  return {all.by_a, all.by_second};
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("cam_backward", TORCH_BOX(&camfast::cam_backward)); }

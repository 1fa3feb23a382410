// The derivative of resize_normalize on the CPU: back through min-max, resize and min-max, a map at a time.
#include <memory>

#include "../dispatch.h"
#include "../math/resize_normalize_backward.h"
#include "../resize_normalize_backward.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

// One map. `resized`: scratch for a whole output, used when the range of the output matters.
template <class T>
struct Job {
  const Resize<T>* resize;
  const T* grad; // [*out]
  const T* x;    // [*in], rectified
  const T* resized;
  T* to; // [*in]
};

// The sums over one stage's values that its slope is made of.
template <class T>
CAMFAST_INLINE MinMaxSlope<T> slope_of(const T* x, const T* grad, int64_t n, T low, T high, T finite) {
  double total = 0, above = 0; // of a whole output, whose terms cancel
  int64_t lows = 0, highs = 0;
  for (int64_t i = 0; i < n; ++i) {
    total += double(grad[i]);
    above += double(grad[i]) * double(x[i] - low);
    lows += x[i] == low;
    highs += x[i] == high;
  }
  return min_max_slope<T>(low, high, T(total), T(above), T(lows), T(highs), finite);
}

template <class T>
CAMFAST_INLINE void range_of(const T* x, int64_t n, T* low, T* high, T* finite) {
  T least = x[0], greatest = x[0], unknown = T(0);
  for (int64_t i = 0; i < n; ++i) {
    least = x[i] < least ? x[i] : least;
    greatest = x[i] > greatest ? x[i] : greatest;
    unknown += x[i] * T(0);
  }
  *low = least;
  *high = greatest;
  *finite = unknown;
}

// The transposed resize: every output's derivative goes to the samples it was read from.
template <class T>
struct Scatter {
  using Scalar = T;

  template <int bytes>
  static CAMFAST_INLINE void run(const Job<T>& job, const MinMaxSlope<T>& slope, const bool& normalize) {
    const Resize<T>& resize = *job.resize;
    const Extent &in = resize.in, &out = resize.out;
    for (int64_t s = 0; s < in.positions(); ++s) job.to[s] = T(0);
    const auto row = std::make_unique<T[]>(out.w + in.w);
    T *values = row.get(), *narrow = values + out.w;
    for (int64_t line = 0; line < out.d * out.h; ++line) {
      const int64_t z = line / out.h, y = line % out.h;
      const T* grad = job.grad + line * out.w;
      if (normalize) {
        const T* x = job.resized + line * out.w;
        for (int64_t i = 0; i < out.w; ++i) values[i] = slope(grad[i], x[i]);
      } else {
        for (int64_t i = 0; i < out.w; ++i) values[i] = grad[i];
      }
      for (int64_t i = 0; i < in.w; ++i) narrow[i] = T(0);
      for (int64_t i = 0; i < out.w; ++i) {
        const T weight = resize.x.weight[i];
        narrow[resize.x.low[i]] += (T(1) - weight) * values[i];
        narrow[resize.x.high[i]] += weight * values[i];
      }
      const auto add = [&](int64_t depth, int64_t height, T share) {
        T* to = job.to + (depth * in.h + height) * in.w;
        for (int64_t i = 0; i < in.w; ++i) to[i] += share * narrow[i];
      };
      const auto add_both = [&](int64_t depth, T share) {
        add(depth, resize.y.low[y], share * (T(1) - resize.y.weight[y]));
        if (resize.y.weight[y] != T(0)) add(depth, resize.y.high[y], share * resize.y.weight[y]);
      };
      add_both(resize.z.low[z], T(1) - resize.z.weight[z]);
      if (resize.z.weight[z] != T(0)) add_both(resize.z.high[z], resize.z.weight[z]);
    }
  }
};

template <class T>
void compute(const ResizeBackwardInputs& in) {
  const auto* grads = static_cast<const T*>(in.grad.const_data_ptr());
  const auto* maps = static_cast<const T*>(in.maps.const_data_ptr());
  auto* out = static_cast<T*>(in.out.mutable_data_ptr());
  const int64_t S = in.map.positions(), area = in.size.positions();
  const Resize<T> resize(in.map, in.size, false);
  const auto one_map = [&](int64_t m) {
    const T *grad = grads + m * area, *raw = maps + m * S;
    T* to = out + m * S;
    const auto buffer = std::make_unique<T[]>(2 * S + (in.normalize ? area : 0));
    T *x = buffer.get(), *small = x + S, *resized = small + S;
    for (int64_t s = 0; s < S; ++s) x[s] = in.relu ? positive(raw[s]) : raw[s];
    T low{}, high{}, finite{};
    MinMaxSlope<T> slope{};
    if (in.normalize) {
      range_of(x, S, &low, &high, &finite);
      for (int64_t s = 0; s < S; ++s) small[s] = (x[s] - low) / (T(kRangeEps) + (high - low));
      constexpr T infinity = __builtin_huge_val();
      write_rows<T>(resize, small, {T(0), T(1), -infinity, infinity}, 0, resize.rows(), resized);
      T least{}, greatest{}, known{};
      range_of(resized, area, &least, &greatest, &known);
      slope = slope_of(resized, grad, area, least, greatest, finite + known);
    }
    const Job<T> job{&resize, grad, x, resized, to};
    multiversion<Scatter<T>>(job, slope, in.normalize);
    if (in.normalize) {
      slope = slope_of(x, to, S, low, high, finite);
      for (int64_t s = 0; s < S; ++s) to[s] = slope(to[s], x[s]);
    }
    if (in.relu) {
      for (int64_t s = 0; s < S; ++s) to[s] = raw[s] > T(0) ? to[s] : T(0);
    }
  };
  const int64_t threads = std::clamp<int64_t>(in.M * (S + area) / 16384, 1, torch::stable::get_num_threads());
  run_team(std::min(threads, in.M), in.M, 0, 1, one_map, [](int64_t, int64_t) {});
}

Tensor resize_normalize_backward(const Tensor& grad, const Tensor& maps, bool normalize, bool relu) {
  const ResizeBackwardInputs in = resize_backward_inputs(grad, maps, normalize, relu);
  if (in.out.numel() == 0) return in.out;
  dispatch(Types<double, float>{}, in.maps.scalar_type(), [&](auto type) { compute<typename decltype(type)::type>(in); });
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("resize_normalize_backward", TORCH_BOX(&camfast::resize_normalize_backward)); }

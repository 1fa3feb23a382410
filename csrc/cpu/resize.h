// From a low-resolution map to rows of the output: resize, range and normalisation, never the output twice.
#pragma once

#include <vector>

#include "../layout.h"
#include "../math/resize_normalize.h"
#include "simd.h"

namespace camfast {

// One axis of a resize: where each output sample reads. `borders` lists the outputs that decide the range (math/resize_normalize.h).
template <class T>
struct Axis {
  std::vector<int32_t> low, high;
  std::vector<T> weight;
  std::vector<int32_t> borders;

  Axis(int64_t in, int64_t out, bool corners = false) : low(out), high(out), weight(out) {
    for (int64_t o = 0; o < out; ++o) {
      const Sample<T> s = corners ? sample_at<T, true>(o, in, out) : sample_at<T>(o, in, out);
      low[o] = s.low;
      high[o] = s.high;
      weight[o] = s.weight;
    }
    for (int64_t o = 0; o < out; ++o) {
      if (o == 0 || o == out - 1 || low[o] != low[o - 1] || low[o] != low[o + 1]) borders.push_back(int32_t(o));
    }
  }

  // The same axis with only the listed outputs.
  Axis(const Axis& all, const std::vector<int32_t>& outputs) {
    for (int32_t o : outputs) {
      low.push_back(all.low[o]);
      high.push_back(all.high[o]);
      weight.push_back(all.weight[o]);
    }
  }

  int64_t size() const { return int64_t(low.size()); }
};

template <class T>
struct Resize {
  Extent in, out;
  bool normalize;
  Axis<T> z, y, x, x_borders;

  Resize(Extent in, Extent out, bool normalize, bool corners = false)
      : in(in),
        out(out),
        normalize(normalize),
        z(in.d, out.d, corners),
        y(in.h, out.h, corners),
        x(in.w, out.w, corners),
        x_borders(x, x.borders) {}

  int64_t rows() const { return out.d * out.h; }
};

// Output rows of one map: interpolated along x as they are first needed, then along y; planes along z likewise.
// Rows are asked for in order, so two of them and one plane are kept.
template <class T>
class RowSampler {
 public:
  RowSampler(const Resize<T>& resize, const Axis<T>& x, const T* map)
      : resize_(resize), x_(x), map_(map), rows_(2 * x.size()), near_(rows_.data()), far_(near_ + x.size()) {
    if (resize.in.d > 1) plane_.resize(resize.in.h * resize.in.w);
    source_ = map;
  }

  // Row (z, y) is (1 - weight) * near + weight * far, both of x.size() values.
  CAMFAST_INLINE T row(int64_t z, int64_t y, const T** near, const T** far) {
    if (resize_.in.d > 1 && z != z_) take_plane(z);
    const int32_t low = resize_.y.low[y], high = resize_.y.high[y];
    if (low != near_id_) {
      if (low == far_id_) {
        std::swap(near_, far_);
        std::swap(near_id_, far_id_);
      } else {
        along_x(low, near_);
        near_id_ = low;
      }
    }
    if (high != low && high != far_id_) {
      along_x(high, far_);
      far_id_ = high;
    }
    *near = near_;
    *far = high == low ? near_ : far_;
    return resize_.y.weight[y];
  }

 private:
  void take_plane(int64_t z) {
    const int64_t n = resize_.in.h * resize_.in.w;
    const T* low = map_ + resize_.z.low[z] * n;
    const T* high = map_ + resize_.z.high[z] * n;
    const T weight = resize_.z.weight[z];
    for (int64_t i = 0; i < n; ++i) plane_[i] = low == high ? low[i] : mix(low[i], high[i], weight);
    source_ = plane_.data();
    z_ = z;
    near_id_ = far_id_ = -1;
  }

  CAMFAST_INLINE void along_x(int32_t row, T* to) const {
    const T* from = source_ + row * resize_.in.w;
    const int32_t* low = x_.low.data();
    const int32_t* high = x_.high.data();
    const T* weight = x_.weight.data();
    const int64_t n = x_.size();
    if (resize_.in.w == resize_.out.w) { // no arithmetic: Inf must stay Inf
      for (int64_t i = 0; i < n; ++i) to[i] = from[low[i]];
    } else {
      for (int64_t i = 0; i < n; ++i) to[i] = (T(1) - weight[i]) * from[low[i]] + weight[i] * from[high[i]];
    }
  }

  const Resize<T>& resize_;
  const Axis<T>& x_;
  const T* map_;
  const T* source_;
  std::vector<T> plane_, rows_;
  T *near_, *far_;
  int64_t z_ = -1;
  int32_t near_id_ = -1, far_id_ = -1;
};

// value = (1 - weight) * near + weight * far, as torch.nn.functional.interpolate rounds it.
template <class T, int W>
CAMFAST_INLINE Vec<T, W> mix_lanes(const T* near, const T* far, T weight) {
  const Vec<T, W> v = load<T, W>(near);
  return near == far ? v : v * (T(1) - weight) + load<T, W>(far) * weight;
}

template <class T>
CAMFAST_INLINE T mix_one(const T* near, const T* far, T weight) {
  return near == far ? *near : mix(*near, *far, weight);
}

// The ranges of one low-resolution map (after ReLU, if any) and of the resized one; `finite` is NaN where a value is not.
template <class T>
struct Ranges {
  T map_min, map_max, low, high, finite;
};

template <class T>
Ranges<T> find_ranges(const Resize<T>& resize, const T* map);

template <class T>
Normalizer<T> find_normalizer(const Resize<T>& resize, const T* map) {
  constexpr T infinity = __builtin_huge_val();
  if (!resize.normalize) return {T(0), T(1), -infinity, infinity};
  const Ranges<T> r = find_ranges<T>(resize, map);
  return min_max_normalizer<T>(r.map_min, r.map_max + r.finite, r.low, r.high);
}

// Rows [begin, end) of the output (z and y counted as one), written to `out` one after the other.
template <class T>
void write_rows(const Resize<T>& resize, const T* map, const Normalizer<T>& normalizer, int64_t begin, int64_t end, T* out);

} // namespace camfast

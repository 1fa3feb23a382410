// The two loops of a resize, compiled once for all ops: the range, and the rows.
#include "resize.h"

namespace camfast {

template <class T>
struct FindRanges {
  using Scalar = T;

  template <int bytes>
  static CAMFAST_INLINE void run(const Resize<T>& resize, const T* const& map, Ranges<T>* const& result) {
    constexpr int W = bytes / sizeof(T);
    const int64_t n = resize.in.positions();
    T map_min = map[0], map_max = map[0], unknown = T(0);
    for (int64_t i = 0; i < n; ++i) {
      map_min = map[i] < map_min ? map[i] : map_min;
      map_max = map[i] > map_max ? map[i] : map_max;
      unknown += map[i] * T(0); // NaN as soon as one value is NaN or Inf
    }
    const Axis<T>& x = resize.x_borders;
    RowSampler<T> sampler(resize, x, map);
    T low = map_max, high = map_min;
    Vec<T, W> lows = splat<T, W>(low), highs = splat<T, W>(high);
    for (int32_t z : resize.z.borders) {
      for (int32_t y : resize.y.borders) {
        const T *near, *far;
        const T weight = sampler.row(z, y, &near, &far);
        int64_t i = 0;
        for (; i + W <= x.size(); i += W) {
          const Vec<T, W> v = mix_lanes<T, W>(near + i, far + i, weight);
          lows = choose<T, W>(v < lows, v, lows);
          highs = choose<T, W>(v > highs, v, highs);
        }
        for (; i < x.size(); ++i) {
          const T v = mix_one(near + i, far + i, weight);
          low = v < low ? v : low;
          high = v > high ? v : high;
        }
      }
    }
    for (int l = 0; l < W; ++l) {
      low = lows[l] < low ? lows[l] : low;
      high = highs[l] > high ? highs[l] : high;
    }
    *result = {map_min, map_max, low, high, unknown};
  }
};

template <class T>
Ranges<T> find_ranges(const Resize<T>& resize, const T* map) {
  Ranges<T> found;
  Ranges<T>* to = &found;
  multiversion<FindRanges<T>>(resize, map, to);
  return found;
}

template <class T>
struct WriteRows {
  using Scalar = T;

  template <int bytes>
  static CAMFAST_INLINE void run(const Resize<T>& resize, const T* const& map, const Normalizer<T>& normalizer,
                                 const int64_t& begin, const int64_t& end, T* const& out) {
    constexpr int W = bytes / sizeof(T);
    using V = Vec<T, W>;
    const int64_t width = resize.out.w;
    RowSampler<T> sampler(resize, resize.x, map);
    const V low = splat<T, W>(normalizer.low), bottom = splat<T, W>(normalizer.bottom), top = splat<T, W>(normalizer.top);
    for (int64_t r = begin; r < end; ++r) {
      const T *near, *far;
      const T weight = sampler.row(r / resize.out.h, r % resize.out.h, &near, &far);
      T* row = out + (r - begin) * width;
      int64_t i = 0;
      for (; i + W <= width; i += W) {
        V v = mix_lanes<T, W>(near + i, far + i, weight);
        if (resize.normalize) {
          v = (v - low) * normalizer.scale;
          v = choose<T, W>(v < bottom, bottom, v);
          v = choose<T, W>(v > top, top, v);
        }
        store(row + i, v);
      }
      for (; i < width; ++i) {
        const T v = mix_one(near + i, far + i, weight);
        row[i] = resize.normalize ? normalizer(v) : v;
      }
    }
  }
};

template <class T>
void write_rows(const Resize<T>& resize, const T* map, const Normalizer<T>& normalizer, int64_t begin, int64_t end, T* out) {
  multiversion<WriteRows<T>>(resize, map, normalizer, begin, end, out);
}

template Ranges<float> find_ranges(const Resize<float>&, const float*);
template Ranges<double> find_ranges(const Resize<double>&, const double*);
template void write_rows(const Resize<float>&, const float*, const Normalizer<float>&, int64_t, int64_t, float*);
template void write_rows(const Resize<double>&, const double*, const Normalizer<double>&, int64_t, int64_t, double*);

} // namespace camfast

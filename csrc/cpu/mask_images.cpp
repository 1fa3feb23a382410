// Score-CAM's inputs on the CPU: each map, resized and scaled from 0 to 1, times its image, in one pass over the output.
#include <memory>

#include "../dispatch.h"
#include "../mask_images.h"
#include "../math/mask_images.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

// W values in their own type; halves are rounded to nearest, ties to even.
template <class T, int W>
CAMFAST_INLINE void store_as(T* p, Vec<T, W> v) {
  store(p, v);
}
template <class T, int W>
CAMFAST_INLINE void store_as(BFloat16* p, Vec<float, W> v) {
  using U = Vec<uint32_t, W>;
  const U raw = bits<U>(v);
  const U rounded = (raw + 0x7fffu + ((raw >> 16) & 1u)) >> 16;
  const U is_number = bits<U>(v == v);
  store(p, __builtin_convertvector((rounded & is_number) | (~is_number & 0x7fc0u), Vec<uint16_t, W>));
}
template <class T, int W>
CAMFAST_INLINE void store_as(Half* p, Vec<float, W> v) {
  for (int l = 0; l < W; ++l) p[l] = Half(v[l]);
}

// Rows [begin, end) of one masked image; the scratch holds a row of the mask, and for channels_last one more, spread over the planes.
template <class In>
struct MaskRows {
  using T = AccOf<In>;
  using Scalar = T;
  const In* image;
  In* out;
  int64_t planes, begin, end;
  bool channels_last;
  T* scratch;

  template <int bytes>
  static CAMFAST_INLINE void run(const MaskRows& job, const Resize<T>& resize, const T* const& map,
                                 const Normalizer<T>& normalizer) {
    constexpr int W = bytes / sizeof(T);
    using V = Vec<T, W>;
    const int64_t width = resize.out.w, area = resize.rows() * width;
    RowSampler<T> sampler(resize, resize.x, map);
    const V low = splat<T, W>(normalizer.low), bottom = splat<T, W>(normalizer.bottom), top = splat<T, W>(normalizer.top);
    T* mask = job.scratch;
    for (int64_t r = job.begin; r < job.end; ++r) {
      const T *near, *far;
      const T weight = sampler.row(r / resize.out.h, r % resize.out.h, &near, &far);
      int64_t i = 0;
      for (; i + W <= width; i += W) {
        V v = (mix_lanes<T, W>(near + i, far + i, weight) - low) * normalizer.scale;
        v = choose<T, W>(v < bottom, bottom, v);
        store(mask + i, choose<T, W>(v > top, top, v));
      }
      for (; i < width; ++i) mask[i] = normalizer(mix_one(near + i, far + i, weight));
      if (job.channels_last) {
        T* wide = mask + width;
        spread(mask, width, job.planes, wide);
        multiply<W>(job.image + r * width * job.planes, wide, width * job.planes, job.out + r * width * job.planes);
      } else {
        for (int64_t p = 0; p < job.planes; ++p) {
          multiply<W>(job.image + p * area + r * width, mask, width, job.out + p * area + r * width);
        }
      }
    }
  }

  // Each value once per plane.
  static CAMFAST_INLINE void spread(const T* mask, int64_t width, int64_t planes, T* wide) {
    if (planes == 3) {
      for (int64_t i = 0; i < width; ++i) wide[3 * i] = wide[3 * i + 1] = wide[3 * i + 2] = mask[i];
      return;
    }
    for (int64_t i = 0; i < width; ++i) {
      for (int64_t p = 0; p < planes; ++p) wide[i * planes + p] = mask[i];
    }
  }

  template <int W>
  static CAMFAST_INLINE void multiply(const In* image, const T* mask, int64_t count, In* out) {
    int64_t i = 0;
    for (; i + W <= count; i += W) store_as<T, W>(out + i, load<T, W>(image + i) * load<T, W>(mask + i));
    for (; i < count; ++i) out[i] = In(widen<T>(image[i]) * mask[i]);
  }
};

template <class In>
void compute(MaskInputs& in, bool corners, bool scale_first) {
  using T = AccOf<In>;
  const auto* images = static_cast<const In*>(in.images.const_data_ptr());
  const auto* maps = static_cast<const T*>(in.maps.const_data_ptr());
  auto* out = static_cast<In*>(in.out.mutable_data_ptr());
  const int64_t S = in.map.positions(), area = in.size.positions(), count = in.N * in.C;
  const Resize<T> resize(in.map, in.size, true, corners);
  const int64_t threads = std::clamp<int64_t>(count * area * in.planes / 32768, 1, torch::stable::get_num_threads());
  // Fewer maps than threads: each is shared out by rows.
  const int64_t claims = count >= threads ? 1 : std::min((threads + count - 1) / count, resize.rows());
  const int64_t claim = (resize.rows() + claims - 1) / claims;
  const auto part = [&](int64_t item) {
    const int64_t m = item / claims, first = std::min((item % claims) * claim, resize.rows());
    const int64_t last = std::min(first + claim, resize.rows());
    if (first >= last) return;
    const T* map = maps + m * S;
    const Ranges<T> r = find_ranges<T>(resize, map);
    const Normalizer<T> normalizer = mask_normalizer(scale_first ? r.map_min : r.low, scale_first ? r.map_max : r.high,
                                                         r.map_min == r.map_max, r.finite);
    const auto scratch = std::make_unique<T[]>(in.size.w * (1 + (in.channels_last ? in.planes : 0)));
    const MaskRows<In> rows{
        images + m / in.C * in.planes * area, out + m * in.planes * area, in.planes, first, last, in.channels_last, scratch.get()};
    multiversion<MaskRows<In>>(rows, resize, map, normalizer);
  };
  run_team(std::min(threads, count * claims), count * claims, 0, 1, part, [](int64_t, int64_t) {});
}

Tensor mask_images(const Tensor& images, const Tensor& maps, bool align_corners, bool scale_first) {
  MaskInputs in = mask_inputs(images, maps);
  if (in.out.numel() == 0) return in.out;
  dispatch<Floating>(images.scalar_type(),
                     [&](auto type) { compute<typename decltype(type)::type>(in, align_corners, scale_first); });
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("mask_images", TORCH_BOX(&camfast::mask_images)); }

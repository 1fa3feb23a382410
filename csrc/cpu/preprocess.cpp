// Frames to a network's input on the CPU: resized with antialiasing, normalised and laid out, a row of the result at a time.
//
//   rows of the frame under one output row        [taps][3 W] uint8
//     -- weighted sum down the columns -->        [3 W] float      (vectors along the row: this is nearly all the work)
//     -- weighted sums along the row   -->        [w][4] float     (red, green, blue and padding in one vector)
//     -- scale, shift, convert         -->        the result's row, in planes or interleaved
//
// A frame row lies under two output rows at most when it is reduced, and is still in the caches for the second.
#include <memory>

#include "../dispatch.h"
#include "../preprocess.h"
#include "simd.h"
#include "team.h"

namespace camfast {
namespace {

// Taps of every output along one axis: output i reads count[i] values from first[i] on; its weights add up to 1.
struct Taps {
  std::vector<int> first, count;
  std::vector<float> weights; // [out, most]
  int most = 1;

  explicit Taps(const ResizeAxis& axis) : first(axis.out), count(axis.out) {
    for (int i = 0; i < axis.out; ++i) {
      const ResizeAxis::Centre centre = axis.centre(i);
      first[i] = centre.inside ? axis.first(centre) : 0;
      count[i] = centre.inside ? axis.end(centre) - first[i] : 0;
      most = std::max(most, count[i]);
    }
    weights.resize(size_t(axis.out) * most);
    for (int i = 0; i < axis.out; ++i) {
      float* own = weights.data() + size_t(i) * most;
      const ResizeAxis::Centre centre = axis.centre(i);
      float sum = 0.f;
      for (int t = 0; t < count[i]; ++t) sum += own[t] = axis.weight(first[i] + t, centre);
      for (int t = 0; t < count[i]; ++t) own[t] /= sum;
    }
  }
  const float* of(int i) const { return weights.data() + size_t(i) * most; }
};

// sum[i] = sum over rows r of weights[r] * frame[r * pitch + i], for n bytes of a row. Bytes are taken four to a lane and
// shifted apart, which every instruction set can do: lane l of `acc[k]` is byte 4 l + k.
struct SumRows {
  template <int bytes>
  static CAMFAST_INLINE void run(const uint8_t* const& frame, const int64_t& pitch, const float* const& weights, const int& rows,
                                 const int64_t& n, float* const& sum) {
    constexpr int W = bytes / 4, kStep = 4 * W;
    int64_t i = 0;
    for (; i + 2 * kStep <= n; i += 2 * kStep) {
      Vec<float, W> acc[8] = {};
      for (int r = 0; r < rows; ++r) {
        const uint8_t* row = frame + r * pitch + i;
        const Vec<float, W> weight = splat<float, W>(weights[r]);
        const auto a = load_raw<Vec<int32_t, W>>(row), b = load_raw<Vec<int32_t, W>>(row + kStep);
        for (int k = 0; k < 4; ++k) {
          acc[k] += __builtin_convertvector((a >> (8 * k)) & 255, Vec<float, W>) * weight;
          acc[4 + k] += __builtin_convertvector((b >> (8 * k)) & 255, Vec<float, W>) * weight;
        }
      }
      float apart[8][W];
      memcpy(apart, acc, sizeof(apart));
      for (int half = 0; half < 2; ++half) {
        float* to = sum + i + half * kStep;
        for (int l = 0; l < W; ++l) {
          for (int k = 0; k < 4; ++k) to[4 * l + k] = apart[4 * half + k][l];
        }
      }
    }
    for (; i < n; ++i) {
      float acc = 0.f;
      for (int r = 0; r < rows; ++r) acc += float(frame[r * pitch + i]) * weights[r];
      sum[i] = acc;
    }
  }
};

// out[x] = sum over taps t of weight * (red, green, blue) of pixel first[x] + t, in [w][4]. `row` starts at pixel `offset`
// and may be read one value beyond its last pixel.
struct SumAlong {
  template <int bytes>
  static CAMFAST_INLINE void run(const float* const& row, const int& offset, const Taps& taps, const int& w, float* const& out) {
    for (int x = 0; x < w; ++x) {
      const float* pixel = row + 3 * int64_t(taps.first[x] - offset);
      const float* weights = taps.of(x);
      const int count = taps.count[x];
      Vec<float, 4> even{}, odd{}; // two chains of additions
      int t = 0;
      for (; t + 2 <= count; t += 2, pixel += 6) {
        even += load<float, 4>(pixel) * weights[t];
        odd += load<float, 4>(pixel + 3) * weights[t + 1];
      }
      if (t < count) even += load<float, 4>(pixel) * weights[t];
      store(out + 4 * int64_t(x), even + odd);
    }
  }
};

struct PreprocessJob {
  const PreprocessInputs& a;
  const Taps &rows, &columns;
  int left, right; // the columns of the frame that are looked at
};

template <class Out>
void write_row(const float* row, int64_t w, const Normalise& by, bool channels_last, int64_t plane, Out* out) {
  const int64_t pixel = channels_last ? 3 : 1, channel = channels_last ? 1 : plane;
  for (int c = 0; c < 3; ++c) {
    const float scale = by.scale[c], shift = by.shift[c];
    Out* to = out + c * channel;
    for (int64_t x = 0; x < w; ++x) to[x * pixel] = static_cast<Out>(row[4 * x + c] * scale + shift);
  }
}

template <class Out>
void preprocess_rows(const PreprocessJob& job, const uint8_t* frame, int begin, int end, Out* out) {
  const PreprocessInputs& a = job.a;
  const int64_t n = 3 * int64_t(job.right - job.left);
  const auto sum = std::make_unique<float[]>(n + 1);
  const auto row = std::make_unique<float[]>(4 * a.w);
  for (int y = begin; y < end; ++y) {
    const uint8_t* top = frame + (int64_t(job.rows.first[y]) * a.W + job.left) * 3;
    multiversion<SumRows>(top, a.W * 3, job.rows.of(y), job.rows.count[y], n, sum.get());
    multiversion<SumAlong>(static_cast<const float*>(sum.get()), job.left, job.columns, int(a.w), row.get());
    write_row(row.get(), a.w, a.normalise, a.channels_last, a.h * a.w, out + int64_t(y) * a.w * (a.channels_last ? 3 : 1));
  }
}

template <class Out>
void preprocess_all(const PreprocessInputs& a) {
  const auto* frames = static_cast<const uint8_t*>(a.frames.const_data_ptr());
  auto* out = static_cast<Out*>(a.out.mutable_data_ptr());
  const Taps rows(a.rows), columns(a.columns);
  PreprocessJob job{a, rows, columns, int(a.W), 0};
  for (int x = 0; x < a.w; ++x) {
    if (columns.count[x] == 0) continue;
    job.left = std::min(job.left, columns.first[x]);
    job.right = std::max(job.right, columns.first[x] + columns.count[x]);
  }
  job.left = std::min(job.left, job.right);
  const int64_t area = int64_t(job.right - job.left) * a.H;
  const int64_t threads = std::clamp<int64_t>(a.N * (area + a.h * a.w) / 32768, 1, torch::stable::get_num_threads());
  const int64_t rows_a_piece = std::max<int64_t>(1, std::min<int64_t>(16, a.h / (4 * threads)));
  const int64_t pieces = (a.h + rows_a_piece - 1) / rows_a_piece;
  const auto piece = [&](int64_t item) {
    const int64_t n = item / pieces, begin = (item % pieces) * rows_a_piece;
    preprocess_rows(job, frames + n * a.H * a.W * 3, int(begin), int(std::min(begin + rows_a_piece, a.h)), out + n * 3 * a.h * a.w);
  };
  run_team(threads, a.N * pieces, 0, 1, piece, [](int64_t, int64_t) {});
}

Tensor preprocess(const Tensor& frames, Sizes size, std::vector<double> mean, std::vector<double> std, ScalarType dtype,
                  std::optional<std::vector<double>> box, bool channels_last) {
  const PreprocessInputs in = preprocess_inputs(frames, size, mean, std, dtype, box, channels_last);
  if (in.out.numel() == 0) return in.out;
  dispatch<UpToSingle>(dtype, [&](auto type) { preprocess_all<typename decltype(type)::type>(in); });
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("preprocess", TORCH_BOX(&camfast::preprocess)); }

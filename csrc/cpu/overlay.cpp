// Heatmap over frames on the CPU: resize, colour and blend, a row at a time; nothing but the frames is read or written.
#include <memory>

#include "../math/overlay.h"
#include "../overlay.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

struct OverlayJob {
  const uint8_t* frame; // [H, W, 3]
  const float* heat;    // [h, w]
  const float* colors;  // [256, 4]: red, green, blue times alpha; the fourth is padding, so that a copy is one load
  float frame_share;    // 1 - alpha
  uint8_t* out;         // [H, W, 3]
};

// out = frame * frame_share + line, 3 * width values in one go.
struct BlendLine {
  template <int bytes>
  static CAMFAST_INLINE void run(const uint8_t* const& frame, const float* const& line, const float& frame_share, const int64_t& n,
                                 uint8_t* const& out) {
    constexpr int W = bytes / 4;
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      // By way of 16 bits: compilers take a conversion from 8 bits to 32 at once apart, byte by byte.
      const auto half = __builtin_convertvector(load_raw<Vec<uint8_t, W>>(frame + i), Vec<uint16_t, W>);
      const auto x = __builtin_convertvector(half, Vec<int32_t, W>);
      const Vec<float, W> v = __builtin_convertvector(x, Vec<float, W>) * frame_share + load<float, W>(line + i) + 0.5f;
      const auto rounded = __builtin_convertvector(__builtin_convertvector(v, Vec<int32_t, W>), Vec<uint16_t, W>);
      store(out + i, __builtin_convertvector(rounded, Vec<uint8_t, W>));
    }
    for (; i < n; ++i) out[i] = blend(float(frame[i]), frame_share, line[i]);
  }
};

// A row of heat values as rows of the colour table; whether one of them is NaN (index 0 then).
struct IndexLine {
  template <int bytes>
  static CAMFAST_INLINE void run(const float* const& near, const float* const& far, const float& weight, const int64_t& n,
                                 int32_t* const& index, bool* const& has_nan) {
    constexpr int W = bytes / 4;
    const Vec<float, W> zero{}, one = splat<float, W>(1.f);
    Vec<int32_t, W> unknown{};
    int64_t i = 0;
    for (; i + W <= n; i += W) {
      Vec<float, W> v = mix_lanes<float, W>(near + i, far + i, weight);
      unknown |= bits<Vec<int32_t, W>>(v != v);
      v = choose<float, W>(v > zero, v, zero);
      v = choose<float, W>(v < one, v, one);
      store(index + i, __builtin_convertvector(v * 255.f, Vec<int32_t, W>));
    }
    bool any = false;
    for (int l = 0; l < W; ++l) any |= unknown[l] != 0;
    for (; i < n; ++i) {
      const int at = color_index(mix_one(near + i, far + i, weight));
      any |= at < 0;
      index[i] = at < 0 ? 0 : at;
    }
    *has_nan = any;
  }
};

void overlay_rows(const OverlayJob& job, const Resize<float>& resize, int64_t begin, int64_t end) {
  const int64_t W = resize.out.w;
  RowSampler<float> sampler(resize, resize.x, job.heat);
  const auto index = std::make_unique<int32_t[]>(W);
  const auto line = std::make_unique<float[]>(3 * W + 1);
  for (int64_t y = begin; y < end; ++y) {
    const float *near, *far;
    const float weight = sampler.row(0, y, &near, &far);
    bool has_nan = false;
    multiversion<IndexLine>(near, far, weight, W, index.get(), &has_nan);
    for (int64_t x = 0; x < W; ++x) memcpy(line.get() + 3 * x, job.colors + 4 * index[x], 4 * sizeof(float));
    const uint8_t* frame = job.frame + y * W * 3;
    uint8_t* out = job.out + y * W * 3;
    multiversion<BlendLine>(frame, line.get(), job.frame_share, 3 * W, out);
    if (!has_nan) continue;
    for (int64_t x = 0; x < W; ++x) {
      if (color_index(mix_one(near + x, far + x, weight)) < 0) memcpy(out + 3 * x, frame + 3 * x, 3);
    }
  }
}

Tensor overlay(const Tensor& frames, const Tensor& heatmap, const Tensor& colors, double alpha) {
  const OverlayInputs in = overlay_inputs(frames, heatmap, colors, alpha);
  if (in.out.numel() == 0) return in.out;
  const int64_t H = in.frame.h, W = in.frame.w;

  const auto* table = static_cast<const uint8_t*>(in.colors.const_data_ptr());
  float scaled[256 * 4];
  for (int i = 0; i < 256; ++i) {
    for (int c = 0; c < 3; ++c) scaled[4 * i + c] = float(table[3 * i + c]) * in.alpha;
    scaled[4 * i + 3] = 0.f;
  }
  const Resize<float> resize(in.map, in.frame, false);
  const auto* frame = static_cast<const uint8_t*>(in.frames.const_data_ptr());
  const auto* heat = static_cast<const float*>(in.heatmap.const_data_ptr());
  auto* result = static_cast<uint8_t*>(in.out.mutable_data_ptr());

  constexpr int64_t kRows = 32; // rows in one piece: enough to amortise its buffers, few enough to share out evenly
  const int64_t pieces = (H + kRows - 1) / kRows;
  const auto piece = [&](int64_t item) {
    const int64_t n = item / pieces, begin = (item % pieces) * kRows;
    const OverlayJob job{frame + n * H * W * 3, heat + n * in.map.positions(), scaled, in.frame_share, result + n * H * W * 3};
    overlay_rows(job, resize, begin, std::min(begin + kRows, H));
  };
  const int64_t threads = std::clamp<int64_t>(in.N * H * W / 32768, 1, torch::stable::get_num_threads());
  run_team(threads, in.N * pieces, 0, 1, piece, [](int64_t, int64_t) {});
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("overlay", TORCH_BOX(&camfast::overlay)); }

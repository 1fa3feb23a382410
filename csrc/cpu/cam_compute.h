#pragma once
// The Grad-CAM family on the CPU: weights, channel sum, ReLU, resize and normalisation, in one parallel region.
//
// One source file instantiates it for 32 and 64 bits, one for 16, so that two cores compile them side by side.
#include <algorithm>
#include <memory>
#include <tuple>

#include "../cam.h"
#include "cam_sum.h"
#include "resize.h"
#include "team.h"

namespace camfast {

// Below so many bytes of input the work is done before a second thread has woken up.
inline constexpr int64_t kBytesWorthAThread = 64 * 1024;

// How many pieces each map's channels are cut into, so that the pieces go evenly over the threads.
inline int64_t pieces_a_map(int64_t maps, int64_t C, int64_t threads) {
  if (threads <= 1 || maps >= 8 * threads) return 1;
  int64_t a = maps, b = threads;
  while (b) std::tie(a, b) = std::make_tuple(b, a % b); // a = gcd
  return std::clamp<int64_t>(threads / a, 1, std::max<int64_t>(1, C / 32));
}

template <class T>
void rectify(T* map, int64_t n) {
  for (int64_t i = 0; i < n; ++i) map[i] = positive(map[i]);
}

template <class In>
void compute_cam(const CamInputs& in, const Extent& out_extent, bool normalize, void* out_data) {
  using T = AccOf<In>;
  const Rule rule = in.rule;
  const auto* activations = static_cast<const In*>(in.activations.const_data_ptr());
  const auto* second = static_cast<const In*>(in.second.const_data_ptr());
  T* out = static_cast<T*>(out_data);
  const int64_t maps = in.N * in.K, S = in.map.positions(), area = out_extent.positions();
  const bool adjacent = in.layout == Layout::positions_adjacent;

  const int64_t bytes = maps * (in.C * S * int64_t(sizeof(In)) * (rule == Rule::weights ? 1 : 2) + area * int64_t(sizeof(T)));
  const int64_t threads = std::clamp<int64_t>(bytes / kBytesWorthAThread, 1, torch::stable::get_num_threads());
  const int64_t parts = pieces_a_map(maps, in.C, threads);
  const Resize<T> resize(in.map, out_extent, normalize);
  const CamKernels<In> kernels = kernels_of<In>(rule, in.layout, S);

  const auto sum_piece = [&](int64_t m, int64_t part, T* map, T* scratch) {
    const int64_t n = m / in.K, k = m % in.K;
    const int64_t first = in.C * part / parts, last = in.C * (part + 1) / parts;
    const In* a = activations + n * in.a_image + first * (adjacent ? in.a_step : 1);
    const In* s = second + n * in.s_image + k * in.s_target;
    s += first * (rule != Rule::weights && adjacent ? in.s_step : 1);
    kernels.sum({a, s, last - first, S, in.a_step, in.s_step, scratch, map, kernels.weights});
  };
  const auto finish = [&](int64_t m, T* map, int64_t begin, int64_t end) {
    if (normalize) rectify(map, S);
    write_rows<T>(resize, map, find_normalizer<T>(resize, map), begin, end, out + m * area + begin * resize.out.w);
  };

  const int64_t scratch_size = piece_scratch(in.layout, S);
  if (parts == 1) {
    const auto whole_map = [&](int64_t m) {
      const auto buffer = std::make_unique<T[]>(S + scratch_size);
      sum_piece(m, 0, buffer.get(), buffer.get() + S);
      finish(m, buffer.get(), 0, resize.rows());
    };
    return run_team(std::min(threads, maps), maps, 0, 1, whole_map, [](int64_t, int64_t) {});
  }

  // Fewer maps than threads: channels are shared out, partial maps added in a fixed order, and the rows shared out too.
  const auto partial = std::make_unique<T[]>(maps * parts * S);
  const auto one_part = [&](int64_t item) {
    const auto scratch = std::make_unique<T[]>(scratch_size);
    sum_piece(item / parts, item % parts, partial.get() + item * S, scratch.get());
  };
  const auto some_rows = [&](int64_t begin, int64_t end) {
    const int64_t m = begin / resize.rows(), offset = m * resize.rows();
    const auto map = std::make_unique<T[]>(S);
    const T* from = partial.get() + m * parts * S;
    for (int64_t s = 0; s < S; ++s) map[s] = from[s];
    for (int64_t p = 1; p < parts; ++p) {
      for (int64_t s = 0; s < S; ++s) map[s] += from[p * S + s];
    }
    finish(m, map.get(), begin - offset, end - offset);
  };
  // A claim never crosses from one map into the next: as many claims a map as give every thread one.
  const int64_t claims = std::clamp<int64_t>((threads + maps - 1) / maps, 1, resize.rows());
  const int64_t claim = (resize.rows() + claims - 1) / claims;
  const auto claimed_rows = [&](int64_t begin, int64_t end) {
    for (int64_t c = begin; c < end; ++c) {
      const int64_t m = c / claims, first = std::min((c % claims) * claim, resize.rows());
      const int64_t last = std::min(first + claim, resize.rows());
      if (first < last) some_rows(m * resize.rows() + first, m * resize.rows() + last);
    }
  };
  run_team(threads, maps * parts, maps * claims, 1, one_part, claimed_rows);
}

} // namespace camfast

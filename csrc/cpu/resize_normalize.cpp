// Any maps [M, *map] -> [M, *size]: min-max, linear resize, min-max, on the CPU.
#include <memory>

#include "../dispatch.h"
#include "../resize_normalize.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

template <class In>
void compute(const ResizeInputs& in) {
  using T = AccOf<In>;
  const auto* data = static_cast<const In*>(in.maps.const_data_ptr());
  auto* out = static_cast<T*>(in.out.mutable_data_ptr());
  const int64_t M = in.M, S = in.map.positions(), area = in.size.positions();
  const Resize<T> resize(in.map, in.size, in.normalize);
  const int64_t threads = std::clamp<int64_t>(M * (S + area) / 16384, 1, torch::stable::get_num_threads());
  // A single large map is shared out by rows; each thread finds the range by itself.
  const int64_t claims = M >= threads ? 1 : std::min((threads + M - 1) / M, resize.rows());
  const int64_t claim = (resize.rows() + claims - 1) / claims;
  const auto part = [&](int64_t item) {
    const int64_t m = item / claims, first = std::min((item % claims) * claim, resize.rows());
    const int64_t last = std::min(first + claim, resize.rows());
    if (first >= last) return;
    const auto map = std::make_unique<T[]>(S);
    for (int64_t s = 0; s < S; ++s) map[s] = widen<T>(data[m * S + s]);
    if (in.relu) {
      for (int64_t s = 0; s < S; ++s) map[s] = positive(map[s]);
    }
    write_rows<T>(resize, map.get(), find_normalizer<T>(resize, map.get()), first, last, out + m * area + first * resize.out.w);
  };
  run_team(std::min(threads, M * claims), M * claims, 0, 1, part, [](int64_t, int64_t) {});
}

Tensor resize_normalize(const Tensor& maps, OptionalSizes size, bool normalize, bool relu) {
  const ResizeInputs in = resize_inputs(maps, size, normalize, relu);
  if (in.out.numel() == 0) return in.out;
  dispatch<Floating>(maps.scalar_type(), [&](auto type) { compute<typename decltype(type)::type>(in); });
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("resize_normalize", TORCH_BOX(&camfast::resize_normalize)); }

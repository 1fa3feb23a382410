// Any maps [M, *map] -> [M, *size]: min-max, linear resize, min-max, on the CPU; and the CPU's capability, for bug reports.
#include <memory>

#include "../tensor.h"
#include "channel_sum.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

template <class In>
void compute(const Tensor& maps, const Extent& in, const Extent& out_extent, bool normalize, bool relu, void* out_data) {
  using T = AccOf<In>;
  const auto* data = static_cast<const In*>(maps.const_data_ptr());
  T* out = static_cast<T*>(out_data);
  const int64_t M = maps.size(0), S = in.positions(), area = out_extent.positions();
  const Resize<T> resize(in, out_extent, normalize);
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
    if (relu) {
      for (int64_t s = 0; s < S; ++s) map[s] = positive(map[s]);
    }
    write_rows<T>(resize, map.get(), find_normalizer<T>(resize, map.get()), first, last, out + m * area);
  };
  run_team(std::min(threads, M * claims), M * claims, 0, 1, part, [](int64_t, int64_t) {});
}

Tensor resize_normalize(const Tensor& maps, OptionalSizes size, bool normalize, bool relu) {
  check_floating(maps, "maps");
  const Sizes out_size = output_size(size, maps, 1);
  Sizes shape{maps.size(0)};
  shape.insert(shape.end(), out_size.begin(), out_size.end());
  Tensor out = allocate(shape, accumulation_type(maps.scalar_type()), maps);
  if (out.numel() == 0) return out;
  const Tensor dense = torch::stable::contiguous(maps);
  const Extent in = extent_of(dense, 1), extent = extent_of(out_size);
  void* data = out.mutable_data_ptr();
  switch (maps.scalar_type()) {
    case ScalarType::Double: compute<double>(dense, in, extent, normalize, relu, data); break;
    case ScalarType::Float: compute<float>(dense, in, extent, normalize, relu, data); break;
    case ScalarType::Half: compute<torch::headeronly::Half>(dense, in, extent, normalize, relu, data); break;
    default: compute<torch::headeronly::BFloat16>(dense, in, extent, normalize, relu, data); break;
  }
  return out;
}

std::string cpu_capability() {
  switch (isa()) {
    case Isa::avx512: return "AVX-512";
    case Isa::avx2: return "AVX2";
    default: return "baseline";
  }
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("resize_normalize", TORCH_BOX(&camfast::resize_normalize));
}

STABLE_TORCH_LIBRARY_IMPL(camfast, CompositeExplicitAutograd, m) {
  m.impl("cpu_capability", TORCH_BOX(&camfast::cpu_capability));
}

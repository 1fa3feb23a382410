// EigenCAM and KPCA-CAM on the CPU: Gram matrix, largest eigenpair, sign, resize and normalisation, in one parallel region.
#include <math.h>

#include <algorithm>
#include <memory>

#include "../dispatch.h"
#include "../eigen_cam.h"
#include "eigen_cam_gram.h"
#include "eigen_cam_lanczos.h"
#include "resize.h"
#include "team.h"

namespace camfast {
namespace {

constexpr int64_t kWorthAThread = 64 * 1024;         // multiplications
constexpr int64_t kPartialBytes = 256 * 1024 * 1024; // at most, for the threads' shares of Gram matrices

struct EigenShape {
  int64_t N, C, S;
  bool kernel; // a kernel PCA, with
  double gamma;

  bool over_positions() const { return kernel || S <= C; }
  int64_t n() const { return over_positions() ? S : C; }
  int64_t depth() const { return over_positions() ? C : S; }
};

// gram -> the centred sigmoid kernel tanh(gamma * x.y + 1) of the same positions.
void to_kernel(double* gram, int64_t n, int64_t np, double gamma) {
  std::vector<double> means(n, 0.0);
  double mean = 0;
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j <= i; ++j) {
      gram[i * np + j] = gram[j * np + i] = tanh(gram[i * np + j] * gamma + kKernelOffset);
    }
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) means[i] += gram[i * np + j];
    means[i] /= double(n);
    mean += means[i] / double(n);
  }
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < n; ++j) gram[i * np + j] += mean - means[i] - means[j];
  }
}

// The rows of x on its first principal component, from a whole Gram matrix: [S], signed as the ops promise.
template <class In>
std::vector<double> project(const ImageView<In>& x, const EigenShape& shape, double* gram) {
  const int64_t n = shape.n(), np = gram_padded(n);
  for (int64_t i = 0; i < n; ++i) {
    for (int64_t j = 0; j < i; ++j) gram[i * np + j] = gram[j * np + i];
  }
  // Blocks on the diagonal and the padding are filled beyond what counts.
  for (int64_t i = 0; i < np; ++i) {
    for (int64_t j = i < n ? n : 0; j < np; ++j) gram[i * np + j] = 0;
  }
  bool finite = true;
  for (int64_t i = 0; i < n; ++i) finite = finite && gram[i * np + i] - gram[i * np + i] == 0;
  std::vector<double> map(shape.S, 0.0);
  if (!finite) {
    std::fill(map.begin(), map.end(), double(NAN));
    return map;
  }
  if (shape.kernel) to_kernel(gram, n, np, shape.gamma);
  Lanczos top(gram, n, np);
  Lanczos* job = &top;
  multiversion<Lanczos>(job);
  if (shape.over_positions()) {
    const double length = top.value > 0 ? sqrt(top.value) : top.value * 0;
    for (int64_t s = 0; s < shape.S; ++s) map[s] = top.vector[s] * length;
  } else {
    std::vector<double> means(shape.C);
    double* to = means.data();
    multiversion<ChannelMeans<In>>(x, int64_t(0), shape.C, to);
    double offset = 0;
    for (int64_t c = 0; c < shape.C; ++c) offset += top.vector[c] * means[c];
    for (int64_t c = 0; c < shape.C; ++c) {
      for (int64_t s = 0; s < shape.S; ++s) map[s] += top.vector[c] * x.at(c, s);
    }
    for (double& m : map) m -= offset;
  }
  settle_sign(map.data(), shape.S);
  return map;
}

template <class In>
void compute(const EigenInputs& in, bool normalize) {
  using T = AccOf<In>;
  const auto* data = static_cast<const In*>(in.activations.const_data_ptr());
  auto* out = static_cast<T*>(in.out.mutable_data_ptr());
  const EigenShape shape{in.N, in.C, in.S, in.kernel, in.gamma};
  const int64_t n = shape.n(), np = gram_padded(n), area = in.size.positions();
  const Resize<T> resize(in.map, in.size, normalize);

  const int64_t most = torch::stable::get_num_threads();
  const int64_t threads = std::clamp<int64_t>(shape.N * shape.depth() * n * n / 2 / kWorthAThread, 1, most);
  // With fewer images than threads the sum of each Gram matrix is shared out.
  int64_t parts = shape.N >= threads ? 1 : (threads + shape.N - 1) / shape.N;
  parts = std::clamp<int64_t>(std::min(shape.depth() / 64, kPartialBytes / (shape.N * np * np * 8)), 1, parts);

  const auto view = [&](int64_t image) {
    return ImageView<In>{data + image * in.image, shape.C, shape.S, in.channel, in.position};
  };
  const auto sum_part = [&](int64_t image, int64_t part, double* gram) {
    const int64_t first = shape.depth() * part / parts, last = shape.depth() * (part + 1) / parts;
    const ImageView<In> x = view(image);
    std::vector<double> means(shape.C), panel(gram_panel_size(np), 0.0);
    double* to = means.data();
    const bool by_channel = shape.over_positions();
    multiversion<ChannelMeans<In>>(x, by_channel ? first : int64_t(0), by_channel ? last : shape.C, to);
    const GramPiece<In> piece{x, by_channel, first, last, n, np, means.data(), panel.data(), gram};
    add_gram(piece);
  };
  const auto finish = [&](int64_t image, double* gram) {
    const std::vector<double> projection = project(view(image), shape, gram);
    std::vector<T> map(projection.begin(), projection.end());
    if (normalize) {
      for (T& m : map) m = positive(m);
    }
    write_rows<T>(resize, map.data(), find_normalizer<T>(resize, map.data()), 0, resize.rows(), out + image * area);
  };

  if (parts == 1) {
    const auto whole = [&](int64_t image) {
      std::vector<double> gram(np * np, 0.0);
      sum_part(image, 0, gram.data());
      finish(image, gram.data());
    };
    return run_team(std::min(threads, shape.N), shape.N, 0, 1, whole, [](int64_t, int64_t) {});
  }
  const auto partial = std::make_unique<double[]>(shape.N * parts * np * np);
  const auto one_part = [&](int64_t item) { sum_part(item / parts, item % parts, partial.get() + item * np * np); };
  const auto images = [&](int64_t begin, int64_t end) {
    for (int64_t image = begin; image < end; ++image) {
      double* gram = partial.get() + image * parts * np * np;
      for (int64_t p = 1; p < parts; ++p) { // in a fixed order
        for (int64_t i = 0; i < np * np; ++i) gram[i] += gram[p * np * np + i];
      }
      finish(image, gram);
    }
  };
  run_team(threads, shape.N * parts, shape.N, 1, one_part, images);
}

Tensor eigen_map(const Tensor& given, const OptionalSizes& size, bool normalize, bool kernel, std::optional<double> gamma) {
  const EigenInputs in = eigen_inputs(given, size, kernel, gamma);
  if (in.out.numel() == 0) return in.out;
  dispatch<Floating>(given.scalar_type(), [&](auto type) { compute<typename decltype(type)::type>(in, normalize); });
  return in.out;
}

Tensor eigen_cam(const Tensor& activations, OptionalSizes size, bool normalize) {
  return eigen_map(activations, size, normalize, false, std::nullopt);
}

Tensor kpca_cam(const Tensor& activations, OptionalSizes size, bool normalize, std::optional<double> gamma) {
  return eigen_map(activations, size, normalize, true, gamma);
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) {
  m.impl("eigen_cam", TORCH_BOX(&camfast::eigen_cam));
  m.impl("kpca_cam", TORCH_BOX(&camfast::kpca_cam));
}

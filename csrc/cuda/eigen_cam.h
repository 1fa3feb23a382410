// eigen_cam and kpca_cam on CUDA: how a call is cut into blocks, and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "resize_normalize.h"

namespace camfast::cuda {

// Principal components: one launch where the Gram matrix over positions is small, else five, an image a block where it
// matters, for as many images at a time as the scratch allows.
constexpr int kSmallGram = 64;       // positions of the one-launch path
constexpr int kMostEigenSteps = 512; // of the iteration; the best vector found by then is taken
constexpr long long kEigenScratch = 256LL << 20;

struct EigenShape {
  long long N;
  int C, S;
  bool kernel;
  long long area;
  int accumulation_bytes;
  CAMFAST_HD bool over_positions() const { return kernel || S <= C; }
  CAMFAST_HD int n() const { return over_positions() ? S : C; }
};

struct EigenPlan {
  bool fits; // else: the path for large maps
  int group; // blocks an image
  Exchange exchange;
  int shared_bytes;
  int steps;         // of the iteration, at most
  int batch;         // images at a time, on the path for large maps
  ResizePlan resize; // of a batch
  long long scratch_bytes;
};

// basis [n, steps], next [n], four times `steps` values: the iteration's memory, in doubles.
CAMFAST_HD long long eigen_work_values(int n, int steps) { return (long long)n * (steps + 1) + 4LL * steps; }

// Doubles of one image's scratch: means [C], gram [n, n], the iteration's, projection [S]. The raw maps follow those of all.
CAMFAST_HD long long eigen_image_values(const EigenShape& shape, int steps) {
  return shape.C + (long long)shape.n() * shape.n() + eigen_work_values(shape.n(), steps) + shape.S;
}

inline EigenPlan plan_eigen(const Machine& machine, const EigenShape& shape) {
  EigenPlan plan{};
  const int n = shape.n();
  plan.steps = std::min(n, kMostEigenSteps);
  // A block adds up at least 128 channels; one block a multiprocessor.
  long long group = std::max(1LL, std::min<long long>(machine.multiprocessors / std::max(1LL, shape.N), shape.C / 128));
  if (machine.max_cluster > 1) {
    group = std::min<long long>(group, std::min(machine.max_cluster, kPortableCluster));
    plan.exchange = Exchange::cluster;
  } else {
    group = machine.cooperative ? group : 1;
    plan.exchange = Exchange::grid;
  }
  if (group == 1) plan.exchange = Exchange::none;
  plan.group = int(group);
  const int matrices = plan.exchange == Exchange::cluster ? 2 : 1; // a block's own, and the sum
  plan.shared_bytes = 32 * 68 * shape.accumulation_bytes +         // the panel of gram.cuh
      int(8 * ((long long)matrices * n * n + eigen_work_values(n, plan.steps) + n));
  plan.fits = shape.over_positions() && n <= kSmallGram && plan.shared_bytes <= machine.shared_bytes - kStaticSharedBytes;
  if (plan.fits) {
    plan.scratch_bytes = plan.exchange == Exchange::grid ? 8LL * shape.N * plan.group * n * n : 0;
    return plan;
  }
  const long long image = 8 * eigen_image_values(shape, plan.steps);
  plan.batch = int(std::max(1LL, std::min({shape.N, kEigenScratch / image, 65535LL})));
  plan.resize = plan_resize(machine, plan.batch, shape.S, shape.area, shape.accumulation_bytes);
  plan.scratch_bytes = plan.batch * (image + (long long)shape.S * shape.accumulation_bytes) + plan.resize.scratch_bytes;
  return plan;
}

struct EigenCall {
  const void* activations; // element (n, c, s) at n * image + c * channel + s * position
  long long image, channel, position;
  EigenShape shape;
  double gamma;
  ResizeJob resize;
  void* out; // [N, *out]
  void* scratch;
  EigenPlan plan;
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_eigen(const EigenCall& call);

} // namespace camfast::cuda

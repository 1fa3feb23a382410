// Grad-CAM's sums through the ring, under every schedule and with both kinds of copies: 0 where all are right, 1 where some are
// wrong, 2 and a message where the emulator finds a fault. tests/ops/test_pipeline.py compiles it with the kernels as they are,
// and with faults put into them.
#include <math.h>
#include <stdio.h>

#include "cuda_runtime_api.h"
#include "cam_pipeline.cuh"

using namespace camfast;
using namespace camfast::cuda;

int main() try {
  constexpr int C = 11, S = 33 * 33;
  emu::Buffer<float> a(size_t(C * S), "activations", 1), g(size_t(C * S), "gradients", 3), out(S, "map");
  for (size_t i = 0; i < a.size(); ++i) {
    a[i] = float(i * 37 % 101) / 101;
    g[i] = float(i * 53 % 97) / 97 - 0.3f;
  }
  double expected[S] = {};
  for (int c = 0; c < C; ++c) {
    double w = 0;
    for (int s = 0; s < S; ++s) w += double(g[size_t(c * S + s)]) / S;
    for (int s = 0; s < S; ++s) expected[s] += w * double(a[size_t(c * S + s)]);
  }
  PipelineJob<float> job{};
  job.stages = 3;
  job.cam.K = job.cam.group = 1;
  job.cam.sum = {a.data(), g.data(), Rule::grad_cam, C, S, 1, false, C * S, C * S, C * S, S, S};
  job.cam.resize = {{1, 33, 33}, {1, 33, 33}, false};
  job.cam.out = out.data();
  const size_t shared = kRingHeader + size_t(job.stages) * 2 * size_t(staged_row_bytes(S, 4));
  int wrong = 0;
  for (const bool bulk : {true, false}) {
    emu::bulk_copies() = bulk;
    emu::for_each_schedule([&] {
      out.poison();
      emu::launch(cam_pipeline_kernel<float, true>, 1, 512, shared, 1, false, job);
      for (int s = 0; s < S; ++s) wrong += !(fabs(double(out[size_t(s)]) - expected[s]) < 1e-5);
    });
  }
  printf("%d wrong values\n", wrong);
  return wrong != 0;
} catch (const emu::Error& error) {
  puts(error.what());
  return 2;
}

#include "launch.cuh"
#include "overlay_kernel.cuh"

namespace camfast::cuda {

cudaError_t launch_overlay(const OverlayCall& call) {
  constexpr int kSmallMap = 4096; // values; a larger map is read through the caches
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  const long long frame_bytes = 3LL * call.frame.h * call.frame.w;
  OverlayJob job{};
  job.frames = call.frames;
  job.heat = call.heat;
  job.colors = call.colors;
  job.out = call.out;
  job.in = call.map;
  job.size = call.frame;
  job.alpha = call.alpha;
  job.frame_share = call.frame_share;
  job.heat_in_shared = call.map.positions() <= kSmallMap;
  job.vectors = aligned(call.frames) && aligned(call.out) && (call.N == 1 || frame_bytes % 16 == 0);
  job.N = call.N;
  const int shared = job.heat_in_shared ? call.map.positions() * int(sizeof(float)) : 0;
  const unsigned rows = unsigned(call.N < 65535 ? call.N : 65535);
  return launch(&overlay_kernel, {dim3(unsigned(call.blocks), rows), dim3(kOverlayThreads), shared, call.stream}, job);
}

} // namespace camfast::cuda

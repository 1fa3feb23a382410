// resize_normalize on CUDA: how a call is cut into blocks, and the launch.
#pragma once

#include <cuda_runtime_api.h>

#include "plan.h"

namespace camfast::cuda {

struct ResizeJob {
  MapExtent in, out;
  bool normalize;
};

// Resizing alone: the map in shared memory, or the path for large maps.
struct ResizePlan {
  bool fits;
  int group;
  int shared_bytes;
  long long scratch_bytes;
};

// The last two launches for large maps: the map in the accumulation type, and a normaliser of four values.
inline long long large_scratch_bytes(long long maps, long long S, int accumulation_bytes) {
  return maps * (S + 4) * accumulation_bytes;
}

inline ResizePlan plan_resize(const Machine& machine, long long maps, long long S, long long area, int accumulation_bytes) {
  ResizePlan plan{};
  plan.fits = S * accumulation_bytes <= machine.shared_bytes - kStaticSharedBytes;
  plan.group = blocks_a_map(machine, maps, area * accumulation_bytes);
  plan.shared_bytes = plan.fits ? int(S * accumulation_bytes) : 0;
  plan.scratch_bytes = plan.fits ? 0 : large_scratch_bytes(maps, S, accumulation_bytes);
  return plan;
}

struct ResizeCall {
  const void* maps; // [M, *in], dense
  int M;
  ResizeJob resize;
  bool relu;
  void* out;
  void* scratch;
  ResizePlan plan;
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_resize(const ResizeCall& call);

} // namespace camfast::cuda

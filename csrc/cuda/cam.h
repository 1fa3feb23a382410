// The Grad-CAM family on CUDA: how a call is cut into blocks, and the launch, over plain numbers (no torch in the kernels'
// files, so that they compile quickly for every architecture).
#pragma once

#include <cuda_runtime_api.h>

#include "../math/cam.h"
#include "cam_pipeline.h"
#include "resize_normalize.h"

namespace camfast::cuda {

// Whether a warp holds a channel's positions; else all of a block's threads do, and need less shared memory.
CAMFAST_HD bool rows_of_warps(int S) { return rows_in_registers(S, kWarp); }

// Dynamic shared memory of the cam kernel, in values of the accumulation type, one region after the other.
struct CamShared {
  int w, sum_a, threads, map, full;
  CAMFAST_HD CamShared(int chunk, int S, int vector, Rule rule, bool channels_adjacent, int block, bool grouped)
      : w(channels_adjacent ? chunk : 0),
        sum_a(channels_adjacent && weights_need_activations(rule) ? chunk : 0),
        threads(channels_adjacent || rows_of_warps(S) ? block * vector : 2 * kRowValues * kMaxWarps),
        map(S),
        full(grouped ? S : 0) {}
  CAMFAST_HD long long values() const { return (long long)w + sum_a + threads + map + full; }
};

struct CamPlan {
  bool fits; // else: the path for large maps
  int group; // blocks a map
  int threads;
  Exchange exchange;
  int chunk; // channels at a time
  int shared_bytes;
  int stages;              // of the pipeline (cam_pipeline.cuh); 0: without one
  int carveout;            // percent of a multiprocessor's memory to be shared memory; 0: as the driver has it
  long long scratch_bytes; // of global memory, for the launch's own use
};

struct CamShape {
  long long maps; // images times targets
  int C, S;
  long long area; // outputs a map
  int element_bytes, accumulation_bytes;
  Rule rule;
  bool channels_adjacent;
  bool pipeline; // where it serves
};

// So much shared memory that `blocks` of a launch fit on a multiprocessor. Up to a quarter the driver is left alone: the rest of
// the memory is cache, and a change of the partition makes kernels wait for each other.
inline int carveout(const Machine& machine, long long dynamic_bytes, int blocks) {
  const long long wanted = blocks * (dynamic_bytes + kStaticSharedBytes);
  const int percent = int(std::min(100LL, (100 * wanted + machine.shared_bytes - 1) / machine.shared_bytes));
  return percent > 25 ? percent : 0;
}

inline CamPlan plan_cam(const Machine& machine, const CamShape& shape) {
  const int vector = 16 / shape.element_bytes;
  const int inputs = shape.rule == Rule::weights ? 1 : 2;
  const long long row = (long long)shape.S * shape.element_bytes;
  const long long bytes = row * shape.C * inputs + shape.area * shape.accumulation_bytes;

  CamPlan plan{};
  // As many groups as are on the GPU at once: a second wave would wait for the slowest of the first.
  const int wide = rows_in_registers(shape.S, kCamThreads) ? 1 : 2; // blocks of twice the threads
  const bool piped = shape.pipeline && machine.copies != Copies::none &&
      pipeline_serves(shape.rule, shape.S, shape.channels_adjacent);
  const RingPlan ring = piped ? plan_ring(machine, shape.S, shape.element_bytes) : RingPlan{};
  const long long resident = ring.stages ? (long long)machine.multiprocessors * ring.blocks
                                         : machine.multiprocessors * (shape.accumulation_bytes == 8 ? 2LL : 4LL) / wide;
  long long group = std::min(resident / std::max(1LL, shape.maps), std::max(1LL, bytes / kBytesABlock));
  if (machine.max_cluster > 1) {
    // Larger clusters fit into fewer places: for few maps only.
    const bool alone = shape.maps * machine.max_cluster <= machine.multiprocessors;
    group = std::min<long long>(group, alone ? machine.max_cluster : std::min(machine.max_cluster, kPortableCluster));
    plan.exchange = Exchange::cluster;
  } else if (machine.cooperative) { // all blocks must be on the GPU at once: one a multiprocessor always is
    group = std::min(group, machine.multiprocessors / shape.maps);
    plan.exchange = Exchange::grid;
  } else {
    group = 1;
  }
  plan.group = int(std::max(1LL, group));
  if (plan.group == 1) plan.exchange = Exchange::none;
  const bool few = shape.maps * plan.group <= machine.multiprocessors;
  plan.threads = few || wide == 2 || ring.stages ? kMaxCamThreads : kCamThreads;

  // Channels at a time, where they are adjacent: all of a block's, of which every thread owns a pack; but where activations are
  // read twice, only as many as the caches keep. Rows in registers need no chunks.
  long long chunk = vector;
  if (shape.channels_adjacent) {
    chunk = std::min(((long long)shape.C + plan.group - 1) / plan.group, (long long)plan.threads * vector);
    if (weights_need_activations(shape.rule)) chunk = std::min(chunk, std::max(64LL, 32 * 1024 / row));
  }
  plan.chunk = std::max(vector, round_up(chunk, vector));

  const CamShared shared(plan.chunk, shape.S, vector, shape.rule, shape.channels_adjacent, plan.threads, plan.group > 1);
  const long long needed = shared.values() * shape.accumulation_bytes;
  plan.fits =
      needed <= machine.shared_bytes - kStaticSharedBytes && (shape.channels_adjacent || rows_in_registers(shape.S, plan.threads));
  plan.shared_bytes = int(needed);
  if (ring.stages) {
    plan.fits = true;
    plan.stages = ring.stages;
    plan.shared_bytes = ring.shared_bytes;
  }
  plan.carveout = carveout(machine, ring.stages ? ring.shared_bytes : needed, int(resident / machine.multiprocessors));
  if (!plan.fits) {
    plan.scratch_bytes = large_scratch_bytes(shape.maps, shape.S, shape.accumulation_bytes) +
        shape.maps * (shape.C + shape.S) * shape.accumulation_bytes;
  } else if (plan.exchange == Exchange::grid) {
    plan.scratch_bytes = shape.maps * plan.group * shape.S * shape.accumulation_bytes;
  }
  return plan;
}

// Strides in elements; `step` is between channels (positions adjacent) or between positions (channels adjacent).
struct CamStrides {
  long long image, target, step;
};

struct CamCall {
  const void* activations;
  const void* second; // gradients, or weights
  CamStrides a, s;
  Rule rule;
  bool channels_adjacent;
  int maps, K, C;
  ResizeJob resize;
  void* out;     // [maps, *out]
  void* scratch; // plan.scratch_bytes
  CamPlan plan;
  cudaStream_t stream;
};

template <class In>
cudaError_t launch_cam(const CamCall& call);

// Blocks of the largest cluster that the current device, of compute capability 9.0 or later, has room for; 1 where the kernels
// it runs were compiled for an older one.
int largest_cluster();

} // namespace camfast::cuda

// The launch plan of the pipeline for large maps (cam_pipeline.cuh): which calls it serves, and how large its ring is.
#pragma once

#include "../math/cam.h"
#include "plan.h"

namespace camfast::cuda {

constexpr int kMaxCamThreads = 512; // a block's threads when there are fewer blocks than multiprocessors
constexpr int kCamThreads = 256;    // and when there are more: several such blocks share one
constexpr int kRowValues = 8;       // of a channel's positions, that a thread holds in registers at most (cam_rows.cuh)

CAMFAST_HD bool rows_in_registers(int S, int threads) { return S <= kRowValues * threads; }

constexpr int kMinStages = 3, kMaxStages = 4; // of the ring
constexpr int kRingHeader = 64;               // bytes: a barrier for every stage

// A row in a stage: its bytes, which start and end anywhere in a unit of 16.
CAMFAST_HD int staged_row_bytes(int S, int element_bytes) { return (S * element_bytes + 15) / 16 * 16 + 16; }

// Rows that are read once, too long for a few loads of a block (32 x 32 positions and more).
inline bool pipeline_serves(Rule rule, int S, bool channels_adjacent) {
  return !channels_adjacent && S > 1024 && rows_in_registers(S, kMaxCamThreads) && rule != Rule::weights &&
      !weights_need_activations(rule);
}

struct RingPlan {
  int stages; // 0: there is no room for a ring
  int blocks; // a multiprocessor
  int shared_bytes;
};

// Two blocks a multiprocessor, so that one's arithmetic hides the other's barriers, where each has room for a ring; else one.
inline RingPlan plan_ring(const Machine& machine, int S, int element_bytes) {
  const int stage = 2 * staged_row_bytes(S, element_bytes);
  for (int blocks = 2; blocks >= 1; --blocks) {
    const int room = machine.shared_bytes / blocks - kStaticSharedBytes - kRingHeader;
    const int stages = std::min(kMaxStages, room / stage);
    if (stages >= kMinStages) return {stages, blocks, kRingHeader + stages * stage};
  }
  return {};
}

} // namespace camfast::cuda

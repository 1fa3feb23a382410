// A ring of stages in shared memory, filled ahead of the arithmetic, so that memory never waits for it.
//
//   stage  0   1   2   3   0   1   ...      turn t uses stage t % stages
//          |use|  on their way |
//              ^ filled again as soon as every thread is done with it
//
// A turn, by all threads of the block: wait(); what a thread adds itself; __syncthreads(); fill(free_stage(), ...); use of the
// stage; next_turn(). The barrier says two things: the stage is complete for all, and all are done with the one before, which is
// filled. Before the first turn stages - 1 are filled.
#pragma once

#include "async_copy.cuh"
#include "block.cuh"

namespace camfast::cuda {

// Bytes that lie at multiples of 16.
struct Piece {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes;
};

struct Ring {
  group::CopyBarrier* barriers; // one a stage, in shared memory
  int stages;
  int stage = 0;        // of this turn
  unsigned parity = 0;  // of this turn's phase

  __device__ Ring(group::CopyBarrier* memory, int count) : barriers(memory), stages(count) {
    if (group::bulk_copies() && threadIdx.x == 0) {
#pragma unroll 1
      for (int i = 0; i < stages; ++i) group::start_barrier(barriers + i);
      group::copy_fence();
    }
    __syncthreads();
  }

  // That of the turn before: to be filled for the turn stages - 1 after this one.
  __device__ int free_stage() const { return stage == 0 ? stages - 1 : stage - 1; }

  // Two pieces make a stage. All threads of the block call this once a turn, or skip_fill() where nothing is left.
  __device__ void fill(int to, const Piece& a, const Piece& b) const {
    if (group::bulk_copies()) {
      if (threadIdx.x != blockDim.x - kWarp) return; // of the last warp, whose share of a row is the smallest
      group::expect_bytes(barriers + to, a.bytes + b.bytes);
      group::bulk_copy(a.to, a.from, a.bytes, barriers + to);
      group::bulk_copy(b.to, b.from, b.bytes, barriers + to);
    } else {
      for (unsigned i = threadIdx.x * 16; i < a.bytes; i += blockDim.x * 16) __pipeline_memcpy_async(a.to + i, a.from + i, 16);
      for (unsigned i = threadIdx.x * 16; i < b.bytes; i += blockDim.x * 16) __pipeline_memcpy_async(b.to + i, b.from + i, 16);
      __pipeline_commit();
    }
  }
  __device__ void skip_fill() const {
    if (!group::bulk_copies()) __pipeline_commit(); // batches are counted
  }

  // Until the copies of this turn's stage have come: all of them, or this thread's own.
  __device__ void wait() const {
    if (group::bulk_copies()) {
      group::wait_for_phase(barriers + stage, parity);
    } else {
      __pipeline_wait_prior(stages - 2);
    }
  }

  __device__ void next_turn() {
    if (++stage == stages) {
      stage = 0;
      parity ^= 1;
    }
  }
};

} // namespace camfast::cuda

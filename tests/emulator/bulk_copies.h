// Bulk copies into shared memory and their barriers: what csrc/cuda/async_copy.cuh offers under nvcc.
//
// The bytes come as late as they may: when a thread waits for the phase that counts them. From the moment a copy is asked for its
// target is poison, so that a wait forgotten, a wait for the wrong phase and memory filled while it is in use all show.
//
// Not modelled: copy_fence(), between a thread's own writes and copies.
#pragma once

#include "cuda_emulator.h"

namespace emu {
// Whether kernels find bulk copies (compute capability 9.0) or copy 16 bytes a thread (8.x).
inline bool& bulk_copies() {
  static bool value = true;
  return value;
}

inline CopyPhase& copy_phase(const void* barrier, const char* op, Site site) {
  auto& barriers = machine.current->block->copy_barriers;
  const auto found = barriers.find(barrier);
  if (found == barriers.end()) machine.fail(op, site, ": the barrier was not started");
  return found->second;
}
}  // namespace emu

namespace camfast::group {

constexpr bool kAsyncCopies = true;
inline bool bulk_copies() { return emu::bulk_copies(); }

inline void start_barrier(CopyBarrier* barrier) { emu::machine.current->block->copy_barriers[barrier] = {}; }
inline void copy_fence() {}

inline void expect_bytes(CopyBarrier* barrier, unsigned bytes, emu::Site site = emu::here()) {
  emu::CopyPhase& phase = emu::copy_phase(barrier, "expect_bytes", site);
  if (phase.expecting) emu::machine.fail("expect_bytes", site, ": the phase before has not been waited for");
  phase.expecting = true;
  phase.expected = bytes;
  emu::machine.preempt();
}

inline void bulk_copy(void* shared, const void* global, unsigned bytes, CopyBarrier* barrier, emu::Site site = emu::here()) {
  emu::CopyPhase& phase = emu::copy_phase(barrier, "bulk_copy", site);
  if ((reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global) | bytes) % 16 != 0)
    emu::machine.fail("bulk_copy", site, ": expected addresses and a size of multiples of 16 bytes");
  emu::check_source(global, bytes, "bulk_copy", site);
  memset(shared, 0xFF, bytes);
  phase.copies.push_back({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global), bytes, 0, 0});
  phase.asked += bytes;
  emu::machine.preempt();
}

inline void wait_for_phase(CopyBarrier* barrier, unsigned parity, emu::Site site = emu::here()) {
  for (;;) {
    emu::CopyPhase& phase = emu::copy_phase(barrier, "wait_for_phase", site);
    if (phase.parity != parity) return;  // it has ended
    if (phase.expecting && phase.asked > phase.expected)
      emu::machine.fail("wait_for_phase", site, ": ", phase.asked, " bytes were copied, ", phase.expected, " expected");
    if (phase.expecting && phase.asked == phase.expected) {
      for (const emu::AsyncCopy& copy : phase.copies) memcpy(copy.to, copy.from, copy.bytes);
      phase = {};
      phase.parity = parity ^ 1;
      return;
    }
    emu::machine.pause(site);
  }
}

}  // namespace camfast::group

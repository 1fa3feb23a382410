// Copies from global into shared memory that run beside the arithmetic, in two kinds:
//
//   9.0 and later   bulk: one thread asks for a run of bytes; a barrier in shared memory counts them in, phase after phase
//   8.x             16 bytes a thread, in batches that the thread waits for (__pipeline_*, in portable.cuh)
//
// Addresses and sizes are multiples of 16 bytes.
#pragma once

#include <stdint.h>

#include "portable.cuh"

namespace camfast::group {

// Counts the bytes of one phase in; starts in phase 0. In shared memory.
using CopyBarrier = uint64_t;

} // namespace camfast::group

#ifdef CAMFAST_EMULATOR

#include "bulk_copies.h" // the emulator's

#else

namespace camfast::group {

#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 800
constexpr bool kAsyncCopies = true;
#else
constexpr bool kAsyncCopies = false;
#endif

__device__ __forceinline__ constexpr bool bulk_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return true;
#else
  return false;
#endif
}

__device__ __forceinline__ unsigned shared_address(const void* shared) { return unsigned(__cvta_generic_to_shared(shared)); }

// By one thread; then copy_fence() by it and a barrier of the block.
__device__ __forceinline__ void start_barrier(CopyBarrier* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Between what a thread itself has written to shared memory and a bulk copy, or a barrier of copies, in the same place.
__device__ __forceinline__ void copy_fence() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

// By one thread, once a phase, before its copies: the phase ends when so many bytes have come.
__device__ __forceinline__ void expect_bytes(CopyBarrier* barrier, unsigned bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes) : "memory");
#endif
}

__device__ __forceinline__ void bulk_copy(void* shared, const void* global, unsigned bytes, CopyBarrier* barrier) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];" ::"r"(
                   shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(bytes), "r"(shared_address(barrier))
               : "memory");
#endif
}

// Until the phase of this parity (0, 1, 0, ...) has ended; what was copied is then seen.
__device__ __forceinline__ void wait_for_phase(CopyBarrier* barrier, unsigned parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned ended;
  do {
    asm volatile(
        "{\n\t.reg .pred p;\n\t"
        "mbarrier.try_wait.parity.shared::cta.b64 p, [%1], %2;\n\t"
        "selp.u32 %0, 1, 0, p;\n\t}"
        : "=r"(ended)
        : "r"(shared_address(barrier)), "r"(parity)
        : "memory");
  } while (!ended);
#endif
}

} // namespace camfast::group

#endif // CAMFAST_EMULATOR

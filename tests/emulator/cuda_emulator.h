// Runs CUDA kernels on the CPU, one fiber a GPU thread, to check indexing, barriers and arithmetic without a GPU.
//
//   launch(kernel, grid, block, shared_bytes, cluster_size, cooperative, args...)
//     └─ wave: the blocks that live at once: one cluster, or several, or the whole grid of a cooperative launch
//          └─ block: its dynamic shared memory, an image of its __shared__ variables, one barrier
//               └─ warp: 32 fibers that meet in shuffles and votes
//                    └─ fiber: a stack of its own and a saved stack pointer
//
// Everything happens on one OS thread. A fiber runs until it reaches a barrier or a shuffle, writes its name there and
// hands over to the next ready fiber. Whoever arrives last makes all of them ready again:
//
//   fiber 0  ──write──┤ __syncthreads                 ┌──read──▶
//   fiber 1           └──write──┤ __syncthreads       │   order of the ready list:
//   fiber 2                     └──write──┤ last ─────┘   forward, reverse or seeded random
//
// A kernel that forgets a barrier therefore reads what no fiber has written yet: shared memory starts as 0xFF bytes,
// NaN in every float format and -1 in the integers. When no fiber is ready and some have not ended, the program is
// deadlocked, and the error lists who waits where. A barrier met at two different source lines is an error as well.
//
// __shared__ variables are thread_local, hence contiguous in the program's TLS segment. Changing over to a fiber of
// another block saves them to the old block's image and loads the new block's (statics.h). A pointer into a cluster
// peer's __shared__ variables is a pointer into its image.
//
// Not modelled: the memory model (every write is seen at once), warps in lockstep, fused multiply-add contraction,
// timing. A loop that spins on memory must call __nanosleep. The program's own thread_local variables count as
// __shared__ while a kernel runs, and get their values back after it.
//
// A test:
//
//   #include "cuda_emulator.h"            // first, then the kernel's own header
//   #include "../../csrc/cuda/scale.cuh"
//
//   emu::Buffer<float> in(values, "in"), out(values.size(), "out");
//   emu::for_each_schedule([&] {          // forward, reverse and random orders of threads and blocks
//     out.poison();
//     emu::launch(scale<256>, dim3(blocks), dim3(256), shared_bytes, cluster_size, cooperative, in.data(), out.data());
//     assert(out.untouched() == 0);       // everything was written, and equals what it should
//   });
#pragma once

#ifndef CAMFAST_EMULATOR
#define CAMFAST_EMULATOR 1
#endif

#include <tuple>
#include <type_traits>

#include "machine.h"

namespace emu {

// Runs kernel(args...) over the grid. Clusters are rows of `cluster_size` blocks along x; `cooperative` keeps all
// blocks alive at once and allows grid_sync. Throws Error for a fault in the launch, in the kernel's barriers, or in a
// guard zone. Any host pointer serves as a device pointer; those into a Buffer have their bounds checked.
template <class... Params, class... Args>
void launch(void (*kernel)(Params...), dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster_size,
            bool cooperative, Args&&... args) {
  static_assert(!(std::is_reference_v<Params> || ...), "kernels take their parameters by value");
  const std::tuple<std::remove_cv_t<Params>...> parameters(std::forward<Args>(args)...);
  machine.run_grid([&] { std::apply(kernel, parameters); }, grid, block, shared_bytes, cluster_size, cooperative);
}

// A value of up to 8 bytes as a word, and back.
template <class T>
uint64_t pack(T value) {
  static_assert(sizeof(T) <= 8 && std::is_trivially_copyable_v<T>, "shuffles move values of at most 8 bytes");
  uint64_t word = 0;
  memcpy(&word, &value, sizeof value);
  return word;
}
template <class T>
T unpack(uint64_t word) {
  T value;
  memcpy(&value, &word, sizeof value);
  return value;
}

// Vector accesses fault on the GPU when the address is not a multiple of their size.
template <class T>
void check_aligned(const T* address, const char* op, Site site) {
  if (reinterpret_cast<uintptr_t>(address) % alignof(T) == 0) return;
  machine.fail(op, site, ": misaligned address for ", sizeof(T), " bytes");
}

// A copy must not read what lies around a buffer.
inline void check_source(const void* from, size_t bytes, const char* op, Site site) {
  if (Guarded::cut(from, bytes)) machine.fail(op, site, ": reads beyond its buffer");
}

}  // namespace emu

// ---- dynamic shared memory, clusters, grid: what csrc/cuda/portable.cuh offers under nvcc --------------------------

#define CAMFAST_DYNAMIC_SHARED(type, name) type* name = reinterpret_cast<type*>(emu::machine.dynamic_shared())

namespace camfast::group {
inline unsigned cluster_rank() { return emu::machine.rank(); }
inline unsigned cluster_size() { return emu::machine.current->block->cluster->size; }
inline void cluster_sync(emu::Site site = emu::here()) {
  emu::machine.arrive(emu::machine.current->block->cluster->barrier, "cluster_sync", site);
}
template <class T>
T* cluster_peer(T* shared, unsigned rank) {
  return static_cast<T*>(emu::machine.peer(shared, rank));
}
inline void require_clusters() {}
inline void grid_sync(emu::Site site = emu::here()) {
  emu::machine.arrive(emu::machine.grid_barrier(), "grid_sync", site);
}
}  // namespace camfast::group

// ---- block ---------------------------------------------------------------------------------------------------------

inline void __syncthreads(emu::Site site = emu::here()) {
  emu::machine.arrive(emu::machine.current->block->barrier, "__syncthreads", site);
}
inline int __syncthreads_count(int predicate, emu::Site site = emu::here()) {
  return emu::machine.arrive(emu::machine.current->block->barrier, "__syncthreads_count", site, predicate != 0);
}
inline int __syncthreads_or(int predicate, emu::Site site = emu::here()) {
  return emu::machine.arrive(emu::machine.current->block->barrier, "__syncthreads_or", site, predicate != 0) > 0;
}
inline int __syncthreads_and(int predicate, emu::Site site = emu::here()) {
  return emu::machine.arrive(emu::machine.current->block->barrier, "__syncthreads_and", site, predicate == 0) == 0;
}

// ---- warp ----------------------------------------------------------------------------------------------------------

inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, emu::Site site = emu::here()) {
  emu::machine.meet("__syncwarp", mask, 0, -1, site);
}
inline unsigned __ballot_sync(unsigned mask, int predicate, emu::Site site = emu::here()) {
  return unsigned(emu::machine.meet("__ballot_sync", mask, predicate != 0, -1, site));
}
inline int __any_sync(unsigned mask, int predicate, emu::Site site = emu::here()) {
  return emu::machine.meet("__any_sync", mask, predicate != 0, -1, site) != 0;
}
inline int __all_sync(unsigned mask, int predicate, emu::Site site = emu::here()) {
  return emu::machine.meet("__all_sync", mask, predicate == 0, -1, site) == 0;
}

// `width` (a power of two) cuts the warp into segments; a source outside the lane's segment gives its own value.
template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32, emu::Site site = emu::here()) {
  const int lane = int(emu::machine.current->lane);
  const int from = (lane & ~(width - 1)) | (source & (width - 1));
  return emu::unpack<T>(emu::machine.meet("__shfl_sync", mask, emu::pack(value), from, site));
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, emu::Site site = emu::here()) {
  const int lane = int(emu::machine.current->lane), from = lane - int(delta);
  const bool inside = from >= (lane & ~(width - 1));
  return emu::unpack<T>(emu::machine.meet("__shfl_up_sync", mask, emu::pack(value), inside ? from : lane, site));
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, emu::Site site = emu::here()) {
  const int lane = int(emu::machine.current->lane), from = lane + int(delta);
  const bool inside = from <= (lane | (width - 1));
  return emu::unpack<T>(emu::machine.meet("__shfl_down_sync", mask, emu::pack(value), inside ? from : lane, site));
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32, emu::Site site = emu::here()) {
  const int lane = int(emu::machine.current->lane), from = lane ^ lane_mask;
  const bool inside = from <= (lane | (width - 1));  // earlier segments may be read, later ones not
  return emu::unpack<T>(emu::machine.meet("__shfl_xor_sync", mask, emu::pack(value), inside ? from : lane, site));
}

// ---- atomics and fences: plain operations, since fibers change over only where they wait ---------------------------

namespace emu {
template <class T, class Change>
T atomic(T* address, Change change) {
  machine.preempt();
  const T old = *address;
  *address = change(old);
  return old;
}
}  // namespace emu

#define CAMFAST_ATOMIC(name, T, result) \
  inline T name(T* address, T v) { \
    return emu::atomic(address, [v]([[maybe_unused]] T old) { return static_cast<T>(result); }); \
  }
CAMFAST_ATOMIC(atomicAdd, int, unsigned(old) + unsigned(v))  // wraps
CAMFAST_ATOMIC(atomicAdd, unsigned, old + v)
CAMFAST_ATOMIC(atomicAdd, unsigned long long, old + v)
CAMFAST_ATOMIC(atomicAdd, float, old + v)
CAMFAST_ATOMIC(atomicAdd, double, old + v)
CAMFAST_ATOMIC(atomicSub, int, unsigned(old) - unsigned(v))
CAMFAST_ATOMIC(atomicSub, unsigned, old - v)
CAMFAST_ATOMIC(atomicMax, int, old > v ? old : v)
CAMFAST_ATOMIC(atomicMax, unsigned, old > v ? old : v)
CAMFAST_ATOMIC(atomicMax, unsigned long long, old > v ? old : v)
CAMFAST_ATOMIC(atomicMin, int, old < v ? old : v)
CAMFAST_ATOMIC(atomicMin, unsigned, old < v ? old : v)
CAMFAST_ATOMIC(atomicMin, unsigned long long, old < v ? old : v)
CAMFAST_ATOMIC(atomicAnd, unsigned, old & v)
CAMFAST_ATOMIC(atomicOr, unsigned, old | v)
CAMFAST_ATOMIC(atomicExch, int, v)
CAMFAST_ATOMIC(atomicExch, unsigned, v)
CAMFAST_ATOMIC(atomicExch, float, v)
CAMFAST_ATOMIC(atomicInc, unsigned, old >= v ? 0u : old + 1)
CAMFAST_ATOMIC(atomicDec, unsigned, old == 0 || old > v ? v : old - 1)
#undef CAMFAST_ATOMIC
template <class T>
T atomicCAS(T* address, T expected, T desired) {
  return emu::atomic(address, [=](T old) { return old == expected ? desired : old; });
}

inline void __threadfence() { emu::machine.preempt(); }
inline void __threadfence_block() { emu::machine.preempt(); }
inline void __threadfence_system() { emu::machine.preempt(); }
inline void __nanosleep(unsigned, emu::Site site = emu::here()) { emu::machine.pause(site); }
[[noreturn]] inline void __trap(emu::Site site = emu::here()) { emu::machine.fail("__trap", site); }

// ---- loads and stores with cache hints: plain accesses that check alignment ----------------------------------------

#define CAMFAST_LOAD(name) \
  template <class T> \
  T name(const T* address, emu::Site site = emu::here()) { \
    emu::check_aligned(address, #name, site); \
    return *address; \
  }
CAMFAST_LOAD(__ldg)
CAMFAST_LOAD(__ldca)
CAMFAST_LOAD(__ldcg)
CAMFAST_LOAD(__ldcs)
CAMFAST_LOAD(__ldcv)
CAMFAST_LOAD(__ldlu)
#undef CAMFAST_LOAD

namespace emu {
template <class T>
struct Same { using type = T; };  // the value converts to the pointer's type, as with nvcc's overloads
}  // namespace emu
#define CAMFAST_STORE(name) \
  template <class T> \
  void name(T* address, typename emu::Same<T>::type value, emu::Site site = emu::here()) { \
    emu::check_aligned(address, #name, site); \
    *address = value; \
  }
CAMFAST_STORE(__stcg)
CAMFAST_STORE(__stcs)
CAMFAST_STORE(__stwb)
CAMFAST_STORE(__stwt)
#undef CAMFAST_STORE

// ---- asynchronous copies into shared memory ------------------------------------------------------------------------
// The bytes move as late as they may: when the thread waits for their batch. Until then there is poison, whether a wait is
// forgotten or the memory was still in use.

inline void __pipeline_memcpy_async(void* shared, const void* global, size_t bytes, size_t zfill = 0,
                                    emu::Site site = emu::here()) {
  const bool aligned = (reinterpret_cast<uintptr_t>(shared) | reinterpret_cast<uintptr_t>(global)) % bytes == 0;
  if ((bytes != 4 && bytes != 8 && bytes != 16) || !aligned || zfill > bytes)
    emu::machine.fail("__pipeline_memcpy_async", site, ": expected 4, 8 or 16 aligned bytes");
  emu::check_source(global, bytes - zfill, "__pipeline_memcpy_async", site);
  memset(shared, 0xFF, bytes);
  emu::Fiber& self = *emu::machine.current;
  self.copies.push_back({static_cast<unsigned char*>(shared), static_cast<const unsigned char*>(global),
                         unsigned(bytes), unsigned(zfill), self.batch});
}
inline void __pipeline_commit() { ++emu::machine.current->batch; }
inline void __pipeline_wait_prior(size_t recent) {  // all batches but the `recent` last ones
  emu::Fiber& self = *emu::machine.current;
  size_t finished = 0;
  for (const emu::AsyncCopy& copy : self.copies) {
    if (copy.batch + recent >= self.batch) break;
    memcpy(copy.to, copy.from, copy.bytes - copy.zeros);
    memset(copy.to + copy.bytes - copy.zeros, 0, copy.zeros);
    ++finished;
  }
  self.copies.erase(self.copies.begin(), self.copies.begin() + ptrdiff_t(finished));
}

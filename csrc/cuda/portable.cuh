// What a kernel needs besides the language, in two worlds: nvcc, and the CPU emulator of tests/emulator, which runs
// the same kernel code on machines without a GPU. A kernel includes this header and no other CUDA header.
//
//   CAMFAST_DYNAMIC_SHARED(float, tile);   // float* tile: the launch's dynamic shared memory, 16-byte aligned
//   camfast::group::*                      // ranks and barriers wider than a block; no -rdc needed
#pragma once

#ifdef CAMFAST_EMULATOR

#include "cuda_runtime_api.h" // the emulator's

#else

#include <cooperative_groups.h>
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline_primitives.h>
#include <cuda_runtime.h>

#define CAMFAST_DYNAMIC_SHARED(type, name)                    \
  extern __shared__ __align__(16) unsigned char name##_raw[]; \
  type* name = reinterpret_cast<type*>(name##_raw)

namespace camfast::group {

// Clusters are rows of blocks along x. Before compute capability 9.0 every block is a cluster of its own.

// This block's place in its cluster, 0 <= rank < cluster_size().
__device__ __forceinline__ unsigned cluster_rank() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().block_rank();
#else
  return 0;
#endif
}

// Blocks in the cluster; 1 in a launch without clusters.
__device__ __forceinline__ unsigned cluster_size() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().num_blocks();
#else
  return 1;
#endif
}

// Barrier of all threads of the cluster; what they wrote before, in shared memory too, is seen after it.
__device__ __forceinline__ void cluster_sync() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cooperative_groups::this_cluster().sync();
#else
  __syncthreads();
#endif
}

// The same shared-memory address in the block of the given rank. That block must have started (cluster_sync() before
// the first access) and must not have ended (cluster_sync() after the last).
template <typename T>
__device__ __forceinline__ T* cluster_peer(T* shared, unsigned rank) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  return cooperative_groups::this_cluster().map_shared_rank(shared, rank);
#else
  (void)rank;
  return shared;
#endif
}

// Stops a kernel that was compiled without clusters but launched with them: each block would take its part for the whole.
__device__ __forceinline__ void require_clusters() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  __trap();
#endif
}

// Barrier of all threads of the grid; the launch must be cooperative.
__device__ __forceinline__ void grid_sync() { cooperative_groups::this_grid().sync(); }

} // namespace camfast::group

#endif // CAMFAST_EMULATOR

// The largest eigenpair of a symmetric matrix by one block, and what comes before and after it: the CUDA part of
// math/eigen_cam.h. Matrices and vectors lie in shared or in global memory. Every function is called by all threads of the
// block and ends with its results visible to all of them.
#pragma once

#include "../math/eigen_cam.h"
#include "block.cuh"
#include "eigen_cam.h"

namespace camfast::cuda {

// Working memory of the iteration (eigen_work_values in eigen_cam.h): T and its vector beside the basis.
struct EigenWork {
  double *basis, *next;
  double *a, *b, *y, *parts; // [steps]
  int steps;                 // at most
};

__device__ __forceinline__ EigenWork eigen_work(double* memory, int n, int steps) {
  double* next = memory + (long long)n * steps;
  double* a = next + n;
  return {memory, next, a, a + steps, a + 2 * steps, a + 3 * steps, steps};
}

// Dot product by one warp, in all of its lanes.
__device__ __forceinline__ double warp_dot(const double* x, const double* y, int n) {
  double sum = 0;
  for (int i = threadIdx.x % kWarp; i < n; i += kWarp) sum += x[i] * y[i];
  return warp_sum(sum);
}

// Just above the largest eigenvalue of T, by one warp: 32 points at a time between its bounds.
__device__ __forceinline__ double warp_largest(const double* a, const double* b, int k) {
  double low, high;
  tridiagonal_bounds(a, b, k, &low, &high);
  for (int round = 0; round < 64 && !settled(low, high); ++round) {
    const double x = between(low, high, threadIdx.x % kWarp, kWarp);
    const unsigned above = __ballot_sync(kFullMask, above_all(a, b, k, x));
    const int first = above ? __ffs(int(above)) - 1 : kWarp;
    const double next_low = first > 0 ? between(low, high, first - 1, kWarp) : low;
    const double next_high = first < kWarp ? between(low, high, first, kWarp) : high;
    if (next_low == low && next_high == high) break;
    low = next_low;
    high = next_high;
  }
  return high;
}

// gram [n, n] -> its largest eigenvalue, in every thread, and the unit vector in work.next. The matrix must be finite.
__device__ inline double top_eigenpair(const double* gram, int n, const EigenWork& work) {
  __shared__ double shared_value;
  __shared__ int shared_done;
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  double* next = work.next;

  for (int i = threadIdx.x; i < n; i += blockDim.x) next[i] = lanczos_start(i);
  double magnitude = 0; // the largest row sum: no eigenvalue is larger
  for (int i = warp; i < n; i += warps) {
    double row = 0;
    for (int j = lane; j < n; j += kWarp) row += fabs(gram[(long long)i * n + j]);
    row = warp_sum(row);
    magnitude = row > magnitude ? row : magnitude;
  }
  __shared__ double warp_values[kMaxWarps];
  if (lane == 0) warp_values[warp] = magnitude;
  __syncthreads();
  for (int w = 0; w < warps; ++w) magnitude = warp_values[w] > magnitude ? warp_values[w] : magnitude;
  if (magnitude == 0) {
    for (int i = threadIdx.x; i < n; i += blockDim.x) next[i] = 0;
    __syncthreads();
    return 0;
  }

  int check = int(next_check(0)), k = 0;
  double length = sqrt(warp_dot(next, next, n)); // the same in every warp
  for (bool done = false; !done;) {
    double* own = work.basis + (long long)k * n;
    for (int i = threadIdx.x; i < n; i += blockDim.x) own[i] = next[i] / length;
    ++k;
    __syncthreads();
    for (int i = warp; i < n; i += warps) {
      const double value = warp_dot(gram + (long long)i * n, own, n);
      if (lane == 0) next[i] = value;
    }
    __syncthreads();
    const double along = warp_dot(own, next, n);
    __syncthreads(); // every warp has read it
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      double value = next[i] - along * own[i];
      if (k > 1) value -= length * own[i - n]; // length: the last beta
      next[i] = value;
    }
    if (threadIdx.x == 0) work.a[k - 1] = along;
    __syncthreads();
    for (int i = warp; i < k; i += warps) { // what rounding has left along any of them
      const double part = warp_dot(work.basis + (long long)i * n, next, n);
      if (lane == 0) work.parts[i] = part;
    }
    __syncthreads();
    for (int i = threadIdx.x; i < n; i += blockDim.x) {
      double value = next[i];
      for (int j = 0; j < k; ++j) value -= work.parts[j] * work.basis[(long long)j * n + i];
      next[i] = value;
    }
    __syncthreads();
    length = sqrt(warp_dot(next, next, n));
    const bool ended = k == n || k == work.steps || !(length > 1e-15 * magnitude);
    if (ended || k == check) {
      check = int(next_check(k));
      if (warp == 0) {
        const double value = warp_largest(work.a, work.b, k);
        __syncwarp();
        if (lane == 0) {
          tridiagonal_vector(work.a, work.b, k, value, work.y, work.parts);
          shared_value = value;
          shared_done = ended || fabs(length * work.y[k - 1]) <= kEigenTolerance * fabs(value);
        }
      }
      __syncthreads();
      done = shared_done != 0;
    }
    if (threadIdx.x == 0 && k < work.steps) work.b[k - 1] = length;
    __syncthreads();
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) {
    double value = 0;
    for (int j = 0; j < k; ++j) value += work.y[j] * work.basis[(long long)j * n + i];
    next[i] = value;
  }
  __syncthreads();
  return shared_value;
}

// The sum over all threads, in every thread. `shared`: kMaxWarps values.
__device__ inline double block_sum(double x, double* shared) {
  x = warp_sum(x);
  __syncthreads(); // the previous use of `shared` is over
  if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
  __syncthreads();
  double total = 0;
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) total += shared[w];
  return total;
}

// Whether all of the diagonal is finite, and with it all of the matrix.
__device__ inline bool is_finite(const double* gram, int n) {
  double unknown = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) unknown += gram[(long long)i * n + i] * 0;
  __shared__ double shared[kMaxWarps];
  return block_sum(unknown, shared) == 0;
}

// gram [n, n] -> the centred sigmoid kernel tanh(gamma * x.y + 1), in place. `means` [n].
__device__ inline void to_kernel(double* gram, int n, double gamma, double* means) {
  const int warp = threadIdx.x / kWarp, warps = blockDim.x / kWarp, lane = threadIdx.x % kWarp;
  for (int i = warp; i < n; i += warps) {
    double sum = 0;
    for (int j = lane; j < n; j += kWarp) {
      const double value = tanh(gram[(long long)i * n + j] * gamma + kKernelOffset);
      gram[(long long)i * n + j] = value;
      sum += value;
    }
    sum = warp_sum(sum);
    if (lane == 0) means[i] = sum / n;
  }
  __syncthreads();
  double mean = 0;
  for (int i = threadIdx.x; i < n; i += blockDim.x) mean += means[i] / n;
  __shared__ double shared[kMaxWarps];
  mean = block_sum(mean, shared);
  for (int i = warp; i < n; i += warps) {
    for (int j = lane; j < n; j += kWarp) gram[(long long)i * n + j] += mean - means[i] - means[j];
  }
  __syncthreads();
}

// 1 or -1: what makes the value of largest magnitude positive; of equally large ones the first decides.
__device__ inline double settling_sign(const double* values, int count) {
  __shared__ double warp_largest_value[kMaxWarps];
  __shared__ int first;
  double largest = 0;
  for (int i = threadIdx.x; i < count; i += blockDim.x) largest = fmax(largest, fabs(values[i]));
  for (int offset = kWarp / 2; offset > 0; offset /= 2) largest = fmax(largest, __shfl_xor_sync(kFullMask, largest, offset));
  __syncthreads();
  if (threadIdx.x == 0) first = count;
  if (threadIdx.x % kWarp == 0) warp_largest_value[threadIdx.x / kWarp] = largest;
  __syncthreads();
  for (int w = 0; w < int(blockDim.x) / kWarp; ++w) largest = fmax(largest, warp_largest_value[w]);
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    if (fabs(values[i]) >= (1 - kSignTie) * largest) {
      atomicMin(&first, i);
      break; // a thread's later values have larger places
    }
  }
  __syncthreads();
  return first < count && values[first] < 0 ? -1.0 : 1.0;
}

} // namespace camfast::cuda

// Maps too large for a block's registers or shared memory: two plain launches here, and two of resize_normalize. Each is
// coalesced and reads its inputs once; against the size of such maps the launches are nothing.
#pragma once

#include "cam_rows.cuh"

namespace camfast::cuda {

constexpr int kLargeThreads = 256;

// One block a channel of a map: grid (C, up to all maps).
template <class In>
__global__ void __launch_bounds__(kLargeThreads) large_weights_kernel(const LargeJob<In> job) {
  __shared__ AccOf<In> shared[kMaxWarps];
  for (int m = blockIdx.y; m < job.maps_count; m += gridDim.y) large_weight(job, m, shared);
}

template <class In>
__device__ void large_position(const LargeJob<In>& job, int m, int s) {
  using T = AccOf<In>;
  const int n = m / job.K, k = m % job.K;
  const In* a = job.activations + n * job.a.image + s * job.a.position;
  const In* g = job.second + n * job.g.image + k * job.g.target + (job.rule == Rule::weights ? 0 : s * job.g.position);
  const T* w = job.weights + (long long)m * job.C;
  const ElementTerm<T> term(job.rule);
  T sum = T(0);
#pragma unroll 4
  for (int c = 0; c < job.C; ++c) {
    const T x = widen(a[c * job.a.channel]);
    if (job.rule == Rule::weights) {
      sum += x * widen(g[c * job.g.channel]);
    } else if (has_weights(job.rule)) {
      sum += x * w[c];
    } else {
      sum += term(x, widen(g[c * job.g.channel]));
    }
  }
  job.maps[(long long)m * job.S + s] = sum;
}

// One thread a position: grid (ceil(S / threads), up to all maps).
template <class In>
__global__ void __launch_bounds__(kLargeThreads) large_sum_kernel(const LargeJob<In> job) {
  const int s = blockIdx.x * blockDim.x + threadIdx.x;
  if (s >= job.S) return;
  for (int m = blockIdx.y; m < job.maps_count; m += gridDim.y) large_position(job, m, s);
}

} // namespace camfast::cuda

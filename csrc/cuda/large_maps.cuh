// Maps too large for a block's registers or shared memory: four plain launches instead of one. Each is coalesced and reads its inputs
// once; against the size of such maps the launches are nothing.
#pragma once

#include "channel_sum.cuh"
#include "resize.cuh"

namespace camfast::cuda {

constexpr int kLargeThreads = 256;

// Element (c, s) of image n at n * image + c * channel + s * position.
struct LargeStrides {
  long long image, target, channel, position;
};

template <class In>
struct LargeJob {
  const In* activations;
  const In* second;
  Rule rule;
  int K, C, S;
  int maps_count;
  LargeStrides a, g;
  AccOf<In>* weights; // [maps, C]
  AccOf<In>* maps;    // [maps, S], raw
};

// The weight of channel blockIdx.x, by one block.
template <class In>
__device__ void large_weight(const LargeJob<In>& job, int m, AccOf<In>* shared) {
  using T = AccOf<In>;
  const int c = blockIdx.x, n = m / job.K, k = m % job.K;
  const In* a = job.activations + n * job.a.image + c * job.a.channel;
  const In* g = job.second + n * job.g.image + k * job.g.target + c * job.g.channel;
  const auto block_sum = [&](T x) {
    x = warp_sum(x);
    __syncthreads();
    if (threadIdx.x % kWarp == 0) shared[threadIdx.x / kWarp] = x;
    __syncthreads();
    T total = T(0);
    for (int w = 0; w < int(blockDim.x) / kWarp; ++w) total += shared[w];
    return total;
  };
  T sum_a = T(0), sum = T(0);
  if (weights_need_activations(job.rule)) {
    for (int s = threadIdx.x; s < job.S; s += blockDim.x) sum_a += widen(a[s * job.a.position]);
    sum_a = block_sum(sum_a);
  }
  for (int s = threadIdx.x; s < job.S; s += blockDim.x) {
    const T value = widen(g[s * job.g.position]);
    if (job.rule == Rule::grad_cam) sum += value;
    if (job.rule == Rule::xgrad_cam) sum += value * widen(a[s * job.a.position]);
    if (job.rule == Rule::grad_cam_plus_plus) sum += plus_plus_term(value, sum_a);
  }
  sum = block_sum(sum);
  if (job.rule == Rule::grad_cam) sum /= T(job.S);
  if (job.rule == Rule::xgrad_cam) sum = xgrad_weight(sum, sum_a);
  if (threadIdx.x == 0) job.weights[(long long)m * job.C + c] = sum;
}

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

template <class In>
struct LargeFinishJob {
  ResizeJob resize;
  bool relu;
  int group;                         // blocks a map, for the writing
  const In* raw;                     // [maps, S]
  AccOf<In>* maps;                   // [maps, S], widened and rectified
  Normalizer<AccOf<In>>* normalizer; // [maps]
  AccOf<In>* out;                    // [maps, *out]
};

// One block a map: widen, rectify, and find the range.
template <class In>
__global__ void __launch_bounds__(kLargeThreads) large_range_kernel(const LargeFinishJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions();
  const In* raw = job.raw + (long long)blockIdx.x * S;
  T* map = job.maps + (long long)blockIdx.x * S;
  __shared__ RangeScratch<T> range_scratch;
  for (int s = threadIdx.x; s < S; s += blockDim.x) {
    const T value = widen(raw[s]);
    map[s] = job.relu ? positive(value) : value;
  }
  __syncthreads();
  const Normalizer<T> normalizer = find_normalizer(job.resize, map, &range_scratch);
  if (threadIdx.x == 0) job.normalizer[blockIdx.x] = normalizer;
}

template <class In>
__global__ void __launch_bounds__(kLargeThreads) large_write_kernel(const LargeFinishJob<In> job) {
  using T = AccOf<In>;
  const int S = job.resize.in.positions(), area = job.resize.out.positions();
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
  write_outputs(job.resize, job.maps + (long long)m * S, job.normalizer[m], rank, job.group, job.out + (long long)m * area);
}

} // namespace camfast::cuda

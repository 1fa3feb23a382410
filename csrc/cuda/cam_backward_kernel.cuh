// From the map's derivative to the activations' and the gradients' (math/cam_backward.h), one launch: a warp a channel, whose lanes
// walk over the positions. Where channels are adjacent the warps of a block share the sectors they read.
#pragma once

#include "block.cuh"
#include "cam_backward.h"

namespace camfast::cuda {

constexpr int kCamBackwardThreads = 256;

template <class In>
struct CamBackwardJob {
  int N, K, C, S;
  const float* grad;
  const In *activations, *second;
  Walk a, s;
  In *by_a, *by_second;
  Walk to_a, to_s;
  float* sums;
};

template <Rule rule, class In>
__global__ void __launch_bounds__(kCamBackwardThreads) cam_backward_kernel(const CamBackwardJob<In> job) {
  const int lane = threadIdx.x % kWarp;
  const long long channel = (long long)blockIdx.x * (blockDim.x / kWarp) + threadIdx.x / kWarp;
  if (channel >= (long long)job.N * job.C) return; // a whole warp
  const int n = int(channel / job.C), c = int(channel % job.C), S = job.S, K = job.K;
  const In* a = job.activations + n * job.a.image + (long long)c * job.a.channel;
  In* by_a = job.by_a + n * job.to_a.image + (long long)c * job.to_a.channel;
  float* sums = job.sums + (job.sums ? channel * S : 0);
  const auto activation = [&](int s) { return widen(a[(long long)s * job.a.position]); };

  ChannelSlope<float> slope{};
  if constexpr (rule == Rule::grad_cam) slope.share = 1.f / float(S);
  if constexpr (weights_need_activations(rule)) {
    for (int s = lane; s < S; s += kWarp) slope.sum_a += activation(s);
    slope.sum_a = warp_sum(slope.sum_a);
    if constexpr (rule == Rule::xgrad_cam) slope.share = 1.f / (slope.sum_a + float(kXGradEps));
  }
  for (int k = 0; k < K; ++k) {
    const float* r = job.grad + ((long long)n * K + k) * S;
    const In* second = job.second + n * job.s.image + k * job.s.target + (long long)c * job.s.channel;
    In* by_second = job.by_second + n * job.to_s.image + k * job.to_s.target + (long long)c * job.to_s.channel;
    const auto gradient = [&](int s) { return rule == Rule::weights ? 0.f : widen(second[(long long)s * job.s.position]); };
    float by_weight = 0.f;
    if constexpr (has_weights(rule)) {
      float weight = 0.f, by_any_a = 0.f;
      for (int s = lane; s < S; s += kWarp) {
        const float own = activation(s), g = gradient(s);
        by_weight += r[s] * own;
        if constexpr (rule == Rule::grad_cam) weight += g;
        if constexpr (rule == Rule::xgrad_cam) weight += g * own;
        if constexpr (rule == Rule::grad_cam_plus_plus) {
          weight += plus_plus_term(g, slope.sum_a);
          by_any_a += plus_plus_by_sum(g, slope.sum_a);
        }
      }
      by_weight = warp_sum(by_weight);
      weight = warp_sum(weight);
      if constexpr (rule == Rule::grad_cam || rule == Rule::xgrad_cam) weight *= slope.share;
      slope.weight = rule == Rule::weights ? widen(*second) : weight;
      if constexpr (rule == Rule::grad_cam_plus_plus) slope.by_any_a = warp_sum(by_any_a);
      if (rule == Rule::weights && lane == 0) narrow(by_weight, by_second);
    }
    for (int s = lane; s < S; s += kWarp) {
      const float own = activation(s), g = gradient(s);
      float to_a, to_g;
      if constexpr (has_weights(rule)) {
        to_a = r[s] * slope.weight + by_weight * weight_by_a<rule>(slope, g);
        to_g = by_weight * weight_by_g<rule>(slope, own, g);
      } else {
        to_a = r[s] * element_by_a<rule>(own, g);
        to_g = r[s] * element_by_g<rule>(own, g);
      }
      if (rule != Rule::weights) narrow(to_g, by_second + (long long)s * job.to_s.position);
      In* to = by_a + (long long)s * job.to_a.position;
      if (job.sums) { // each lane's own values
        if (k > 0) to_a += sums[s];
        sums[s] = to_a;
      } else if (k > 0) {
        to_a += widen(*to);
      }
      narrow(to_a, to);
    }
  }
}

} // namespace camfast::cuda

// Back through min-max, resize and min-max, one launch: a block a map.
//
//   output's derivative -> (its slope at every output) -> warp by warp, the sum of the outputs that read a position
//                       -> (its slope at every position) -> the map's derivative
//
// Sums are taken in a fixed order, so that a derivative is the same in every run.
#pragma once

#include "../math/resize_normalize_backward.h"
#include "resize.cuh"
#include "resize_normalize_backward.h"

namespace camfast::cuda {

constexpr int kResizeBackwardThreads = 256;

// The outputs along one axis that read a position: those from `first` up to `end`.
struct Readers {
  int first, end;
};

__device__ __forceinline__ Readers readers_of(int position, int in, int out) {
  if (in == out) return {position, position + 1};
  // Output o reads positions next to (o + 1/2) * in / out - 1/2; one more on either side where division rounds, weighed by 0.
  const long long first = ((2LL * position - 1) * out - in) / (2LL * in) - 1, end = ((2LL * position + 3) * out - in) / (2LL * in) + 2;
  // The first and the last position also serve the outputs beyond the outermost centres.
  return {position == 0 || first < 0 ? 0 : int(first), position == in - 1 || end > out ? out : int(end)};
}

// How much of a position output `o` read.
__device__ __forceinline__ float share_of(int position, int o, int in, int out) {
  const Sample<float> s = sample_at<float>(o, in, out);
  return (s.low == position ? 1.f - s.weight : 0.f) + (s.high == position ? s.weight : 0.f);
}

// Of all the block's threads, in each of them. `shared`: 4 * kMaxWarps values.
struct Sums {
  float total, above, lows, highs;
};

__device__ inline Sums block_sums(Sums s, float* shared) {
  s = {warp_sum(s.total), warp_sum(s.above), warp_sum(s.lows), warp_sum(s.highs)};
  const int warp = threadIdx.x / kWarp, lane = threadIdx.x % kWarp, warps = blockDim.x / kWarp;
  __syncthreads(); // the previous use of `shared` is over
  if (lane == 0) {
    shared[warp] = s.total;
    shared[kMaxWarps + warp] = s.above;
    shared[2 * kMaxWarps + warp] = s.lows;
    shared[3 * kMaxWarps + warp] = s.highs;
  }
  __syncthreads();
  const auto at = [&](int row) { return lane < warps ? shared[row * kMaxWarps + lane] : 0.f; };
  return {warp_sum(at(0)), warp_sum(at(1)), warp_sum(at(2)), warp_sum(at(3))};
}

__device__ inline void add_terms(Sums* sums, float grad, float x, float low, float high) {
  sums->total += grad;
  sums->above += grad * (x - low);
  sums->lows += x == low ? 1.f : 0.f;
  sums->highs += x == high ? 1.f : 0.f;
}

__device__ inline MinMaxSlope<float> slope_of(const Range<float>& range, const Sums& sums) {
  return min_max_slope<float>(range.low, range.high, sums.total, sums.above, sums.lows, sums.highs, range.unknown);
}

__global__ void __launch_bounds__(kResizeBackwardThreads) resize_backward_kernel(const ResizeBackwardCall job) {
  const MapExtent in = job.resize.in, out = job.resize.out;
  const int S = in.positions(), area = out.positions();
  const float* grad = job.grad + (long long)blockIdx.x * area;
  const float* raw = job.maps + (long long)blockIdx.x * S;
  float* scaled = job.scaled + (long long)blockIdx.x * S;
  float* to = job.out + (long long)blockIdx.x * S;
  __shared__ float shared[4 * kMaxWarps];
  const float infinity = float(__builtin_huge_val());
  const bool relu = job.relu;
  const auto value = [&](int s) { return relu ? positive(raw[s]) : raw[s]; };
  const auto sample = [&](int z, int y, int x) {
    return sample_map(scaled, in, sample_at<float>(z, in.d, out.d), sample_at<float>(y, in.h, out.h),
                      sample_at<float>(x, in.w, out.w));
  };
  const auto output = [&](int i) { return sample(i / (out.h * out.w), i / out.w % out.h, i % out.w); };

  Range<float> own{infinity, -infinity, 0.f}, resized{infinity, -infinity, 0.f};
  MinMaxSlope<float> slope{};
  if (job.resize.normalize) {
    for (int s = threadIdx.x; s < S; s += blockDim.x) {
      const float v = value(s);
      own.low = v < own.low ? v : own.low;
      own.high = v > own.high ? v : own.high;
      own.unknown += v * 0.f;
    }
    own = block_range(own, shared);
    const float scale = 1.f / (float(kRangeEps) + (own.high - own.low));
    for (int s = threadIdx.x; s < S; s += blockDim.x) scaled[s] = (value(s) - own.low) * scale;
    __syncthreads();
    for (int i = threadIdx.x; i < area; i += blockDim.x) {
      const float v = output(i);
      resized.low = v < resized.low ? v : resized.low;
      resized.high = v > resized.high ? v : resized.high;
    }
    resized = block_range(resized, shared);
    resized.unknown = own.unknown;
    Sums sums{};
    for (int i = threadIdx.x; i < area; i += blockDim.x) add_terms(&sums, grad[i], output(i), resized.low, resized.high);
    slope = slope_of(resized, block_sums(sums, shared));
  }

  const int lane = threadIdx.x % kWarp;
  for (int s = threadIdx.x / kWarp; s < S; s += blockDim.x / kWarp) {
    const int z = s / (in.h * in.w), y = s / in.w % in.h, x = s % in.w;
    const Readers zs = readers_of(z, in.d, out.d), ys = readers_of(y, in.h, out.h), xs = readers_of(x, in.w, out.w);
    const int across = xs.end - xs.first, down = ys.end - ys.first, readers = across * down * (zs.end - zs.first);
    float sum = 0.f;
    for (int i = lane; i < readers; i += kWarp) {
      const int ox = xs.first + i % across, oy = ys.first + i / across % down, oz = zs.first + i / across / down;
      const float share = share_of(z, oz, in.d, out.d) * share_of(y, oy, in.h, out.h) * share_of(x, ox, in.w, out.w);
      if (share == 0.f) continue;
      const float g = grad[(oz * out.h + oy) * out.w + ox];
      sum += share * (job.resize.normalize ? slope(g, sample(oz, oy, ox)) : g);
    }
    sum = warp_sum(sum);
    if (lane == 0) to[s] = sum;
  }
  __syncthreads();

  if (job.resize.normalize) {
    Sums sums{};
    for (int s = threadIdx.x; s < S; s += blockDim.x) add_terms(&sums, to[s], value(s), own.low, own.high);
    slope = slope_of(own, block_sums(sums, shared));
  }
  for (int s = threadIdx.x; s < S; s += blockDim.x) {
    const float g = job.resize.normalize ? slope(to[s], value(s)) : to[s];
    to[s] = relu && !(raw[s] > 0.f) ? 0.f : g;
  }
}

} // namespace camfast::cuda

// Heatmap over frames: resize, colour and blend, one launch; nothing but the frames is read or written.
#pragma once

#include "../math/overlay.h"
#include "overlay.h"
#include "resize.cuh"

namespace camfast::cuda {

constexpr int kOverlayThreads = 256;
constexpr int kPixels = 16; // a thread's pixels: 48 bytes, three 16-byte loads

struct OverlayJob {
  const uint8_t* frames; // [N, H, W, 3]
  const float* heat;     // [N, h, w]
  const uint8_t* colors; // [256, 3]
  uint8_t* out;          // [N, H, W, 3]
  int N;
  MapExtent in, size;
  float alpha, frame_share;
  bool heat_in_shared; // the low-resolution map fits
  bool vectors;        // every frame starts at a multiple of 16 bytes
};

// One pixel: its three bytes, at constant places of an array that stays in registers, or in memory.
__device__ __forceinline__ void blend_pixel(const OverlayJob& job, const float* heat, const float (*table)[256],
                                            const Sample<float>& along_y, int x, uint8_t* bytes) {
  const Sample<float> flat{0, 0, 0.f};
  const float value = sample_map(heat, job.in, flat, along_y, sample_at<float>(x, job.in.w, job.size.w));
  if (!(value == value)) return;
  const int index = truncated(color_place(value));
#pragma unroll
  for (int c = 0; c < 3; ++c) {
    bytes[c] = uint8_t(truncated(blended(widened(bytes[c]), job.frame_share, table[c][index])));
  }
}

// One frame, by all blocks of its row of the grid: groups of 16 pixels where addresses allow, then what is left over.
__device__ void overlay_frame(const OverlayJob& job, const float* heat, const float (*table)[256], const uint8_t* frame,
                              uint8_t* out) {
  const int W = job.size.w, area = job.size.h * job.size.w;
  const int thread = blockIdx.x * blockDim.x + threadIdx.x, threads = gridDim.x * blockDim.x;
  const int groups = job.vectors ? area / kPixels : 0;
  for (int group = thread; group < groups; group += threads) {
    const long long at = group * (kPixels * 3LL);
    alignas(16) uint8_t bytes[kPixels * 3];
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      const uint4 raw = *reinterpret_cast<const uint4*>(frame + at + i * 16);
      memcpy(bytes + i * 16, &raw, 16);
    }
    int x = group * kPixels % W, y = group * kPixels / W;
    Sample<float> along_y = sample_at<float>(y, job.in.h, job.size.h);
#pragma unroll
    for (int p = 0; p < kPixels; ++p) {
      blend_pixel(job, heat, table, along_y, x, bytes + p * 3);
      if (++x == W) {
        x = 0;
        along_y = sample_at<float>(++y, job.in.h, job.size.h);
      }
    }
#pragma unroll
    for (int i = 0; i < 3; ++i) {
      uint4 raw;
      memcpy(&raw, bytes + i * 16, 16);
      *reinterpret_cast<uint4*>(out + at + i * 16) = raw;
    }
  }
  for (long long pixel = (long long)groups * kPixels + thread; pixel < area; pixel += threads) {
    const int y = int(pixel) / W;
    uint8_t bytes[3] = {frame[pixel * 3], frame[pixel * 3 + 1], frame[pixel * 3 + 2]};
    blend_pixel(job, heat, table, sample_at<float>(y, job.in.h, job.size.h), int(pixel) % W, bytes);
#pragma unroll
    for (int c = 0; c < 3; ++c) out[pixel * 3 + c] = bytes[c];
  }
}

// Grid (blocks a frame, up to all frames). Dynamic shared memory: the map, where it fits.
__global__ void __launch_bounds__(kOverlayThreads) overlay_kernel(const OverlayJob job) {
  __shared__ float table[3][256]; // colours times alpha
  CAMFAST_DYNAMIC_SHARED(float, map);
  for (int i = threadIdx.x; i < 256 * 3; i += blockDim.x) table[i % 3][i / 3] = float(job.colors[i]) * job.alpha;
  const int S = job.in.positions();
  for (int n = blockIdx.y; n < job.N; n += gridDim.y) {
    const float* heat = job.heat + (long long)n * S;
    __syncthreads(); // the previous frame is done with the map
    if (job.heat_in_shared) {
      for (int s = threadIdx.x; s < S; s += blockDim.x) map[s] = heat[s];
      heat = map;
    }
    __syncthreads();
    const long long offset = (long long)n * job.size.h * job.size.w * 3;
    overlay_frame(job, heat, table, job.frames + offset, job.out + offset);
  }
}

} // namespace camfast::cuda

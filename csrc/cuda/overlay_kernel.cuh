// Heatmap over frames: resize, colour and blend, one launch; nothing but the frames is read or written.
#pragma once

#include "resize.cuh"

namespace camfast::cuda {

constexpr int kOverlayThreads = 256;
constexpr int kPixels = 16; // a thread's pixels: 48 bytes, three 16-byte loads

struct OverlayJob {
  const uint8_t* frames;  // [N, H, W, 3]
  const float* heat;      // [N, h, w]
  const uint8_t* colors;  // [256, 3]
  uint8_t* out;           // [N, H, W, 3]
  int N;
  MapExtent in, size;
  float alpha, frame_share;
  bool heat_in_shared; // the low-resolution map fits
  bool vectors;        // every frame starts at a multiple of 16 bytes
};

// One frame, by all blocks of its row of the grid.
template <int pixels>
__device__ void overlay_pixels(const OverlayJob& job, const float* heat, const float (*table)[256], const uint8_t* frame,
                               uint8_t* out) {
  const int W = job.size.w, area = job.size.h * job.size.w;
  const Sample<float> flat{0, 0, 0.f};
  const long long stride = (long long)gridDim.x * blockDim.x * pixels;
  for (long long wide = ((long long)blockIdx.x * blockDim.x + threadIdx.x) * pixels; wide < area; wide += stride) {
    const int first = int(wide);
    const int count = area - first < pixels ? area - first : pixels;
    alignas(16) uint8_t bytes[pixels * 3];
    if (pixels > 1 && count == pixels) {
#pragma unroll
      for (int i = 0; i < pixels * 3 / 16; ++i) {
        const uint4 raw = *reinterpret_cast<const uint4*>(frame + first * 3LL + i * 16);
        memcpy(bytes + i * 16, &raw, 16);
      }
    } else {
      for (int i = 0; i < count * 3; ++i) bytes[i] = frame[first * 3LL + i];
    }
    int x = first % W, y = first / W;
    Sample<float> along_y = sample_at<float>(y, job.in.h, job.size.h);
#pragma unroll
    for (int p = 0; p < pixels; ++p) {
      if (p < count) {
        const float value = sample_map(heat, job.in, flat, along_y, sample_at<float>(x, job.in.w, W));
        const int index = color_index(value);
        if (index >= 0) {
#pragma unroll
          for (int c = 0; c < 3; ++c) bytes[p * 3 + c] = blend(float(bytes[p * 3 + c]), job.frame_share, table[c][index]);
        }
        if (++x == W) {
          x = 0;
          along_y = sample_at<float>(++y, job.in.h, job.size.h);
        }
      }
    }
    if (pixels > 1 && count == pixels) {
#pragma unroll
      for (int i = 0; i < pixels * 3 / 16; ++i) {
        uint4 raw;
        memcpy(&raw, bytes + i * 16, 16);
        *reinterpret_cast<uint4*>(out + first * 3LL + i * 16) = raw;
      }
    } else {
      for (int i = 0; i < count * 3; ++i) out[first * 3LL + i] = bytes[i];
    }
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
    if (job.vectors) {
      overlay_pixels<kPixels>(job, heat, table, job.frames + offset, job.out + offset);
    } else {
      overlay_pixels<1>(job, heat, table, job.frames + offset, job.out + offset);
    }
  }
}

} // namespace camfast::cuda

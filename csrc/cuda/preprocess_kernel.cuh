// Frames to a network's input: resized with antialiasing, normalised and laid out, one launch.
//
//   A block makes `tile` neighbouring pixels of one row of the result. The frame under them is walked in strips of columns:
//
//        strip of the frame                 sums in shared memory           the row's pixels
//     [taps down][up to kStrip bytes] --sum down--> [kStrip] floats --sum along--> (x, channel), a thread each
//
// A row of the frame lies under two rows of the result at most when it is reduced; the second block finds it in the L2
// cache, so that memory is read once.
#pragma once

#include "block.cuh"
#include "preprocess.h"

namespace camfast::cuda {

constexpr int kPreprocessThreads = 256;
constexpr int kStrip = 3072;                  // bytes of a row: 1024 pixels
constexpr int kTile = kPreprocessThreads / 3; // pixels a block: a thread for each value

template <class Out>
struct PreprocessJob {
  const uint8_t* frames; // [N, H, W, 3]
  Out* out;              // [N, 3, h, w] or, interleaved, [N, h, w, 3]
  ResizeAxis rows, columns;
  Normalise normalise;
  int N;
  int tile;
  bool words; // rows and frames start at multiples of 4 bytes
  bool interleaved;
};

// sums[i] = the weighted sum down the column of bytes `left + i`, for `bytes` of them, a multiple of 4 when `words`.
__device__ __forceinline__ void sum_down(const uint8_t* frame, long long pitch, const ResizeAxis& rows,
                                         const ResizeAxis::Centre& centre, int left,
                                         int bytes, bool words, float* sums) {
  const int first = rows.first(centre), end = rows.end(centre);
  float total = 0.f;
  for (int j = first; j < end; ++j) total += rows.weight(j, centre);
  const float scale = 1.f / total;
  if (words) {
    for (int i = 4 * threadIdx.x; i < bytes; i += 4 * kPreprocessThreads) {
      float sum[4] = {};
      for (int j = first; j < end; ++j) {
        const float weight = rows.weight(j, centre);
        const uint32_t four = *reinterpret_cast<const uint32_t*>(frame + j * pitch + left + i);
#pragma unroll
        for (int k = 0; k < 4; ++k) sum[k] += float((four >> (8 * k)) & 255u) * weight;
      }
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[i + k] = sum[k] * scale;
    }
    return;
  }
  for (int i = threadIdx.x; i < bytes; i += kPreprocessThreads) {
    float sum = 0.f;
    for (int j = first; j < end; ++j) sum += float(frame[j * pitch + left + i]) * rows.weight(j, centre);
    sums[i] = sum * scale;
  }
}

// Grid (tiles of a row, rows of the result, frames).
template <class Out>
__global__ void __launch_bounds__(kPreprocessThreads) preprocess_kernel(const PreprocessJob<Out> job) {
  __shared__ float sums[kStrip];
  const ResizeAxis &rows = job.rows, &columns = job.columns;
  const int h = rows.out, w = columns.out, W = columns.length;
  const long long pitch = 3LL * W;
  const int begin = blockIdx.x * job.tile, end = begin + job.tile < w ? begin + job.tile : w; // pixels of this block
  const int x = begin + int(threadIdx.x) / 3, channel = int(threadIdx.x) % 3;
  const Normalise& by = job.normalise; // an index that is not constant would put it into local memory
  const float scale = channel == 0 ? by.scale[0] : channel == 1 ? by.scale[1] : by.scale[2];
  const float shift = channel == 0 ? by.shift[0] : channel == 1 ? by.shift[1] : by.shift[2];
  const bool mine = int(threadIdx.x) < 3 * (end - begin);
  const ResizeAxis::Centre along = columns.centre(x);
  const bool seen_x = mine && along.inside;
  const int first = seen_x ? columns.first(along) : 0, last = seen_x ? columns.end(along) : 0;
  // The frame's columns under the block's pixels, from a multiple of 4 pixels on: 12 bytes, whole words.
  const int left = columns.first(columns.centre(begin)) & ~3, right = columns.end(columns.centre(end - 1));

  for (int n = blockIdx.z; n < job.N; n += gridDim.z) {
    const uint8_t* frame = job.frames + n * pitch * rows.length;
    for (int y = blockIdx.y; y < h; y += gridDim.y) {
      const ResizeAxis::Centre down = rows.centre(y);
      const bool seen = down.inside; // the same for the whole block
      float sum = 0.f, total = 0.f;
      for (int strip = left; seen && strip < right; strip += kStrip / 3) {
        int width = right - strip < kStrip / 3 ? right - strip : kStrip / 3;
        const int whole = (width + 3) & ~3; // up to a whole word, where the row goes on
        if (job.words && strip + whole <= W) width = whole;
        const bool words = job.words && (3 * width) % 4 == 0;
        __syncthreads(); // the previous strip was read
        sum_down(frame, pitch, rows, down, 3 * strip, 3 * width, words, sums);
        __syncthreads();
        const int from = first > strip ? first : strip, to = last < strip + width ? last : strip + width;
        for (int j = from; j < to; ++j) {
          const float weight = columns.weight(j, along);
          sum += sums[3 * (j - strip) + channel] * weight;
          total += weight;
        }
      }
      if (!mine) continue;
      const float level = total > 0.f ? sum / total : 0.f;
      const long long plane = (long long)h * w, at = (long long)y * w + x;
      Out* image = job.out + 3 * plane * n;
      narrow(level * scale + shift, image + (job.interleaved ? 3 * at + channel : channel * plane + at));
    }
  }
}

} // namespace camfast::cuda

// Maps as pictures side by side: each map's range, its colours and its place in the picture, one launch.
#pragma once

#include "block.cuh"
#include "tile_maps.h"

namespace camfast::cuda {

constexpr int kTileThreads = 256;

template <class In>
struct TileJob {
  const In* maps;        // [M, h, w]
  const uint8_t* colors; // [256, 3]
  const float* limits;   // low and high of every map, or null: each map's own
  uint8_t* out;          // [H, W, 3]
  TileLayout layout;
  uint8_t background;
};

// One byte of the picture: row `y` and byte `b` of a cell's rectangle.
template <class In>
__device__ uint8_t tile_byte(const TileJob<In>& job, const In* map, const Shader& shader, const uint8_t* table, int y, int b) {
  const TileLayout& at = job.layout;
  const int x = b / 3 - int(at.pad_x), scale = int(at.scale);
  y -= int(at.pad_y);
  if (map == nullptr || y < 0 || x < 0 || y >= at.h * scale || x >= at.w * scale) return job.background;
  const float value = float(widen(map[(long long)(y / scale) * at.w + x / scale]));
  return table[3 * shader(value) + b % 3];
}

// Grid (cells, parts of a cell). The parts of a cell share out its rows; each looks at the whole map for the range, which
// lies in the caches by then, so that no block waits for another.
template <class In>
__global__ void __launch_bounds__(kTileThreads) tile_maps_kernel(const TileJob<In> job) {
  __shared__ uint8_t table[3 * kShades];
  __shared__ float reduced[3 * kMaxWarps];
  const TileLayout& at = job.layout;
  for (int i = threadIdx.x; i < 3 * kShades; i += blockDim.x) table[i] = i < 768 ? job.colors[i] : job.background;

  const long long cell = blockIdx.x;
  const In* map = cell < at.maps ? job.maps + cell * at.h * at.w : nullptr;
  Range<float> range{INFINITY, -INFINITY, 0.f};
  if (job.limits != nullptr) {
    range.low = job.limits[0];
    range.high = job.limits[1];
  } else if (map != nullptr) {
    for (long long i = threadIdx.x; i < at.h * at.w; i += blockDim.x) widen_range(float(widen(map[i])), &range.low, &range.high);
    range = block_range(range, reduced);
  }
  __syncthreads(); // the table is written
  const Shader shader = Shader::between(range.low, range.high);

  // A row begins at any address: whole words, aligned, in the middle, and single bytes at both ends.
  const TileCell place = at.cell(cell);
  const int bytes = int(3 * place.width), words = bytes / 4 + 2;
  const long long pitch = 3 * at.width(), total = place.height * words;
  for (long long i = (long long)blockIdx.y * blockDim.x + threadIdx.x; i < total; i += (long long)gridDim.y * blockDim.x) {
    const int y = int(i / words), word = int(i % words);
    uint8_t* row = job.out + (place.top + y) * pitch + 3 * place.left;
    const int first = 4 * word - int(reinterpret_cast<uintptr_t>(row) % 4);
    alignas(4) uint8_t four[4];
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const int b = first + k;
      four[k] = b >= 0 && b < bytes ? tile_byte(job, map, shader, table, y, b) : 0;
    }
    if (first >= 0 && first + 4 <= bytes) {
      uint32_t raw;
      memcpy(&raw, four, 4);
      *reinterpret_cast<uint32_t*>(row + first) = raw;
    } else {
      for (int k = 0; k < 4; ++k) {
        if (first + k >= 0 && first + k < bytes) row[first + k] = four[k];
      }
    }
  }
}

} // namespace camfast::cuda

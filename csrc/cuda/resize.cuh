// From a low-resolution map to the output: range, resize and normalisation by one block, the output written once.
#pragma once

#include "../math/resize_normalize.h"
#include "block.cuh"
#include "resize_normalize.h"

namespace camfast::cuda {

// The sample of `map` at output position (z, y, x). Interpolated along z, then x, then y, as on the CPU.
template <class T>
__device__ __forceinline__ T along(T low, T high, const Sample<T>& s) {
  return s.low == s.high ? low : mix(low, high, s.weight);
}

template <class T>
__device__ __forceinline__ T sample_map(const T* map, const MapExtent& in, const Sample<T>& z, const Sample<T>& y,
                                        const Sample<T>& x) {
  const int plane = in.h * in.w;
  const T* top = map + z.low * plane + y.low * in.w;
  const T* bottom = map + z.low * plane + y.high * in.w;
  T a = top[x.low], b = top[x.high], c = bottom[x.low], d = bottom[x.high];
  if (z.high != z.low) {
    const int deeper = (z.high - z.low) * plane;
    a = mix(a, top[deeper + x.low], z.weight);
    b = mix(b, top[deeper + x.high], z.weight);
    c = mix(c, bottom[deeper + x.low], z.weight);
    d = mix(d, bottom[deeper + x.high], z.weight);
  }
  return along(along(a, b, x), along(c, d, x), y);
}

// The outputs along one axis that decide the range (is_cell_border in math/resize_normalize.h). Long axes count every output instead
// of keeping a list.
constexpr int kMaxBorders = 256;

struct Borders {
  int count;
  const int* list; // nullptr: every output

  __device__ __forceinline__ int operator[](int i) const { return list ? list[i] : i; }
};

// `list` and `counter` are shared; all threads of the block call this, and synchronise before using the result.
template <class T, bool corners>
__device__ __forceinline__ void list_borders(int in, int out, int* list, int* counter) {
  if (2 * in + 2 > kMaxBorders) return;
  for (int o = threadIdx.x; o < out; o += blockDim.x) {
    if (is_cell_border<T, corners>(o, in, out)) list[atomicAdd(counter, 1)] = o;
  }
}

__device__ __forceinline__ Borders borders_of(int in, int out, const int* list, const int* counter) {
  if (2 * in + 2 > kMaxBorders) return {out, nullptr};
  return {*counter, list};
}

// Shared memory that find_ranges needs.
template <class T>
struct RangeScratch {
  T warps[6 * kMaxWarps];
  int lists[3][kMaxBorders];
  int counters[3];
};

// The ranges of a map and of the resized one; `finite` is NaN where a value is not.
template <class T>
struct Ranges {
  T map_min, map_max, low, high, finite;
};

// The ranges of `map`, in every thread of the block.
template <class T, bool corners = false>
__device__ Ranges<T> find_ranges(const ResizeJob& job, const T* map, RangeScratch<T>* scratch) {
  const T infinity = T(__builtin_huge_val());
  const MapExtent& in = job.in;
  const MapExtent& out = job.out;
  if (threadIdx.x < 3) scratch->counters[threadIdx.x] = 0;
  __syncthreads();
  list_borders<T, corners>(in.d, out.d, scratch->lists[0], &scratch->counters[0]);
  list_borders<T, corners>(in.h, out.h, scratch->lists[1], &scratch->counters[1]);
  list_borders<T, corners>(in.w, out.w, scratch->lists[2], &scratch->counters[2]);

  __syncthreads();
  const Borders zs = borders_of(in.d, out.d, scratch->lists[0], &scratch->counters[0]);
  const Borders ys = borders_of(in.h, out.h, scratch->lists[1], &scratch->counters[1]);
  const Borders xs = borders_of(in.w, out.w, scratch->lists[2], &scratch->counters[2]);
  Range<T> own{infinity, -infinity, T(0)}, resized{infinity, -infinity, T(0)};
  for (int s = threadIdx.x; s < in.positions(); s += blockDim.x) {
    const T v = map[s];
    own.low = v < own.low ? v : own.low;
    own.high = v > own.high ? v : own.high;
    own.unknown += v * T(0); // NaN as soon as one value is NaN or Inf
  }
  const long long samples = (long long)zs.count * ys.count * xs.count;
  for (long long i = threadIdx.x; i < samples; i += blockDim.x) {
    const int x = xs[int(i % xs.count)];
    const int zy = int(i / xs.count);
    const int y = ys[zy % ys.count], z = zs[zy / ys.count];
    const T v = sample_map(map, in, sample_at<T, corners>(z, in.d, out.d), sample_at<T, corners>(y, in.h, out.h),
                           sample_at<T, corners>(x, in.w, out.w));
    resized.low = v < resized.low ? v : resized.low;
    resized.high = v > resized.high ? v : resized.high;
  }
  block_ranges(&own, &resized, scratch->warps);
  return {own.low, own.high, resized.low, resized.high, own.unknown};
}

// The normaliser of `map`, in every thread of the block.
template <class T>
__device__ Normalizer<T> find_normalizer(const ResizeJob& job, const T* map, RangeScratch<T>* scratch) {
  const T infinity = T(__builtin_huge_val());
  if (!job.normalize) return {T(0), T(1), -infinity, infinity};
  const Ranges<T> r = find_ranges(job, map, scratch);
  return min_max_normalizer<T>(r.map_min, r.map_max + r.finite, r.low, r.high);
}

// The share of `rank` among `ranks` blocks of one map's outputs; `out` is the map's first. Threads lie side by side along a row
// and walk down the rows: samples along x stay in registers, and so do the two rows of the map between which outputs lie.
template <class T, int V>
__device__ void write_packs(const ResizeJob& job, const T* map, const Normalizer<T>& normalizer, int rank, int ranks, T* out) {
  const MapExtent& in = job.in;
  const MapExtent& size = job.out;
  const int rows = size.d * size.h, packs = size.w / V, plane = in.h * in.w;
  const int across = packs < int(blockDim.x) ? packs : int(blockDim.x);
  const int tiles = (packs + across - 1) / across, lines = int(blockDim.x) / across;
  const int line = int(threadIdx.x) / across, column = int(threadIdx.x) % across;
  if (line >= lines) return;
  // A unit is a row of a tile; a line of threads takes units that follow each other.
  const unsigned units = unsigned(tiles) * rows, slots = unsigned(ranks) * lines, each = (units + slots - 1) / slots;
  const unsigned own = (unsigned(rank) * lines + line) * each;
  const int begin = int(own < units ? own : units), end = int(own + each < units ? own + each : units);
  int tile = begin / rows, row = begin % rows, known_tile = -1, known_y = -1, known_z = -1;
  Sample<T> along_x[V], along_z{0, 0, T(0)};
  T top[V], bottom[V];
#pragma unroll 1
  for (int unit = begin; unit < end; ++unit, ++row) {
    if (row == rows) {
      row = 0;
      ++tile;
    }
    const int pack = tile * across + column;
    if (pack >= packs) continue; // the last tile is narrower
    if (tile != known_tile) {
#pragma unroll
      for (int e = 0; e < V; ++e) along_x[e] = sample_at<T>(pack * V + e, in.w, size.w);
      known_tile = tile;
      known_y = -1;
    }
    const int z = size.d == 1 ? 0 : row / size.h, y = row - z * size.h;
    const Sample<T> along_y = sample_at<T>(y, in.h, size.h);
    if (along_y.low != known_y || z != known_z) {
      along_z = sample_at<T>(z, in.d, size.d);
      known_y = along_y.low;
      known_z = z;
      const T* upper = map + along_z.low * plane + along_y.low * in.w;
      const T* lower = map + along_z.low * plane + along_y.high * in.w;
      const int deeper = (along_z.high - along_z.low) * plane;
#pragma unroll
      for (int e = 0; e < V; ++e) {
        const Sample<T>& x = along_x[e];
        T a = upper[x.low], b = upper[x.high], c = lower[x.low], d = lower[x.high];
        if (deeper) {
          a = mix(a, upper[deeper + x.low], along_z.weight);
          b = mix(b, upper[deeper + x.high], along_z.weight);
          c = mix(c, lower[deeper + x.low], along_z.weight);
          d = mix(d, lower[deeper + x.high], along_z.weight);
        }
        top[e] = along(a, b, x);
        bottom[e] = along(c, d, x);
      }
    }
    alignas(16) T values[V];
#pragma unroll
    for (int e = 0; e < V; ++e) values[e] = normalizer(along(top[e], bottom[e], along_y));
    T* to = out + row * size.w + pack * V;
    if constexpr (V == 1) {
      *to = values[0];
    } else {
      uint4 raw;
      memcpy(&raw, values, sizeof(raw));
      *reinterpret_cast<uint4*>(to) = raw;
    }
  }
}

// The same, 16 bytes at a time where that is possible.
template <class T>
__device__ void write_outputs(const ResizeJob& job, const T* map, const Normalizer<T>& normalizer, int rank, int ranks, T* out) {
  if (job.out.w % kVector<T> == 0 && reinterpret_cast<uintptr_t>(out) % 16 == 0) {
    write_packs<T, kVector<T>>(job, map, normalizer, rank, ranks, out);
  } else {
    write_packs<T, 1>(job, map, normalizer, rank, ranks, out);
  }
}

} // namespace camfast::cuda

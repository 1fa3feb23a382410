// From a low-resolution map to the output: range, resize and normalisation by one block, the output written once.
#pragma once

#include "block.cuh"
#include "plan.h"

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

// The outputs along one axis that decide the range (is_cell_border in cam_math.h). Long axes count every output instead
// of keeping a list.
constexpr int kMaxBorders = 512;

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
  T warps[3 * kMaxWarps];
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

  Range<T> own{infinity, -infinity, T(0)};
  for (int s = threadIdx.x; s < in.positions(); s += blockDim.x) {
    const T v = map[s];
    own.low = v < own.low ? v : own.low;
    own.high = v > own.high ? v : own.high;
    own.unknown += v * T(0); // NaN as soon as one value is NaN or Inf
  }
  own = block_range(own, scratch->warps); // also the barrier after the lists

  const Borders zs = borders_of(in.d, out.d, scratch->lists[0], &scratch->counters[0]);
  const Borders ys = borders_of(in.h, out.h, scratch->lists[1], &scratch->counters[1]);
  const Borders xs = borders_of(in.w, out.w, scratch->lists[2], &scratch->counters[2]);
  Range<T> resized{infinity, -infinity, T(0)};
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
  resized = block_range(resized, scratch->warps);
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

// Outputs [begin, end) of one map, flat; `out` is the map's first output. begin is a multiple of the vector.
template <class T>
__device__ void write_outputs(const ResizeJob& job, const T* map, const Normalizer<T>& normalizer, int begin, int end, T* out) {
  constexpr int V = kVector<T>;
  const MapExtent& in = job.in;
  const MapExtent& size = job.out;
  const bool aligned = reinterpret_cast<uintptr_t>(out) % 16 == 0;
  for (long long wide = begin + (long long)threadIdx.x * V; wide < end; wide += (long long)blockDim.x * V) {
    const int first = int(wide);
    int x = first % size.w;
    const int zy = first / size.w;
    int y = zy % size.h, z = zy / size.h;
    Sample<T> along_y = sample_at<T>(y, in.h, size.h), along_z = sample_at<T>(z, in.d, size.d);
    T values[V];
#pragma unroll
    for (int e = 0; e < V; ++e) {
      values[e] = normalizer(sample_map(map, in, along_z, along_y, sample_at<T>(x, in.w, size.w)));
      if (++x == size.w) { // into the next row; past the last one nothing is stored
        x = 0;
        if (++y == size.h) {
          y = 0;
          z = z + 1 < size.d ? z + 1 : z;
          along_z = sample_at<T>(z, in.d, size.d);
        }
        along_y = sample_at<T>(y, in.h, size.h);
      }
    }
    if (aligned && first + V <= end) {
      uint4 raw;
      memcpy(&raw, values, sizeof(raw));
      *reinterpret_cast<uint4*>(out + first) = raw;
    } else {
#pragma unroll
      for (int e = 0; e < V; ++e) {
        if (first + e < end) out[first + e] = values[e];
      }
    }
  }
}

// The share of `rank` among `ranks` of `total` outputs: [begin(rank), begin(rank + 1)), cut at multiples of the vector.
template <class T>
__device__ __forceinline__ int share_begin(int total, int rank, int ranks) {
  if (rank >= ranks) return total;
  const long long cut = (long long)total * rank / ranks;
  return int(cut / kVector<T> * kVector<T>);
}

} // namespace camfast::cuda

// Pieces of a Gram matrix of centred activations, by a block of 256 threads.
//
//   panel [32, 64] of the left side        panel [32, 64] of the right side
//        k |  i ->                              k |  j ->
//          v                                      v
//   thread (ty, tx): 4 x 4 products of columns 4 ty.. and 4 tx.., summed over the panel's 32 rows in the input's
//   accumulation type, then over the panels in double: rounding errors stay near those of a sum in double.
#pragma once

#include "block.cuh"

namespace camfast::cuda {

constexpr int kGramThreads = 256;
constexpr int kGramTile = 64;   // columns
constexpr int kGramDepth = 32;  // rows of a panel
constexpr int kGramStride = 68; // between them: 16-byte aligned, and off the banks of the row before

template <class T>
struct alignas(16) GramPanel {
  T rows[kGramDepth][kGramStride];

  __device__ __forceinline__ T* operator[](int k) { return rows[k]; }
  // Four values from a column that is a multiple of four, by 16-byte loads.
  __device__ __forceinline__ void four(int k, int column, T (&values)[4]) const {
    const uint4* from = reinterpret_cast<const uint4*>(rows[k] + column);
    uint4 raw[sizeof(values) / 16];
#pragma unroll
    for (int i = 0; i < int(sizeof(values) / 16); ++i) raw[i] = from[i];
    memcpy(values, raw, sizeof(values));
  }
};

// Activations of one image; element (c, s) at c * channel + s * position.
template <class In>
struct EigenImage {
  const In* data;
  long long channel, position;
  int C, S;

  __device__ __forceinline__ AccOf<In> at(int c, int s) const {
    const AccOf<In> x = widen(data[c * channel + s * position]);
    return x == x ? x : AccOf<In>(0); // NaN counts as 0
  }
};

struct GramSums {
  double values[4][4] = {};
};

// Adds the products of two panels; all threads have filled them and synchronised.
template <class T>
__device__ __forceinline__ void add_products(const GramPanel<T>& left, const GramPanel<T>& right, GramSums& sums) {
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
  T part[4][4] = {};
#pragma unroll 4
  for (int k = 0; k < kGramDepth; ++k) {
    T x[4], y[4];
    left.four(k, row, x);
    right.four(k, column, y);
#pragma unroll
    for (int i = 0; i < 4; ++i) {
#pragma unroll
      for (int j = 0; j < 4; ++j) part[i][j] += x[i] * y[j];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) sums.values[i][j] += double(part[i][j]);
  }
}

// Channels [first, first + 32) of an image of at most 64 positions, up to `last`: loaded, then centred by a warp a channel.
template <class In>
__device__ void load_centred_channels(const EigenImage<In>& image, int first, int last, GramPanel<AccOf<In>>& panel) {
  using T = AccOf<In>;
  const int warp = threadIdx.x / kWarp, warps = kGramThreads / kWarp, lane = threadIdx.x % kWarp;
  const bool by_channel = image.channel == 1 && image.position != 1;
  const int width = by_channel ? kGramDepth : kGramTile;
  for (int i = threadIdx.x; i < kGramDepth * kGramTile; i += kGramThreads) { // neighbours in memory by neighbouring threads
    const int k = by_channel ? i % width : i / width, s = by_channel ? i / width : i % width;
    panel[k][s] = first + k < last && s < image.S ? image.at(first + k, s) : T(0);
  }
  __syncthreads();
  for (int k = warp; k < kGramDepth; k += warps) {
    T near = panel[k][lane], far = panel[k][lane + kWarp];
    const bool has_near = lane < image.S, has_far = lane + kWarp < image.S;
    for (int pass = 0; pass < 2; ++pass) { // the second takes off what rounding has left of the mean
      const T mean = warp_sum((has_near ? near : T(0)) + (has_far ? far : T(0))) / T(image.S);
      near -= mean;
      far -= mean;
    }
    panel[k][lane] = has_near ? near : T(0);
    panel[k][lane + kWarp] = has_far ? far : T(0);
  }
  __syncthreads();
}

} // namespace camfast::cuda

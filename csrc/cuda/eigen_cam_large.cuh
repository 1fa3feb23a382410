// EigenCAM and KPCA-CAM of maps of more than 64 positions, or of more positions than channels: plain launches, for as many
// images at a time as the scratch holds, without a word to the host, so that a CUDA graph can hold them.
//
//   means [C] ──▶ gram [n, n], a block a tile ──▶ eigenvector, a block an image ──▶ projection [S] ──▶ sign ──▶ resize
#pragma once

#include "eigen_cam_gram.cuh"
#include "eigen_cam_vector.cuh"

namespace camfast::cuda {

// The scratch of a batch of images (eigen_image_values in eigen_cam.h), one image after the other.
struct EigenScratch {
  EigenShape shape;
  int steps;
  double* memory;

  CAMFAST_HD double* means(int m) const { return memory + m * eigen_image_values(shape, steps); }
  CAMFAST_HD double* gram(int m) const { return means(m) + shape.C; }
  CAMFAST_HD double* work(int m) const { return gram(m) + (long long)shape.n() * shape.n(); }
  CAMFAST_HD double* projection(int m) const { return work(m) + eigen_work_values(shape.n(), steps); }
};

struct EigenVectorJob {
  EigenScratch scratch;
  double gamma;
};

template <class T>
struct EigenSettleJob {
  EigenScratch scratch;
  T* raw; // [images, S]
};

template <class In>
struct EigenLargeJob {
  EigenScratch scratch;
  EigenImage<In> first; // of the batch's first image
  long long image;      // to the next one

  __device__ EigenImage<In> view(int m) const {
    EigenImage<In> own = first;
    own.data += m * image;
    return own;
  }
};

// A warp a channel: grid (ceil(C / warps), images).
template <class In>
__global__ void __launch_bounds__(kGramThreads, 1) eigen_means_kernel(const EigenLargeJob<In> job) {
  const int c = blockIdx.x * (kGramThreads / kWarp) + threadIdx.x / kWarp, m = blockIdx.y;
  if (c >= job.scratch.shape.C) return;
  const EigenImage<In> image = job.view(m);
  double sum = 0;
  for (int s = threadIdx.x % kWarp; s < image.S; s += kWarp) sum += double(image.at(c, s));
  sum = warp_sum(sum);
  if (threadIdx.x % kWarp == 0) job.scratch.means(m)[c] = sum / image.S;
}

// Rows [k, k + 32) of the longer side, columns [i, i + 64) of the shorter one, centred.
template <class In>
__device__ void load_panel(const EigenLargeJob<In>& job, const EigenImage<In>& image, const double* means, int k, int i,
                           GramPanel<AccOf<In>>& panel) {
  using T = AccOf<In>;
  const bool over_positions = job.scratch.shape.over_positions();
  const int depth = over_positions ? image.C : image.S, n = job.scratch.shape.n();
  const bool rows_adjacent = over_positions == (image.channel == 1 && image.position != 1);
  for (int e = threadIdx.x; e < kGramDepth * kGramTile; e += kGramThreads) { // neighbours in memory by neighbouring threads
    const int row = rows_adjacent ? e % kGramDepth : e / kGramTile, column = rows_adjacent ? e / kGramDepth : e % kGramTile;
    T value = T(0);
    if (k + row < depth && i + column < n) {
      const int c = over_positions ? k + row : i + column, s = over_positions ? i + column : k + row;
      value = T(double(image.at(c, s)) - means[c]);
    }
    panel[row][column] = value;
  }
}

// A tile of 64 x 64, on or above the diagonal, and its mirror image: grid (tiles * (tiles + 1) / 2, images).
template <class In>
__global__ void __launch_bounds__(kGramThreads, 1) eigen_gram_kernel(const EigenLargeJob<In> job) {
  using T = AccOf<In>;
  __shared__ GramPanel<T> left, right;
  const EigenImage<In> image = job.view(blockIdx.y);
  const double* means = job.scratch.means(blockIdx.y);
  const int n = job.scratch.shape.n(), depth = job.scratch.shape.over_positions() ? image.C : image.S;
  int i = 0, j = blockIdx.x;
  for (int tiles = (n + kGramTile - 1) / kGramTile; j >= tiles; --tiles) { // row i of tiles has one fewer than the row before
    j -= tiles;
    ++i;
  }
  j += i;
  GramSums sums;
  for (int k = 0; k < depth; k += kGramDepth) {
    load_panel(job, image, means, k, i * kGramTile, left);
    if (i != j) load_panel(job, image, means, k, j * kGramTile, right);
    __syncthreads();
    add_products(left, i == j ? left : right, sums);
    __syncthreads();
  }
  double* gram = job.scratch.gram(blockIdx.y);
  const int row = i * kGramTile + threadIdx.x / 16 * 4, column = j * kGramTile + threadIdx.x % 16 * 4;
#pragma unroll
  for (int y = 0; y < 4; ++y) {
#pragma unroll
    for (int x = 0; x < 4; ++x) {
      if (row + y < n && column + x < n) {
        gram[(long long)(row + y) * n + column + x] = sums.values[y][x];
        if (i != j) gram[(long long)(column + x) * n + row + y] = sums.values[y][x];
      }
    }
  }
}

// A block an image: the eigenvector, left in the iteration's `next`, times the root of its eigenvalue over positions.
static __global__ void __launch_bounds__(kGramThreads, 1) eigen_vector_kernel(const EigenVectorJob job) {
  const int m = blockIdx.x, n = job.scratch.shape.n();
  double* gram = job.scratch.gram(m);
  const EigenWork work = eigen_work(job.scratch.work(m), n, job.scratch.steps);
  double scale = __builtin_nan("");
  if (is_finite(gram, n)) { // the same in all threads
    if (job.scratch.shape.kernel) to_kernel(gram, n, job.gamma, work.next);
    const double value = top_eigenpair(gram, n, work);
    scale = !job.scratch.shape.over_positions() ? 1.0 : value > 0 ? sqrt(value) : 0.0;
  } else {
    for (int i = threadIdx.x; i < n; i += blockDim.x) work.next[i] = 1;
  }
  for (int i = threadIdx.x; i < n; i += blockDim.x) { // each thread what it wrote itself
    const double value = work.next[i] * scale;
    if (job.scratch.shape.over_positions()) {
      job.scratch.projection(m)[i] = value;
    } else {
      work.next[i] = value;
    }
  }
}

// Over channels: a thread a position sums the centred channels by the vector: grid (ceil(S / threads), images).
template <class In>
__global__ void __launch_bounds__(kGramThreads, 1) eigen_project_kernel(const EigenLargeJob<In> job) {
  const int s = blockIdx.x * kGramThreads + threadIdx.x, m = blockIdx.y;
  if (s >= job.scratch.shape.S) return;
  const EigenImage<In> image = job.view(m);
  const double *means = job.scratch.means(m),
               *vector = eigen_work(job.scratch.work(m), job.scratch.shape.n(), job.scratch.steps).next;
  double sum = 0;
  for (int c = 0; c < image.C; ++c) sum += vector[c] * (double(image.at(c, s)) - means[c]);
  job.scratch.projection(m)[s] = sum;
}

// A block an image: the sign, and the map in its own type.
template <class T>
__global__ void __launch_bounds__(kGramThreads, 1) eigen_settle_kernel(const EigenSettleJob<T> job) {
  const int m = blockIdx.x, S = job.scratch.shape.S;
  const double* projection = job.scratch.projection(m);
  const double sign = settling_sign(projection, S);
  for (int s = threadIdx.x; s < S; s += blockDim.x) job.raw[(long long)m * S + s] = T(projection[s] * sign);
}

} // namespace camfast::cuda

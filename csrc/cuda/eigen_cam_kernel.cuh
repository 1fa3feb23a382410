// EigenCAM and KPCA-CAM in one launch, for maps of at most 64 positions.
//
//   image n:  block 0    block 1   ...  block R-1      each sums the Gram matrix [S, S] of its share of the channels
//                |          |              |
//                +---- matrices [S, S] ----+           exchanged as partial maps are in cam_kernel.cuh
//                |          |              |
//             vector     vector         vector         every block adds them up in the same order, finds the eigenvector
//             rows 0..   rows ..        rows ..        by itself, and writes its share of the output
#pragma once

#include "eigen_cam_gram.cuh"
#include "eigen_cam_vector.cuh"
#include "resize.cuh"

namespace camfast::cuda {

template <class In>
struct EigenJob {
  EigenImage<In> first; // of the first image
  long long image;      // to the next one
  bool kernel;          // a kernel PCA
  double gamma;
  ResizeJob resize;
  int group; // blocks an image
  Exchange exchange;
  double* partial; // [N, group, S, S], for Exchange::grid
  AccOf<In>* out;  // [N, *out]
};

template <class In>
__global__ void __launch_bounds__(kGramThreads, 1) eigen_kernel(const EigenJob<In> job) {
  using T = AccOf<In>;
  const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
  EigenImage<In> image = job.first;
  image.data += m * job.image;
  const int S = image.S, matrix = S * S;

  CAMFAST_DYNAMIC_SHARED(unsigned char, shared);
  GramPanel<T>& panel = *reinterpret_cast<GramPanel<T>*>(shared);
  double* gram = reinterpret_cast<double*>(shared + sizeof(GramPanel<T>));
  double* full = job.exchange == Exchange::cluster ? gram + matrix : gram;
  const EigenWork work = eigen_work(full + matrix, S, S);
  T* map = reinterpret_cast<T*>(full + matrix + eigen_work_values(S, S));
  __shared__ RangeScratch<T> range_scratch;

  const int panels = (image.C + kGramDepth - 1) / kGramDepth;
  const int last = panels * (rank + 1) / job.group * kGramDepth;
  GramSums sums;
  for (int c = panels * rank / job.group * kGramDepth; c < last; c += kGramDepth) {
    load_centred_channels(image, c, last < image.C ? last : image.C, panel);
    add_products(panel, panel, sums);
    __syncthreads(); // before the next panel
  }
  const int row = threadIdx.x / 16 * 4, column = threadIdx.x % 16 * 4;
#pragma unroll
  for (int i = 0; i < 4; ++i) {
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      if (row + i < S && column + j < S) gram[(row + i) * S + column + j] = sums.values[i][j];
    }
  }

  if (job.exchange == Exchange::cluster) {
    group::require_clusters();
    group::cluster_sync();
    for (int i = threadIdx.x; i < matrix; i += blockDim.x) {
      double value = 0;
      for (int r = 0; r < job.group; ++r) value += group::cluster_peer(gram, r)[i];
      full[i] = value;
    }
  } else if (job.exchange == Exchange::grid) {
    __syncthreads(); // other threads wrote what this one sends on
    double* partial = job.partial + (long long)m * job.group * matrix;
    for (int i = threadIdx.x; i < matrix; i += blockDim.x) partial[(long long)rank * matrix + i] = gram[i];
    group::grid_sync();
    for (int i = threadIdx.x; i < matrix; i += blockDim.x) {
      double value = 0;
      for (int r = 0; r < job.group; ++r) value += __ldcg(partial + (long long)r * matrix + i);
      full[i] = value;
    }
  }
  __syncthreads();

  if (is_finite(full, S)) { // the same in all threads
    if (job.kernel) to_kernel(full, S, job.gamma, work.next);
    const double value = top_eigenpair(full, S, work);
    const double scale = settling_sign(work.next, S) * (value > 0 ? sqrt(value) : 0.0);
    for (int s = threadIdx.x; s < S; s += blockDim.x) map[s] = T(work.next[s] * scale);
  } else {
    for (int s = threadIdx.x; s < S; s += blockDim.x) map[s] = T(__builtin_nan(""));
  }
  if (job.resize.normalize) { // each thread what it has just written
    for (int s = threadIdx.x; s < S; s += blockDim.x) map[s] = positive(map[s]);
  }
  __syncthreads();
  const Normalizer<T> normalizer = find_normalizer(job.resize, map, &range_scratch);
  const int area = job.resize.out.positions();
  write_outputs(job.resize, map, normalizer, rank, job.group, job.out + (long long)m * area);
  // A block's shared memory must live until its peers have read it.
  if (job.exchange == Exchange::cluster) group::cluster_sync();
}

} // namespace camfast::cuda

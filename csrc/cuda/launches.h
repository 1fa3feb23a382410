// The launches, as plain functions over plain numbers: what the ops (ops.cpp, with torch) ask of the kernels (*.cu,
// without torch, so that they compile quickly for every architecture).
#pragma once

#include <cuda_runtime_api.h>

#include "../preprocess.h"
#include "../tile_layout.h"
#include "plan.h"

namespace camfast::cuda {

// Strides in elements; `step` is between channels (positions adjacent) or between positions (channels adjacent).
struct CamStrides {
  long long image, target, step;
};

struct CamCall {
  const void* activations;
  const void* second; // gradients, or weights
  CamStrides a, s;
  Rule rule;
  bool channels_adjacent;
  int maps, K, C;
  ResizeJob resize;
  void* out;     // [maps, *out]
  void* scratch; // plan.scratch_bytes
  CamPlan plan;
  cudaStream_t stream;
};

struct ResizeCall {
  const void* maps; // [M, *in], dense
  int M;
  ResizeJob resize;
  bool relu;
  void* out;
  void* scratch;
  ResizePlan plan;
  cudaStream_t stream;
};

struct PreprocessCall {
  const unsigned char* frames; // [N, H, W, 3]
  void* out;                   // [N, 3, h, w], or interleaved [N, h, w, 3]
  ResizeAxis rows, columns;
  Normalise normalise;
  int N;
  bool interleaved;
  cudaStream_t stream;
};

struct OverlayCall {
  const unsigned char* frames; // [N, H, W, 3]
  const float* heat;           // [N, h, w]
  const unsigned char* colors; // [256, 3]
  unsigned char* out;
  int N;
  MapExtent map, frame;
  float alpha, frame_share;
  int blocks; // a frame
  cudaStream_t stream;
};

struct TileCall {
  const void* maps;            // [M, h, w], dense
  const unsigned char* colors; // [256, 3]
  const float* limits;         // [2], or null
  unsigned char* out;          // [H, W, 3]
  TileLayout layout;
  unsigned char background;
  int parts; // blocks a cell
  cudaStream_t stream;
};

struct EigenCall {
  const void* activations; // element (n, c, s) at n * image + c * channel + s * position
  long long image, channel, position;
  EigenShape shape;
  double gamma;
  ResizeJob resize;
  void* out; // [N, *out]
  void* scratch;
  EigenPlan plan;
  cudaStream_t stream;
};

struct MaskCall {
  const void* images; // [N, planes, *size], dense or channels_last
  const void* maps;   // [N, C, *map], dense, of the accumulation type
  void* out;          // [N * C, planes, *size], laid out as the images
  int N, C, planes;
  bool channels_last, corners, scale_first;
  MapExtent map, size;
  int group;        // blocks a map
  int shared_bytes; // the map's, or 0: read from global memory
  cudaStream_t stream;
};

// Blocks of the largest cluster that the current device, of compute capability 9.0 or later, has room for.
int largest_cluster();

template <class In>
cudaError_t launch_eigen(const EigenCall& call);
template <class In>
cudaError_t launch_masks(const MaskCall& call);
template <class In>
cudaError_t launch_cam(const CamCall& call);
template <class In>
cudaError_t launch_resize(const ResizeCall& call);
template <class Out>
cudaError_t launch_preprocess(const PreprocessCall& call);
cudaError_t launch_overlay(const OverlayCall& call);
template <class In>
cudaError_t launch_tile_maps(const TileCall& call);

} // namespace camfast::cuda

// Large maps by a pipeline: rows of activations and gradients come through a ring in shared memory (ring.cuh), as they lie in
// memory. A stage is a channel's two rows; a thread owns positions of the map, whose sums stay in its registers.
//
//   memory    ...|A of c + 3|G of c + 3|                        one run of bytes a row, whatever S is: from the multiple of
//   ring         |A of c + 2|G of c + 2|A of c + 1|G of c + 1|  16 bytes before its first value to the one after its last
//   threads      sum G of c; w; map += w * A of c
//
// A multiple of 16 bytes that reaches beyond the image is not copied: the few values there are loaded one by one.
// For Grad-CAM and the element-wise rules, which need no row twice.
#pragma once

#include "cam_kernel.cuh"
#include "ring.cuh"

namespace camfast::cuda {

template <class In>
struct PipelineJob {
  CamJob<In> cam;
  int stages;
};

// The rows of an image's channels, and what a stage holds of them.
template <class In>
struct StagedRows {
  static constexpr uintptr_t kUnit = 16;
  const In* first;
  int S;
  uintptr_t low, high; // units wholly inside the image

  __device__ StagedRows(const In* image, int C, int positions)
      : first(image),
        S(positions),
        low((reinterpret_cast<uintptr_t>(image) + kUnit - 1) / kUnit * kUnit),
        high(reinterpret_cast<uintptr_t>(image + (long long)C * positions) / kUnit * kUnit) {}

  __device__ uintptr_t address(int c) const { return reinterpret_cast<uintptr_t>(first + (long long)c * S); }
  // Where the row's first value lies in its stage.
  __device__ unsigned shift(int c) const { return unsigned(address(c) % kUnit); }

  __device__ Piece piece(int c, unsigned char* stage) const {
    const uintptr_t begin = address(c) - shift(c), end = (address(c) + S * sizeof(In) + kUnit - 1) / kUnit * kUnit;
    const uintptr_t from = begin < low ? low : begin, to = end > high ? high : end;
    return {stage + (from - begin), reinterpret_cast<const unsigned char*>(from), unsigned(to - from)};
  }
  __device__ const In* row(int c, const unsigned char* stage) const { return reinterpret_cast<const In*>(stage + shift(c)); }

  // The values of an image's first or last row that no unit holds.
  __device__ void add_edges(int c, unsigned char* stage) const {
    In* to = reinterpret_cast<In*>(stage + shift(c));
    const In* from = first + (long long)c * S;
    const int t = int(threadIdx.x), head = address(c) < low ? int((low - address(c)) / sizeof(In)) : 0;
    const int tail = high < address(c) + S * sizeof(In) ? int((high - address(c)) / sizeof(In)) : S;
    if (t < head) to[t] = from[t];
    if (tail + t < S) to[tail + t] = from[tail + t];
  }
};

// The sums over a slice's channels, by kMaxCamThreads threads: sum[i] at position threadIdx.x + i * kMaxCamThreads. `exchange`: as
// team_sums has it.
template <bool weighted, class In>
__device__ __forceinline__ void sum_pipelined(const ChannelSumJob<In>& job, const Slice<In>& slice, Ring& ring,
                                              unsigned char* memory, AccOf<In>* exchange, AccOf<In>* sum) {
  using T = AccOf<In>;
  const int S = job.S, count = slice.last - slice.first, row_bytes = staged_row_bytes(S, int(sizeof(In)));
  const StagedRows<In> as(slice.a, job.C, S), gs(slice.second, job.C, S);
  const auto a_stage = [&](int i) { return memory + 2 * i * row_bytes; };
  const auto g_stage = [&](int i) { return memory + (2 * i + 1) * row_bytes; };
  const auto fill = [&](int stage, int turn) {
    if (turn >= count) return ring.skip_fill();
    const int c = slice.first + turn;
    ring.fill(stage, as.piece(c, a_stage(stage)), gs.piece(c, g_stage(stage)));
  };
  const ElementTerm<T> term(job.rule);
#pragma unroll
  for (int i = 0; i < kRowValues; ++i) sum[i] = T(0);
  int exchanged = 0;
#pragma unroll 1
  for (int turn = 0; turn < ring.stages - 1; ++turn) fill(turn, turn);
#pragma unroll 1
  for (int turn = 0; turn < count; ++turn, ring.next_turn()) {
    const int c = slice.first + turn, stage = ring.stage;
    ring.wait();
    if (c == 0 || c == job.C - 1) {
      as.add_edges(c, a_stage(stage));
      gs.add_edges(c, g_stage(stage));
      group::copy_fence();
    }
    __syncthreads();
    fill(ring.free_stage(), turn + ring.stages - 1);
    const In* a = as.row(c, a_stage(stage)) + threadIdx.x;
    const In* g = gs.row(c, g_stage(stage)) + threadIdx.x;
    const int own = S - int(threadIdx.x); // positions from the first of this thread to the row's end
    T w = T(0);
    if (weighted) {
#pragma unroll
      for (int i = 0; i < kRowValues; ++i) {
        if (i * kMaxCamThreads < own) w += widen(g[i * kMaxCamThreads]);
      }
      team_sums<true, 1>(&w, kWarp, exchange, &exchanged);
      w /= T(S);
    }
#pragma unroll
    for (int i = 0; i < kRowValues; ++i) {
      if (i * kMaxCamThreads < own) {
        const T x = widen(a[i * kMaxCamThreads]);
        sum[i] += weighted ? x * w : term(x, widen(g[i * kMaxCamThreads]));
      }
    }
  }
  __syncthreads(); // the ring's memory is free
}

template <class In, bool weighted>
__global__ void __launch_bounds__(kMaxCamThreads, 2) cam_pipeline_kernel(const PipelineJob<In> whole) {
  if constexpr (!group::kAsyncCopies) {
    __trap(); // not compiled for this GPU; plan_cam does not come here
  } else {
    using T = AccOf<In>;
    const CamJob<In>& job = whole.cam;
    const int m = blockIdx.x / job.group, rank = blockIdx.x % job.group;
    CAMFAST_DYNAMIC_SHARED(unsigned char, memory);
    __shared__ T exchange[2 * kMaxWarps];
    __shared__ RangeScratch<T> range_scratch;
    T sum[kRowValues];
    {
      Ring ring(reinterpret_cast<group::CopyBarrier*>(memory), whole.stages);
      sum_pipelined<weighted>(job.sum, slice_of(job, m, rank), ring, memory + kRingHeader, exchange, sum);
    }
    T* map = reinterpret_cast<T*>(memory + kRingHeader); // where the ring was
    T* full = job.group > 1 ? map + job.sum.S : map;
#pragma unroll
    for (int i = 0; i < kRowValues; ++i) {
      const int s = threadIdx.x + i * kMaxCamThreads;
      if (s < job.sum.S) map[s] = sum[i];
    }
    __syncthreads();
    finish_map(job, m, rank, map, full, &range_scratch);
  }
}

} // namespace camfast::cuda

// How a launch is cut into blocks, from plain numbers: no CUDA in here, so that it is tested without a GPU.
#pragma once

#include <algorithm>

#include "../cam_math.h"

namespace camfast::cuda {

// A map's dimensions; missing ones are 1.
struct MapExtent {
  int d, h, w;
  CAMFAST_HD int positions() const { return d * h * w; }
};

struct ResizeJob {
  MapExtent in, out;
  bool normalize;
};

struct Machine {
  int multiprocessors;
  int shared_bytes;  // dynamic and static shared memory a block may have
  int max_cluster;   // blocks; 1: no clusters; more than kPortableCluster: what this GPU allows beyond the others
  bool cooperative;  // grid-wide barriers
};

enum class Exchange : int { none, cluster, grid };

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;        // of a block
constexpr int kPortableCluster = 8; // blocks of a cluster that every GPU with clusters allows
constexpr int kMaxCamThreads = 512; // a block's threads when there are fewer blocks than multiprocessors
constexpr int kCamThreads = 256;    // and when there are more: several such blocks share one
constexpr int kRowValues = 8;       // of a channel's positions, that a thread holds in registers at most (register_rows.cuh)
constexpr long long kBytesABlock = 16 * 1024; // less work than this does not pay for another block
constexpr int kStaticSharedBytes = 6 * 1024; // an upper bound of what kernels with dynamic shared memory have besides

CAMFAST_HD bool rows_in_registers(int S, int threads) { return S <= kRowValues * threads; }
// Whether a warp holds a channel's positions; else all of a block's threads do, and need less shared memory.
CAMFAST_HD bool rows_of_warps(int S) { return rows_in_registers(S, kWarp); }

// Dynamic shared memory of the cam kernel, in values of the accumulation type, one region after the other.
struct CamShared {
  int w, sum_a, threads, map, full;
  CAMFAST_HD CamShared(int chunk, int S, int vector, Rule rule, bool channels_adjacent, int block, bool grouped)
      : w(channels_adjacent ? chunk : 0), sum_a(channels_adjacent && weights_need_activations(rule) ? chunk : 0),
        threads(channels_adjacent || rows_of_warps(S) ? block * vector : 2 * kRowValues * kMaxWarps), map(S), full(grouped ? S : 0) {}
  CAMFAST_HD long long values() const { return (long long)w + sum_a + threads + map + full; }
};

struct CamPlan {
  bool fits;  // else: the path for large maps
  int group;  // blocks a map
  int threads;
  Exchange exchange;
  int chunk;  // channels at a time
  int shared_bytes;
  int carveout;            // percent of a multiprocessor's memory to be shared memory; 0: as the driver has it
  long long scratch_bytes; // of global memory, for the launch's own use
};

struct CamShape {
  long long maps; // images times targets
  int C, S;
  long long area; // outputs a map
  int element_bytes, accumulation_bytes;
  Rule rule;
  bool channels_adjacent;
};

// Resizing alone: the map in shared memory, or the path for large maps.
struct ResizePlan {
  bool fits;
  int group;
  int shared_bytes;
  long long scratch_bytes;
};

inline int round_up(long long n, int unit) { return int((n + unit - 1) / unit * unit); }

// The last two launches for large maps: the map in the accumulation type, and a normaliser of four values.
inline long long large_scratch_bytes(long long maps, long long S, int accumulation_bytes) {
  return maps * (S + 4) * accumulation_bytes;
}

// So much shared memory that `blocks` of a launch fit on a multiprocessor. Up to a quarter the driver is left alone: the rest of
// the memory is cache, and a change of the partition makes kernels wait for each other.
inline int carveout(const Machine& machine, long long dynamic_bytes, int blocks) {
  const long long wanted = blocks * (dynamic_bytes + kStaticSharedBytes);
  const int percent = int(std::min(100LL, (100 * wanted + machine.shared_bytes - 1) / machine.shared_bytes));
  return percent > 25 ? percent : 0;
}

inline CamPlan plan_cam(const Machine& machine, const CamShape& shape) {
  const int vector = 16 / shape.element_bytes;
  const int inputs = shape.rule == Rule::weights ? 1 : 2;
  const long long row = (long long)shape.S * shape.element_bytes;
  const long long bytes = row * shape.C * inputs + shape.area * shape.accumulation_bytes;

  CamPlan plan{};
  // As many groups as are on the GPU at once: a second wave would wait for the slowest of the first.
  const int wide = rows_in_registers(shape.S, kCamThreads) ? 1 : 2; // blocks of twice the threads
  const long long resident = machine.multiprocessors * (shape.accumulation_bytes == 8 ? 2LL : 4LL) / wide;
  long long group = std::min(resident / std::max(1LL, shape.maps), std::max(1LL, bytes / kBytesABlock));
  if (machine.max_cluster > 1) {
    // Larger clusters fit into fewer places: for few maps only.
    const bool alone = shape.maps * machine.max_cluster <= machine.multiprocessors;
    group = std::min<long long>(group, alone ? machine.max_cluster : std::min(machine.max_cluster, kPortableCluster));
    plan.exchange = Exchange::cluster;
  } else if (machine.cooperative) { // all blocks must be on the GPU at once: one a multiprocessor always is
    group = std::min(group, machine.multiprocessors / shape.maps);
    plan.exchange = Exchange::grid;
  } else {
    group = 1;
  }
  plan.group = int(std::max(1LL, group));
  if (plan.group == 1) plan.exchange = Exchange::none;
  const bool few = shape.maps * plan.group <= machine.multiprocessors;
  plan.threads = few || wide == 2 ? kMaxCamThreads : kCamThreads;

  // Channels at a time, where they are adjacent: all of a block's, of which every thread owns a pack; but where activations are
  // read twice, only as many as the caches keep. Rows in registers need no chunks.
  long long chunk = vector;
  if (shape.channels_adjacent) {
    chunk = std::min(((long long)shape.C + plan.group - 1) / plan.group, (long long)plan.threads * vector);
    if (weights_need_activations(shape.rule)) chunk = std::min(chunk, std::max(64LL, 32 * 1024 / row));
  }
  plan.chunk = std::max(vector, round_up(chunk, vector));

  const CamShared shared(plan.chunk, shape.S, vector, shape.rule, shape.channels_adjacent, plan.threads, plan.group > 1);
  const long long needed = shared.values() * shape.accumulation_bytes;
  plan.fits = needed <= machine.shared_bytes - kStaticSharedBytes &&
      (shape.channels_adjacent || rows_in_registers(shape.S, plan.threads));
  plan.shared_bytes = int(needed);
  plan.carveout = carveout(machine, needed, int(resident / machine.multiprocessors));
  if (!plan.fits) {
    plan.scratch_bytes = large_scratch_bytes(shape.maps, shape.S, shape.accumulation_bytes) +
        shape.maps * (shape.C + shape.S) * shape.accumulation_bytes;
  } else if (plan.exchange == Exchange::grid) {
    plan.scratch_bytes = shape.maps * plan.group * shape.S * shape.accumulation_bytes;
  }
  return plan;
}

// Blocks a map for kernels that only write: as many as fill the GPU, none with too little to do.
inline int blocks_a_map(const Machine& machine, long long maps, long long bytes_a_map) {
  const long long fill = (4LL * machine.multiprocessors + maps - 1) / maps;
  return int(std::max(1LL, std::min(fill, bytes_a_map / kBytesABlock)));
}

inline ResizePlan plan_resize(const Machine& machine, long long maps, long long S, long long area, int accumulation_bytes) {
  ResizePlan plan{};
  plan.fits = S * accumulation_bytes <= machine.shared_bytes - kStaticSharedBytes;
  plan.group = blocks_a_map(machine, maps, area * accumulation_bytes);
  plan.shared_bytes = plan.fits ? int(S * accumulation_bytes) : 0;
  plan.scratch_bytes = plan.fits ? 0 : large_scratch_bytes(maps, S, accumulation_bytes);
  return plan;
}

// Principal components: one launch where the Gram matrix over positions is small, else five, an image a block where it
// matters, for as many images at a time as the scratch allows.
constexpr int kSmallGram = 64;       // positions of the one-launch path
constexpr int kMostEigenSteps = 512; // of the iteration; the best vector found by then is taken
constexpr long long kEigenScratch = 256LL << 20;

struct EigenShape {
  long long N;
  int C, S;
  bool kernel;
  long long area;
  int accumulation_bytes;
  CAMFAST_HD bool over_positions() const { return kernel || S <= C; }
  CAMFAST_HD int n() const { return over_positions() ? S : C; }
};

struct EigenPlan {
  bool fits; // else: the path for large maps
  int group; // blocks an image
  Exchange exchange;
  int shared_bytes;
  int steps;          // of the iteration, at most
  int batch;          // images at a time, on the path for large maps
  ResizePlan resize;  // of a batch
  long long scratch_bytes;
};

// basis [n, steps], next [n], four times `steps` values: the iteration's memory, in doubles.
CAMFAST_HD long long eigen_work_values(int n, int steps) { return (long long)n * (steps + 1) + 4LL * steps; }

// Doubles of one image's scratch: means [C], gram [n, n], the iteration's, projection [S]. The raw maps follow those of all.
CAMFAST_HD long long eigen_image_values(const EigenShape& shape, int steps) {
  return shape.C + (long long)shape.n() * shape.n() + eigen_work_values(shape.n(), steps) + shape.S;
}

inline EigenPlan plan_eigen(const Machine& machine, const EigenShape& shape) {
  EigenPlan plan{};
  const int n = shape.n();
  plan.steps = std::min(n, kMostEigenSteps);
  // A block adds up at least 128 channels; one block a multiprocessor.
  long long group = std::max(1LL, std::min<long long>(machine.multiprocessors / std::max(1LL, shape.N), shape.C / 128));
  if (machine.max_cluster > 1) {
    group = std::min<long long>(group, std::min(machine.max_cluster, kPortableCluster));
    plan.exchange = Exchange::cluster;
  } else {
    group = machine.cooperative ? group : 1;
    plan.exchange = Exchange::grid;
  }
  if (group == 1) plan.exchange = Exchange::none;
  plan.group = int(group);
  const int matrices = plan.exchange == Exchange::cluster ? 2 : 1; // a block's own, and the sum
  plan.shared_bytes = 32 * 68 * shape.accumulation_bytes + // the panel of gram.cuh
      int(8 * ((long long)matrices * n * n + eigen_work_values(n, plan.steps) + n));
  plan.fits = shape.over_positions() && n <= kSmallGram && plan.shared_bytes <= machine.shared_bytes - kStaticSharedBytes;
  if (plan.fits) {
    plan.scratch_bytes = plan.exchange == Exchange::grid ? 8LL * shape.N * plan.group * n * n : 0;
    return plan;
  }
  const long long image = 8 * eigen_image_values(shape, plan.steps);
  plan.batch = int(std::max(1LL, std::min({shape.N, kEigenScratch / image, 65535LL})));
  plan.resize = plan_resize(machine, plan.batch, shape.S, shape.area, shape.accumulation_bytes);
  plan.scratch_bytes = plan.batch * (image + (long long)shape.S * shape.accumulation_bytes) + plan.resize.scratch_bytes;
  return plan;
}

} // namespace camfast::cuda

// What plans of launches are made of, from plain numbers: no CUDA in here, so that they are tested without a GPU. An op's own
// plan stands in its header.
#pragma once

#include <algorithm>

#include "../math/scalar.h"

namespace camfast::cuda {

// A map's dimensions; missing ones are 1.
struct MapExtent {
  int d, h, w;
  CAMFAST_HD int positions() const { return d * h * w; }
};

// How copies into shared memory run beside the arithmetic (async_copy.cuh).
enum class Copies : int { none, threads, bulk };

struct Machine {
  int multiprocessors;
  int shared_bytes; // dynamic and static shared memory a block may have
  int max_cluster;  // blocks; 1: no clusters; more than kPortableCluster: what this GPU allows beyond the others
  bool cooperative; // grid-wide barriers
  Copies copies;    // what the kernels are compiled for
};

enum class Exchange : int { none, cluster, grid };

constexpr int kWarp = 32;
constexpr int kMaxWarps = 32;                 // of a block
constexpr int kPortableCluster = 8;           // blocks of a cluster that every GPU with clusters allows
constexpr long long kBytesABlock = 16 * 1024; // less work than this does not pay for another block
constexpr int kStaticSharedBytes = 6 * 1024;  // an upper bound of what kernels with dynamic shared memory have besides

inline int round_up(long long n, int unit) { return int((n + unit - 1) / unit * unit); }

// Blocks a map for kernels that only write: as many as fill the GPU, none with too little to do.
inline int blocks_a_map(const Machine& machine, long long maps, long long bytes_a_map) {
  const long long fill = (4LL * machine.multiprocessors + maps - 1) / maps;
  return int(std::max(1LL, std::min(fill, bytes_a_map / kBytesABlock)));
}

} // namespace camfast::cuda

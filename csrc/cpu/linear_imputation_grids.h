// The grids of one picture in memory: the picture's own, and coarser ones of half the size each.
//
// A plane's rows lie `stride` apart, a multiple of the longest vector and longer than the row: what is behind a row's end is 0,
// is the left neighbour of the next row, and stays 0 because no position there is removed. A row of zeros lies above and below.
// So passes run in whole vectors over whole rows, and no neighbour is a special case.
#pragma once

#include <math.h>

#include <memory>
#include <vector>

#include "../math/linear_imputation.h"
#include "simd.h"

namespace camfast {

struct Grid {
  int64_t h, w, stride;
  int8_t* removed;           // [h, stride]: -1 or 0
  float* reach[2];           // [stride], of a row at the upper or lower edge, and of one between them
  float* inverse_weights[2]; // the same
  float *y, *r, *p, *z;      // the solution; what it leaves; conjugate gradients' direction; the preconditioned r
  float* ring[4];            // rows of a pass
  float* left[4];            // more of them
  float *ends, *zeros, *line; // one row each: what interpolation is multiplied by, nothing, values

  bool inner(int64_t row) const { return row > 0 && row + 1 < h; }
};

class Hierarchy {
 public:
  Hierarchy(int64_t h, int64_t w) {
    for (;; h = coarser_side(h), w = coarser_side(w)) {
      grids.push_back({h, w, (w + kLanes) / kLanes * kLanes});
      if (std::max(h, w) <= kCoarsestSide) break;
    }
    int64_t floats = kLanes;
    for (Grid& grid : grids) share(grid, nullptr, &floats);
    memory_ = std::make_unique<float[]>(floats);
    const auto address = reinterpret_cast<uintptr_t>(memory_.get());
    int64_t used = int64_t((-address & (sizeof(float) * kLanes - 1)) / sizeof(float));
    for (Grid& grid : grids) {
      share(grid, memory_.get(), &used);
      for (int64_t x = 0; x < grid.w; ++x) grid.ends[x] = interpolation_at_end(x, grid.w);
      for (int inner : {0, 1}) {
        const int along_y = inner ? 4 : reach_along(0, grid.h);
        for (int64_t x = 0; x < grid.w; ++x) {
          const int reach = along_y * reach_along(x, grid.w);
          grid.reach[inner][x] = float(reach);
          grid.inverse_weights[inner][x] = 1.f / neighbour_weights(reach);
        }
      }
    }
  }

  // Takes a picture's mask `[h, w]`; whether a pixel is left, without which there is nothing to solve.
  bool take(const bool* removed) {
    const Grid& own = grids.front();
    bool all = true;
    for (int64_t y = 0; y < own.h; ++y) {
      for (int64_t x = 0; x < own.w; ++x) {
        const bool gone = removed[y * own.w + x];
        own.removed[y * own.stride + x] = gone ? -1 : 0;
        all &= gone;
      }
    }
    if (all) return false;
    for (size_t level = 1; level < grids.size(); ++level) coarsen(grids[level - 1], grids[level]);
    invert(grids.back());
    return true;
  }

  std::vector<Grid> grids;
  float inverse[kCoarsestSide * kCoarsestSide][kCoarsestSide * kCoarsestSide]; // of the last grid's matrix

 private:
  static constexpr int64_t kLanes = kAvx512Bytes / int64_t(sizeof(float));

  // Gives `grid` its parts of `memory`, from `*used` on; only counts them where there is none yet.
  static void share(Grid& grid, float* memory, int64_t* used) {
    const auto next = [&](int64_t before, int64_t floats) {
      float* part = memory ? memory + *used + before : nullptr;
      *used += (before + floats + kLanes - 1) / kLanes * kLanes;
      return part;
    };
    for (float** plane : {&grid.y, &grid.r, &grid.p, &grid.z}) {
      *plane = next(kLanes + grid.stride, (grid.h + 1) * grid.stride + kLanes);
    }
    for (int inner : {0, 1}) {
      grid.reach[inner] = next(0, grid.stride);
      grid.inverse_weights[inner] = next(0, grid.stride);
    }
    for (float** row : {&grid.ring[0], &grid.ring[1], &grid.ring[2], &grid.ring[3], &grid.left[0], &grid.left[1], &grid.left[2],
                        &grid.left[3], &grid.ends, &grid.zeros, &grid.line}) {
      *row = next(kLanes, grid.stride + 4 * kLanes);
    }
    grid.removed = reinterpret_cast<int8_t*>(next(0, grid.h * grid.stride / int64_t(sizeof(float))));
  }

  // A cell is removed where all of its pixels are; what lies outside does not count.
  static void coarsen(const Grid& fine, const Grid& coarse) {
    for (int64_t y = 0; y < coarse.h; ++y) {
      const int8_t* first = fine.removed + 2 * y * fine.stride;
      const int8_t* second = 2 * y + 1 < fine.h ? first + fine.stride : first;
      int8_t* out = coarse.removed + y * coarse.stride;
      const int64_t pairs = fine.w / 2;
      for (int64_t x = 0; x < pairs; ++x) out[x] = first[2 * x] & first[2 * x + 1] & second[2 * x] & second[2 * x + 1];
      if (fine.w % 2) out[pairs] = first[2 * pairs] & second[2 * pairs];
    }
  }

  // By Gauss and Jordan without pivots, which a positive definite matrix does not need; a pixel that is left stays as it is.
  void invert(const Grid& grid) {
    constexpr int64_t kMost = kCoarsestSide * kCoarsestSide;
    double a[kMost][kMost];
    const int64_t n = grid.h * grid.w;
    const auto gone = [&](int64_t i) { return grid.removed[i / grid.w * grid.stride + i % grid.w] != 0; };
    const auto near = [](int64_t i, int64_t j) { return std::max<int64_t>(0, 2 - std::abs(i - j)); };
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        const int64_t yi = i / grid.w, xi = i % grid.w, yj = j / grid.w, xj = j % grid.w;
        a[i][j] = i == j ? 1 : 0;
        if (!gone(i) || !gone(j)) continue;
        const int reach = i == j ? reach_along(yi, grid.h) * reach_along(xi, grid.w) : 0;
        a[i][j] = double(reach - near(yi, yj) * near(xi, xj));
      }
    }
    for (int64_t k = 0; k < n; ++k) {
      const double pivot = 1 / a[k][k];
      a[k][k] = 1;
      for (int64_t j = 0; j < n; ++j) a[k][j] *= pivot;
      for (int64_t i = 0; i < n; ++i) {
        if (i == k) continue;
        const double factor = a[i][k];
        a[i][k] = 0;
        for (int64_t j = 0; j < n; ++j) a[i][j] -= factor * a[k][j];
      }
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) inverse[i][j] = float(a[i][j]);
    }
  }

  std::unique_ptr<float[]> memory_;
};

} // namespace camfast

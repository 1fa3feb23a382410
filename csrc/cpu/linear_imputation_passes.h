// The passes over a grid, in vectors of W numbers. Each reads and writes a plane once: rows that it needs again (those above and
// below, the Jacobi step that has not been stored) wait in a few row buffers in the first cache.
#pragma once

#include "linear_imputation_grids.h"

namespace camfast {

template <int W>
struct Passes {
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;

  static CAMFAST_INLINE V at(const float* p) { return load<float, W>(p); }
  static CAMFAST_INLINE I gone(const int8_t* removed) { return __builtin_convertvector(load_raw<Vec<int8_t, W>>(removed), I); }
  static CAMFAST_INLINE V magnitude(V v) { return bits<V>(bits<I>(v) & 0x7fffffff); }

  // S of a row, whose neighbours are `above` and `below`, is neighbourhood(sums + x).
  static CAMFAST_INLINE void add_rows(const float* above, const float* row, const float* below, int64_t n, float* sums) {
    for (int64_t x = 0; x < n; x += W) store(sums + x, one_two_one(at(above + x), at(row + x), at(below + x)));
  }
  static CAMFAST_INLINE V neighbourhood(const float* sums) { return one_two_one(at(sums - 1), at(sums), at(sums + 1)); }

  // Row `y` of `fine` between the centres of the cells of `coarse`, whose plane this is; into `fine.line`.
  static CAMFAST_INLINE void interpolate(const Grid& fine, const Grid& coarse, const float* plane, int64_t y) {
    const int64_t own = y / 2, next = std::clamp<int64_t>(y % 2 ? own + 1 : own - 1, 0, coarse.h - 1);
    const float *nearest = plane + own * coarse.stride, *other = plane + next * coarse.stride;
    float* __restrict mixed = coarse.line;
    for (int64_t x = 0; x < coarse.stride; x += W) store(mixed + x, interpolated(at(nearest + x), at(other + x)));
    mixed[-1] = mixed[0];
    mixed[coarse.w] = mixed[coarse.w - 1];
    float* __restrict out = fine.line;
    for (int64_t x = 0; x < coarse.w; ++x) {
      out[2 * x] = interpolated(mixed[x], mixed[x - 1]);
      out[2 * x + 1] = interpolated(mixed[x], mixed[x + 1]);
    }
  }

  // Row `y` of `coarse.r` from four rows of `fine`.
  static CAMFAST_INLINE void gather(const Grid& fine, const Grid& coarse, int64_t y, const float* before, const float* first,
                                    const float* second, const float* after) {
    float* __restrict mixed = fine.sums;
    for (int64_t x = 0; x < fine.stride; x += W) {
      store(mixed + x, gathered(at(before + x), at(first + x), at(second + x), at(after + x)));
    }
    mixed[-1] = mixed[0];
    if (fine.w % 2 == 0) mixed[fine.w] = mixed[fine.w - 1];
    float* __restrict out = coarse.line;
    for (int64_t x = 0; x < coarse.w; ++x) out[x] = gathered(mixed[2 * x - 1], mixed[2 * x], mixed[2 * x + 1], mixed[2 * x + 2]);
    mixed[-1] = 0.f;
    const int64_t from = y * coarse.stride;
    for (int64_t x = 0; x < coarse.stride; x += W) store(coarse.r + from + x, masked<float, W>(at(out + x), gone(coarse.removed + from + x)));
  }

  // Down: `coarse.r` is what Jacobi's first step on `fine` leaves of `fine.r`.
  static CAMFAST_INLINE void down(const Grid& fine, const Grid& coarse) {
    const int64_t n = fine.stride, h = fine.h;
    const float* nothing = fine.r - n; // the row of zeros above
    for (int64_t y = -1; y < h; ++y) {
      if (y + 1 < h) { // the step
        const float *r = fine.r + (y + 1) * n, *inverse = fine.inverse_weights[fine.inner(y + 1)];
        float* step = fine.ring[(y + 1) & 3];
        for (int64_t x = 0; x < n; x += W) store(step + x, at(inverse + x) * at(r + x));
      }
      if (y < 0) continue;
      const float* step = fine.ring[y & 3];
      add_rows(y ? fine.ring[(y - 1) & 3] : nothing, step, y + 1 < h ? fine.ring[(y + 1) & 3] : nothing, n, fine.sums);
      float* left = fine.left[y & 3];
      const int8_t* removed = fine.removed + y * n;
      for (int64_t x = 0; x < n; x += W) {
        store(left + x, masked<float, W>(residual_of_first_step(neighbourhood(fine.sums + x), at(step + x)), gone(removed + x)));
      }
      if (y % 2 == 0 && y > 0) {
        const int64_t row = y / 2 - 1;
        gather(fine, coarse, row, fine.left[row ? (y - 3) & 3 : 0], fine.left[(y - 2) & 3], fine.left[(y - 1) & 3], left);
      }
    }
    const int64_t row = coarse.h - 1, first = 2 * row; // the last: what lies beyond is the row at the edge, or an odd one's lack
    const float* second = first + 1 < h ? fine.left[(first + 1) & 3] : nothing;
    gather(fine, coarse, row, fine.left[(row ? first - 1 : 0) & 3], fine.left[first & 3], second, second);
  }

  struct Sums {
    float product; // of r and z
    float largest; // of |z|
  };

  // Up: `fine.z` is Jacobi's first step, the correction of `coarse`, and a second step.
  static CAMFAST_INLINE Sums up(const Grid& fine, const Grid& coarse) {
    const int64_t n = fine.stride, h = fine.h;
    const float* nothing = fine.r - n;
    V product{}, largest{};
    for (int64_t y = -1; y < h; ++y) {
      if (y + 1 < h) {
        interpolate(fine, coarse, coarse.z, y + 1);
        const int64_t from = (y + 1) * n;
        const float* inverse = fine.inverse_weights[fine.inner(y + 1)];
        float* corrected = fine.ring[(y + 1) & 3];
        for (int64_t x = 0; x < n; x += W) {
          const V correction = masked<float, W>(at(fine.line + x), gone(fine.removed + from + x));
          store(corrected + x, at(inverse + x) * at(fine.r + from + x) + correction);
        }
      }
      if (y < 0) continue;
      const float *corrected = fine.ring[y & 3], *inverse = fine.inverse_weights[fine.inner(y)];
      add_rows(y ? fine.ring[(y - 1) & 3] : nothing, corrected, y + 1 < h ? fine.ring[(y + 1) & 3] : nothing, n, fine.sums);
      for (int64_t x = 0; x < n; x += W) {
        const int64_t i = y * n + x;
        const V r = at(fine.r + i);
        const V step = jacobi_step(neighbourhood(fine.sums + x), at(corrected + x), r, at(inverse + x));
        const V z = masked<float, W>(step, gone(fine.removed + i));
        store(fine.z + i, z);
        product += z * r;
        const V size = magnitude(z);
        largest = choose<float, W>(size > largest, size, largest);
      }
    }
    float most = 0.f;
    for (int lane = 0; lane < W; ++lane) most = std::max(most, largest[lane]);
    return {horizontal_sum<float, W>(product), most};
  }

  // On the coarsest grid, by its matrix's inverse.
  static CAMFAST_INLINE Sums solve(const Hierarchy& all) {
    const Grid& grid = all.grids.back();
    const int64_t n = grid.h * grid.w;
    const auto place = [&](int64_t i) { return i / grid.w * grid.stride + i % grid.w; };
    Sums sums{0.f, 0.f};
    for (int64_t i = 0; i < n; ++i) {
      float z = 0.f;
      for (int64_t j = 0; j < n; ++j) z += all.inverse[i][j] * grid.r[place(j)];
      grid.z[place(i)] = z;
      sums.product += z * grid.r[place(i)];
      sums.largest = std::max(sums.largest, fabsf(z));
    }
    return sums;
  }

  // A start: where pixels are removed, the solution on `coarse` between the centres of its cells.
  static CAMFAST_INLINE void start(const Grid& fine, const Grid& coarse) {
    for (int64_t y = 0; y < fine.h; ++y) {
      interpolate(fine, coarse, coarse.y, y);
      for (int64_t x = 0; x < fine.stride; x += W) {
        const int64_t i = y * fine.stride + x;
        store(fine.y + i, choose<float, W>(gone(fine.removed + i), at(fine.line + x), at(fine.y + i)));
      }
    }
  }

  // r = - A y.
  static CAMFAST_INLINE void residual(const Grid& grid) {
    const int64_t n = grid.stride;
    for (int64_t y = 0; y < grid.h; ++y) {
      const float *row = grid.y + y * n, *reach = grid.reach[grid.inner(y)];
      add_rows(row - n, row, row + n, n, grid.sums);
      for (int64_t x = 0; x < n; x += W) {
        const V left = minus_system(neighbourhood(grid.sums + x), at(row + x), at(reach + x));
        store(grid.r + y * n + x, masked<float, W>(left, gone(grid.removed + y * n + x)));
      }
    }
  }

  // p = z + turn * p, or z where this is the first; then p A p.
  static CAMFAST_INLINE float direction(const Grid& grid, float turn, bool first) {
    const int64_t n = grid.stride, h = grid.h;
    const I kept = splat<int32_t, W>(first ? 0 : -1);
    V product{};
    for (int64_t y = -1; y < h; ++y) {
      if (y + 1 < h) {
        for (int64_t i = (y + 1) * n; i < (y + 2) * n; i += W) store(grid.p + i, at(grid.z + i) + turn * masked<float, W>(at(grid.p + i), kept));
      }
      if (y < 0) continue;
      const float *row = grid.p + y * n, *reach = grid.reach[grid.inner(y)];
      add_rows(row - n, row, row + n, n, grid.sums);
      for (int64_t x = 0; x < n; x += W) {
        const V p = at(row + x);
        product -= p * minus_system(neighbourhood(grid.sums + x), p, at(reach + x));
      }
    }
    return horizontal_sum<float, W>(product);
  }

  // y += step * p; r -= step * A p.
  static CAMFAST_INLINE void advance(const Grid& grid, float step) {
    const int64_t n = grid.stride;
    for (int64_t y = 0; y < grid.h; ++y) {
      const float *row = grid.p + y * n, *reach = grid.reach[grid.inner(y)];
      add_rows(row - n, row, row + n, n, grid.sums);
      for (int64_t x = 0; x < n; x += W) {
        const int64_t i = y * n + x;
        const V p = at(row + x), less = minus_system(neighbourhood(grid.sums + x), p, at(reach + x));
        store(grid.y + i, at(grid.y + i) + step * p);
        store(grid.r + i, at(grid.r + i) + masked<float, W>(step * less, gone(grid.removed + i)));
      }
    }
  }

  // The picture on the picture's own grid, 0 where pixels are removed; whether all that is left is finite.
  static CAMFAST_INLINE bool take(const Grid& grid, const float* image) {
    V amiss{};
    for (int64_t y = 0; y < grid.h; ++y) {
      float* row = grid.y + y * grid.stride;
      memcpy(row, image + y * grid.w, grid.w * sizeof(float));
      for (int64_t x = 0; x < grid.stride; x += W) {
        const V left = masked<float, W>(at(row + x), ~gone(grid.removed + y * grid.stride + x));
        store(row + x, left);
        amiss += left - left; // 0, or NaN
      }
    }
    return horizontal_sum<float, W>(amiss) == 0.f;
  }

  // The picture on `coarse`: the mean of what is left of each of its cells, 0 where nothing is.
  static CAMFAST_INLINE void coarsen(const Grid& fine, const Grid& coarse) {
    const int64_t n = fine.stride;
    for (int64_t y = 0; y < coarse.h; ++y) {
      const bool two = 2 * y + 1 < fine.h;
      const float *first = fine.y + 2 * y * n, *second = two ? first + n : fine.y - n;
      const int8_t *gone_first = fine.removed + 2 * y * n, *gone_second = gone_first + (two ? n : 0);
      float *__restrict total = fine.ring[0], *__restrict count = fine.ring[1];
      for (int64_t x = 0; x < n; x += W) {
        store(total + x, at(first + x) + at(second + x));
        const I left = 1 + gone(gone_first + x) + (two ? 1 + gone(gone_second + x) : I{});
        store(count + x, __builtin_convertvector(left, V));
      }
      for (int64_t x = fine.w; x < n; ++x) count[x] = 0.f;
      float* __restrict out = coarse.y + y * coarse.stride;
      for (int64_t x = 0; x < coarse.w; ++x) {
        const float left = count[2 * x] + count[2 * x + 1];
        out[x] = (total[2 * x] + total[2 * x + 1]) / (left > 1.f ? left : 1.f);
      }
    }
    for (float* row : {fine.ring[0], fine.ring[1]}) memset(row, 0, n * sizeof(float));
  }
};

} // namespace camfast

// The passes over a grid, in vectors of W numbers. Each reads and writes a plane once: rows that it needs again (those above and
// below, the Jacobi step that has not been stored) wait in a few row buffers in the first cache.
#pragma once

#include "lanes.h"
#include "linear_imputation_grids.h"

namespace camfast {

template <int W>
struct Passes {
  using V = Vec<float, W>;
  using I = Vec<int32_t, W>;

  static CAMFAST_INLINE V at(const float* p) { return load<float, W>(p); }
  static CAMFAST_INLINE I gone(const int8_t* removed) { // in two steps: GCC takes one of four times the width lane by lane
    return __builtin_convertvector(__builtin_convertvector(load_raw<Vec<int8_t, W>>(removed), Vec<int16_t, W>), I);
  }
  static CAMFAST_INLINE V magnitude(V v) { return bits<V>(bits<I>(v) & 0x7fffffff); }

  // S of a row, from left to right: column sums wait in registers, and their neighbours are made of these.
  struct Row {
    const float *above, *row, *below;
    V before, now, after;

    CAMFAST_INLINE Row(const float* above, const float* row, const float* below) : above(above), row(row), below(below), now{} {
      after = column_sums(0);
    }
    CAMFAST_INLINE V column_sums(int64_t x) const { return one_two_one(at(above + x), at(row + x), at(below + x)); }
    // At `x` = 0, W, 2 W, ... in turn. The last lane of a row is behind its end, and is masked, whatever it is.
    CAMFAST_INLINE V sum(int64_t x) {
      before = now;
      now = after;
      after = column_sums(x + W);
      return one_two_one(arranged<LeftNeighbours, W>(before, now), now, arranged<RightNeighbours, W>(now, after));
    }
  };

  // A fine row between the centres of the cells of two coarse rows, a coarse vector at a time.
  struct Interpolation {
    const float *nearest, *next, *ends;
    V before, now, after;

    CAMFAST_INLINE Interpolation(const Grid& fine, const Grid& coarse, const float* plane, int64_t y) : ends(fine.ends), now{} {
      const int64_t own = y / 2, other = std::clamp<int64_t>(y % 2 ? own + 1 : own - 1, 0, coarse.h - 1);
      nearest = plane + own * coarse.stride;
      next = plane + other * coarse.stride;
      after = mixed(0);
    }
    CAMFAST_INLINE V mixed(int64_t x) const { return interpolated(at(nearest + x), at(next + x)); }
    // The fine row at 2 x and at 2 x + W, for `x` = 0, W, 2 W, ... in turn.
    CAMFAST_INLINE void step(int64_t x, V* first, V* second) {
      before = now;
      now = after;
      after = mixed(x + W);
      const V even = interpolated(now, arranged<LeftNeighbours, W>(before, now));
      const V odd = interpolated(now, arranged<RightNeighbours, W>(now, after));
      *first = at(ends + 2 * x) * arranged<FirstInterleaved, W>(even, odd);
      *second = at(ends + 2 * x + W) * arranged<LastInterleaved, W>(even, odd);
    }
  };

  // The transpose: row `y` of `coarse.r` from four rows of `fine`.
  static CAMFAST_INLINE void gather(const Grid& fine, const Grid& coarse, int64_t y, const float* before, const float* first,
                                    const float* second, const float* after) {
    const auto mixed = [&](int64_t x) __attribute__((always_inline)) {
      return at(fine.ends + x) * gathered(at(before + x), at(first + x), at(second + x), at(after + x));
    };
    const auto pairs = [&](int64_t x, V * even, V * odd) __attribute__((always_inline)) {
      const V low = mixed(2 * x), high = mixed(2 * x + W);
      *even = arranged<EvenLanes, W>(low, high);
      *odd = arranged<OddLanes, W>(low, high);
    };
    V odd_before{}, even, odd, even_after, odd_after;
    pairs(0, &even, &odd);
    for (int64_t x = 0; x < coarse.stride; x += W) {
      pairs(x + W, &even_after, &odd_after);
      const V left = arranged<LeftNeighbours, W>(odd_before, odd), right = arranged<RightNeighbours, W>(even, even_after);
      const int64_t i = y * coarse.stride + x;
      store(coarse.r + i, masked<float, W>(gathered(left, even, odd, right), gone(coarse.removed + i)));
      odd_before = odd;
      even = even_after;
      odd = odd_after;
    }
  }

  // Down: `coarse.r` is what Jacobi's first step on `fine` leaves of `fine.r`.
  static CAMFAST_INLINE void down(const Grid& fine, const Grid& coarse) {
    const int64_t n = fine.stride, h = fine.h;
    const float* nothing = fine.zeros;
    for (int64_t y = -1; y < h; ++y) {
      if (y + 1 < h) { // the step
        const float *r = fine.r + (y + 1) * n, *inverse = fine.inverse_weights[fine.inner(y + 1)];
        float* step = fine.ring[(y + 1) & 3];
        for (int64_t x = 0; x < n; x += W) store(step + x, at(inverse + x) * at(r + x));
      }
      if (y < 0) continue;
      const float* step = fine.ring[y & 3];
      Row row(y ? fine.ring[(y - 1) & 3] : nothing, step, y + 1 < h ? fine.ring[(y + 1) & 3] : nothing);
      float* left = fine.left[y & 3];
      const int8_t* removed = fine.removed + y * n;
      for (int64_t x = 0; x < n; x += W) {
        store(left + x, masked<float, W>(residual_of_first_step(row.sum(x), at(step + x)), gone(removed + x)));
      }
      if (y % 2 == 0 && y > 0) {
        const int64_t cell = y / 2 - 1;
        gather(fine, coarse, cell, fine.left[cell ? (y - 3) & 3 : 0], fine.left[(y - 2) & 3], fine.left[(y - 1) & 3], left);
      }
    }
    const int64_t cell = coarse.h - 1, first = 2 * cell; // the last: beyond it is the row at the edge again, or an odd one's lack
    const float* second = first + 1 < h ? fine.left[(first + 1) & 3] : nothing;
    gather(fine, coarse, cell, fine.left[(cell ? first - 1 : 0) & 3], fine.left[first & 3], second, second);
  }

  struct Sums {
    float product; // of r and z
    float largest; // of |z|
  };

  // Up: `fine.z` is Jacobi's first step, the correction of `coarse`, and a second step.
  static CAMFAST_INLINE Sums up(const Grid& fine, const Grid& coarse) {
    const int64_t n = fine.stride, h = fine.h;
    const float* nothing = fine.zeros;
    V product{}, largest{};
    for (int64_t y = -1; y < h; ++y) {
      if (y + 1 < h) {
        Interpolation correction(fine, coarse, coarse.z, y + 1);
        const int64_t from = (y + 1) * n;
        const float *inverse = fine.inverse_weights[fine.inner(y + 1)], *r = fine.r + from;
        const int8_t* removed = fine.removed + from;
        float* corrected = fine.ring[(y + 1) & 3];
        for (int64_t x = 0; x < n; x += 2 * W) {
          V low, high;
          correction.step(x / 2, &low, &high);
          store(corrected + x, at(inverse + x) * at(r + x) + masked<float, W>(low, gone(removed + x)));
          if (x + W >= n) break;
          store(corrected + x + W, at(inverse + x + W) * at(r + x + W) + masked<float, W>(high, gone(removed + x + W)));
        }
      }
      if (y < 0) continue;
      const float *corrected = fine.ring[y & 3], *inverse = fine.inverse_weights[fine.inner(y)];
      Row row(y ? fine.ring[(y - 1) & 3] : nothing, corrected, y + 1 < h ? fine.ring[(y + 1) & 3] : nothing);
      for (int64_t x = 0; x < n; x += W) {
        const int64_t i = y * n + x;
        const V r = at(fine.r + i);
        const V step = jacobi_step(row.sum(x), at(corrected + x), r, at(inverse + x));
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
      Interpolation values(fine, coarse, coarse.y, y);
      const int64_t from = y * fine.stride, end = from + fine.stride;
      for (int64_t i = from; i < end; i += 2 * W) {
        V low, high;
        values.step((i - from) / 2, &low, &high);
        store(fine.y + i, choose<float, W>(gone(fine.removed + i), low, at(fine.y + i)));
        if (i + W >= end) break;
        store(fine.y + i + W, choose<float, W>(gone(fine.removed + i + W), high, at(fine.y + i + W)));
      }
    }
  }

  // r = - A y.
  static CAMFAST_INLINE void residual(const Grid& grid) {
    const int64_t n = grid.stride;
    for (int64_t y = 0; y < grid.h; ++y) {
      const float *own = grid.y + y * n, *reach = grid.reach[grid.inner(y)];
      Row row(own - n, own, own + n);
      for (int64_t x = 0; x < n; x += W) {
        const V left = minus_system(row.sum(x), at(own + x), at(reach + x));
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
        for (int64_t i = (y + 1) * n; i < (y + 2) * n; i += W) {
          store(grid.p + i, at(grid.z + i) + turn * masked<float, W>(at(grid.p + i), kept));
        }
      }
      if (y < 0) continue;
      const float *own = grid.p + y * n, *reach = grid.reach[grid.inner(y)];
      Row row(own - n, own, own + n);
      for (int64_t x = 0; x < n; x += W) {
        const V p = at(own + x), less = minus_system(row.sum(x), p, at(reach + x));
        product -= masked<float, W>(p * less, gone(grid.removed + y * n + x)); // behind a row's end is what the last plane left
      }
    }
    return horizontal_sum<float, W>(product);
  }

  // y += step * p; r -= step * A p.
  static CAMFAST_INLINE void advance(const Grid& grid, float step) {
    const int64_t n = grid.stride;
    for (int64_t y = 0; y < grid.h; ++y) {
      const float *own = grid.p + y * n, *reach = grid.reach[grid.inner(y)];
      Row row(own - n, own, own + n);
      for (int64_t x = 0; x < n; x += W) {
        const int64_t i = y * n + x;
        const V p = at(own + x), less = minus_system(row.sum(x), p, at(reach + x));
        const I here = gone(grid.removed + i); // a step that is not finite would spoil even zeros
        store(grid.y + i, at(grid.y + i) + masked<float, W>(step * p, here));
        store(grid.r + i, at(grid.r + i) + masked<float, W>(step * less, here));
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

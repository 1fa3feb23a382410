// Removed pixels as weighted means of their neighbours: the equations, and what solves them on a hierarchy of grids.
//
// Away from the picture's edge a removed pixel x fulfils 12 x = 2 (direct neighbours) + (diagonal neighbours), removed or not.
// With S x = [1 2 1]^T [1 2 1] * x, which counts x itself four times, and nothing outside the picture:
//
//   reach * x - S x = 0,   reach = reach_along(y, h) * reach_along(x, w),   the sum of S's weights inside the picture
//
// so that the neighbours' weights are reach - 4. The matrix is symmetric and, as long as a pixel is left, positive definite.
//
// Coarser grids have half the size; a cell is removed where all of its pixels are, and the equations are the same: in two
// dimensions they need no factor. Going up, values are interpolated linearly between centres of cells (3/4 of the nearest, 1/4
// of the next, along each side; the outermost counts for what lies beyond). Going down, the transpose of this.
#pragma once

#include "scalar.h"

namespace camfast {

constexpr int kImputationRounds = 60;  // at most, of conjugate gradients on the picture's own grid; ROAD's masks take 4 to 6
constexpr int64_t kCoarsestSide = 4;   // of the grid whose system is inverted
constexpr float kLeastDivisor = 1e-30f;

// The weights that [1 2 1] has inside a line of n, around position i.
CAMFAST_HD int reach_along(int64_t i, int64_t n) { return 2 + (i > 0) + (i + 1 < n); }

// The weights of a pixel's neighbours; a picture of one pixel has none, and is never solved for.
CAMFAST_HD float neighbour_weights(int reach) { return reach > 4 ? float(reach - 4) : 1.f; }

CAMFAST_HD int64_t coarser_side(int64_t n) { return n / 2 + n % 2; }

// What follows is for numbers and for vectors of them.

// S's column sums, along the rows above, at and below a position; and S itself, of column sums left, at and right of it.
template <class V>
CAMFAST_HD V one_two_one(V before, V at, V after) {
  return (before + after) + (at + at);
}

// A step of Jacobi's method for `A x = b`: x + (b - A x) / weights. x itself drops out of it.
template <class V>
CAMFAST_HD V jacobi_step(V sum, V x, V b, V inverse_weights) {
  return inverse_weights * (b + (sum - 4.f * x));
}

// What such a step from x = 0 leaves of b, of which the step made x.
template <class V>
CAMFAST_HD V residual_of_first_step(V sum, V x) {
  return sum - 4.f * x;
}

template <class V>
CAMFAST_HD V minus_system(V sum, V x, V reach) {
  return sum - reach * x;
}

// What the interpolation along a line of n is multiplied by at position i: where the next cell's centre lies beyond the line and
// counts nothing, the nearest counts for both.
CAMFAST_HD float interpolation_at_end(int64_t i, int64_t n) { return (i % 2 ? i + 1 == n : i == 0) ? 4.f / 3.f : 1.f; }

template <class V>
CAMFAST_HD V interpolated(V nearest, V next) {
  return 0.75f * nearest + 0.25f * next;
}

// The transpose: what a coarse cell gets of the four fine ones around and in it, along one side.
template <class V>
CAMFAST_HD V gathered(V before, V first, V second, V after) {
  return 0.75f * (first + second) + 0.25f * (before + after);
}

} // namespace camfast

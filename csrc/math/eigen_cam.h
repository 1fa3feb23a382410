// The largest eigenpair of a symmetric matrix by Lanczos iteration: the scalar part, shared by the CPU and CUDA kernels.
//
// With q_1 a fixed start, each step multiplies by the matrix, takes off what lies along the last two vectors, then along all
// of them once more since rounding leaves some, and so builds a tridiagonal matrix T of the same largest eigenvalues:
//
//   G Q = Q T + beta_k q_{k+1} e_k'      T = | a_0 b_0         |
//                                            | b_0 a_1 b_1     |
//                                            |     b_1 a_2 ... |
//
// For T y = lambda y the residual of Q y in G is |beta_k * y_k|, known without a product by G. Full orthogonalisation makes
// the iteration end after at most n steps whatever the spectrum, a near-tie of the first eigenvalues included. The matrix
// and all of this are in double precision, since forming a Gram matrix squares the condition.
#pragma once

#include <math.h>

#include "scalar.h"

namespace camfast {

constexpr double kEigenTolerance = 1e-13; // of the residual, relative to the eigenvalue
constexpr double kSignTie = 1e-9;         // magnitudes that differ by less are equally large
constexpr double kKernelOffset = 1.0;     // of the sigmoid kernel: tanh(gamma * x.y + 1)

// Element i of the start, in [-1/2, 1/2): without any symmetry that an image might have.
CAMFAST_HD double lanczos_start(int64_t i) {
  const uint32_t x = (uint32_t(i) + 1u) * 2654435761u;
  const uint32_t y = (x ^ (x >> 15)) * 2246822519u;
  return double(y ^ (y >> 13)) / 4294967296.0 - 0.5;
}

// The steps after which the residual is looked at: the next one after `step`.
CAMFAST_HD int64_t next_check(int64_t step) { return step < 8 ? 8 : step + (step + 3) / 4; }

// Bounds of the largest eigenvalue of T: a [k], b [k - 1].
CAMFAST_HD void tridiagonal_bounds(const double* a, const double* b, int64_t k, double* low, double* high) {
  *low = a[0];
  *high = a[0];
  for (int64_t i = 0; i < k; ++i) {
    const double left = i > 0 ? (b[i - 1] < 0 ? -b[i - 1] : b[i - 1]) : 0.0;
    const double right = i + 1 < k ? (b[i] < 0 ? -b[i] : b[i]) : 0.0;
    if (a[i] > *low) *low = a[i];
    if (a[i] + left + right > *high) *high = a[i] + left + right;
  }
  *high += (*high < 0 ? -*high : *high) * 1e-14 + 1e-300;
}

// Whether x lies above all eigenvalues of T: then every pivot of T - x is negative.
CAMFAST_HD bool above_all(const double* a, const double* b, int64_t k, double x) {
  double pivot = a[0] - x;
  bool above = pivot < 0;
  for (int64_t i = 1; i < k; ++i) {
    pivot = (a[i] - x) - b[i - 1] * b[i - 1] / pivot;
    above = above && pivot < 0;
  }
  return above;
}

// The point `part` of `parts` between two bounds of the eigenvalue; and whether these are as close as doubles go.
CAMFAST_HD double between(double low, double high, int part, int parts) {
  return low + (high - low) * (double(part + 1) / double(parts + 1));
}
CAMFAST_HD bool settled(double low, double high) {
  const double magnitude = high < 0 ? -high : high;
  return !(high - low > 4.5e-16 * magnitude + 1e-300);
}

// The eigenvector of T for `value`, just above its largest eigenvalue, by the twisted factorisation: T - value is
// negative definite there, so that pivots from both ends are safe; they meet where the remainder is least.
// y [k] becomes the unit vector; `pivots` holds k values.
CAMFAST_HD void tridiagonal_vector(const double* a, const double* b, int64_t k, double value, double* y, double* pivots) {
  pivots[0] = a[0] - value;
  for (int64_t i = 1; i < k; ++i) pivots[i] = (a[i] - value) - b[i - 1] * b[i - 1] / pivots[i - 1];
  // From the other end, its pivots in y; `twist` is where the two leave least.
  int64_t twist = k - 1;
  double least = pivots[k - 1] < 0 ? -pivots[k - 1] : pivots[k - 1];
  y[k - 1] = a[k - 1] - value;
  for (int64_t i = k - 2; i >= 0; --i) {
    y[i] = (a[i] - value) - b[i] * b[i] / y[i + 1];
    double remainder = pivots[i] + y[i] - (a[i] - value);
    remainder = remainder < 0 ? -remainder : remainder;
    if (remainder < least) {
      least = remainder;
      twist = i;
    }
  }
  for (int64_t i = twist + 1; i < k; ++i) y[i] = -b[i - 1] / y[i]; // factors from y[i - 1] to y[i]
  y[twist] = 1;
  for (int64_t i = twist - 1; i >= 0; --i) y[i] = -b[i] / pivots[i] * y[i + 1];
  for (int64_t i = twist + 1; i < k; ++i) y[i] *= y[i - 1];
  double sum = 0;
  for (int64_t i = 0; i < k; ++i) sum += y[i] * y[i];
  const double scale = 1 / sqrt(sum);
  for (int64_t i = 0; i < k; ++i) y[i] *= scale;
}

} // namespace camfast

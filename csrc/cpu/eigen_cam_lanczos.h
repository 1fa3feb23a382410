// The largest eigenpair of a symmetric matrix on the CPU: the vector part of math/eigen_cam.h.
#pragma once

#include <math.h>

#include <vector>

#include "../math/eigen_cam.h"
#include "simd.h"

namespace camfast {

// gram [np, np] (np a multiple of 8; rows and columns from n on are zero) -> the largest eigenvalue, and its unit vector
// [np]. A matrix that is not finite gives NaN.
struct Lanczos {
  const double* gram;
  int64_t n, np;
  double value = 0;
  std::vector<double> vector; // [np]

  Lanczos(const double* gram, int64_t n, int64_t np) : gram(gram), n(n), np(np), vector(np) {}

  // to = gram * x; the matrix is symmetric, so that its rows are added up instead of multiplied out.
  template <int W, int V>
  CAMFAST_INLINE void multiply_columns(const double* x, int64_t j, double* to) const {
    Vec<double, W> sums[V] = {};
    for (int64_t i = 0; i < n; ++i) {
      const double* row = gram + i * np + j;
      for (int v = 0; v < V; ++v) sums[v] += load<double, W>(row + v * W) * x[i];
    }
    for (int v = 0; v < V; ++v) store(to + j + v * W, sums[v]);
  }
  template <int W>
  CAMFAST_INLINE void multiply(const double* x, double* to) const {
    int64_t j = 0;
    for (; j + 4 * W <= np; j += 4 * W) multiply_columns<W, 4>(x, j, to);
    for (; j < np; j += W) multiply_columns<W, 1>(x, j, to);
  }

  template <int W>
  CAMFAST_INLINE double dot(const double* x, const double* y) const {
    Vec<double, W> even{}, odd{};
    int64_t i = 0;
    for (; i + 2 * W <= np; i += 2 * W) {
      even += load<double, W>(x + i) * load<double, W>(y + i);
      odd += load<double, W>(x + i + W) * load<double, W>(y + i + W);
    }
    for (; i < np; i += W) even += load<double, W>(x + i) * load<double, W>(y + i);
    return horizontal_sum<double, W>(even + odd);
  }
  template <int W>
  CAMFAST_INLINE void subtract(double* x, double factor, const double* y) const {
    for (int64_t i = 0; i < np; i += W) store(x + i, load<double, W>(x + i) - load<double, W>(y + i) * factor);
  }

  // x -= Q Q' x: four vectors of the basis at a time, so that no sum waits for the one before.
  template <int W>
  CAMFAST_INLINE void make_orthogonal(double* x, const double* basis, int64_t k, double* parts) const {
    int64_t i = 0;
    for (; i + 4 <= k; i += 4) {
      Vec<double, W> sums[4] = {};
      for (int64_t j = 0; j < np; j += W) {
        const Vec<double, W> v = load<double, W>(x + j);
        for (int r = 0; r < 4; ++r) sums[r] += load<double, W>(basis + (i + r) * np + j) * v;
      }
      for (int r = 0; r < 4; ++r) parts[i + r] = horizontal_sum<double, W>(sums[r]);
    }
    for (; i < k; ++i) parts[i] = dot<W>(basis + i * np, x);
    for (i = 0; i + 4 <= k; i += 4) {
      for (int64_t j = 0; j < np; j += W) {
        Vec<double, W> v = load<double, W>(x + j);
        for (int r = 0; r < 4; ++r) v -= load<double, W>(basis + (i + r) * np + j) * parts[i + r];
        store(x + j, v);
      }
    }
    for (; i < k; ++i) subtract<W>(x, parts[i], basis + i * np);
  }

  // Just above the largest eigenvalue of T: W points at a time between its bounds.
  template <int W>
  static CAMFAST_INLINE double largest(const double* a, const double* b, int64_t k) {
    double low, high;
    tridiagonal_bounds(a, b, k, &low, &high);
    for (int round = 0; round < 64 && !settled(low, high); ++round) {
      Vec<double, W> x;
      for (int l = 0; l < W; ++l) x[l] = between(low, high, l, W);
      Vec<double, W> pivot = a[0] - x;
      auto above = pivot < Vec<double, W>{};
      for (int64_t i = 1; i < k; ++i) { // above_all() of math/eigen_cam.h, lane by lane
        pivot = (a[i] - x) - (b[i - 1] * b[i - 1]) / pivot;
        above &= pivot < Vec<double, W>{};
      }
      double next_low = low, next_high = high;
      for (int l = W - 1; l >= 0; --l) {
        if (above[l]) next_high = x[l];
      }
      for (int l = 0; l < W; ++l) {
        if (!above[l] && x[l] < next_high) next_low = x[l];
      }
      if (next_low == low && next_high == high) break;
      low = next_low;
      high = next_high;
    }
    return high;
  }

  template <int bytes>
  static CAMFAST_INLINE void run(Lanczos* const& job) {
    constexpr int W = bytes / sizeof(double);
    const int64_t n = job->n, np = job->np;
    double trace = 0, magnitude = 0;
    for (int64_t i = 0; i < n; ++i) trace += job->gram[i * np + i];
    for (int64_t i = 0; i < n * np; ++i) magnitude += fabs(job->gram[i]);
    if (!(magnitude <= 1.7e308)) {
      job->value = trace * 0 + magnitude * 0; // NaN
      return;
    }
    if (magnitude == 0) return;

    std::vector<double> basis(np), a, b, y, pivots, next(np);
    for (int64_t i = 0; i < n; ++i) basis[i] = lanczos_start(i);
    const double length = sqrt(job->template dot<W>(basis.data(), basis.data()));
    for (double& q : basis) q /= length;
    int64_t check = next_check(0);
    for (int64_t k = 1;; ++k) {
      const double* own = basis.data() + (k - 1) * np;
      job->template multiply<W>(own, next.data());
      a.push_back(job->template dot<W>(own, next.data()));
      job->template subtract<W>(next.data(), a[k - 1], own);
      if (k > 1) job->template subtract<W>(next.data(), b[k - 2], own - np);
      y.resize(k); // the parts along earlier vectors that rounding has left
      pivots.resize(k);
      job->template make_orthogonal<W>(next.data(), basis.data(), k, y.data());
      const double beta = sqrt(job->template dot<W>(next.data(), next.data()));
      const bool ended = k == n || !(beta > 1e-15 * magnitude);
      if (ended || k == check) {
        check = next_check(k);
        job->value = largest<W>(a.data(), b.data(), k);
        tridiagonal_vector(a.data(), b.data(), k, job->value, y.data(), pivots.data());
        if (ended || fabs(beta * y[k - 1]) <= kEigenTolerance * fabs(job->value)) break;
      }
      b.push_back(beta);
      basis.resize((k + 1) * np);
      double* q = basis.data() + k * np;
      for (int64_t i = 0; i < np; ++i) q[i] = next[i] / beta;
    }
    for (size_t i = 0; i < y.size(); ++i) job->template subtract<W>(job->vector.data(), -y[i], basis.data() + i * np);
  }
};

// Flipped, where need be, so that the entry of largest magnitude is positive: of equally large ones, the first.
inline void settle_sign(double* values, int64_t count) {
  double largest = 0;
  for (int64_t i = 0; i < count; ++i) largest = std::max(largest, fabs(values[i]));
  for (int64_t i = 0; i < count; ++i) {
    if (!(fabs(values[i]) >= (1 - kSignTie) * largest)) continue;
    if (values[i] < 0) {
      for (int64_t j = 0; j < count; ++j) values[j] = -values[j];
    }
    return;
  }
}

} // namespace camfast

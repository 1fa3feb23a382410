// Gram matrices of one image's activations, centred over positions, in double precision.
//
//   activations, C channels x S positions ──pack──▶ panel, some of the longer side x n of the shorter one
//                                                   (centred, widened, NaN as 0, padded with zeros to np)
//   panel' * panel ──added──▶ gram [np, np], blocks on and above the diagonal
//
// n is S (over positions) or C (over channels); the sum runs over the other one, k at a time, so that a panel stays in
// the first-level cache while all blocks of the matrix visit it.
#pragma once

#include <algorithm>
#include <memory>

#include "simd.h"

namespace camfast {

constexpr int64_t kGramPad = 8;  // doubles of the widest vector
constexpr int64_t kGramRows = 4; // of a block that stays in registers

// Activations of one image, element (c, s) at c * channel + s * position; one of the strides is 1.
template <class In>
struct ImageView {
  const In* data;
  int64_t C, S, channel, position;

  double at(int64_t c, int64_t s) const {
    const double x = widen<AccOf<In>>(data[c * channel + s * position]);
    return x == x ? x : 0.0;
  }
};

template <int W, class In>
CAMFAST_INLINE Vec<double, W> load_double(const In* p) {
  const auto v = __builtin_convertvector((load<AccOf<In>, W>(p)), Vec<double, W>);
  return choose<double, W>(v == v, v, Vec<double, W>{}); // NaN counts as 0
}

// The mean of channels [first, last) over positions; not finite where the channel is not.
template <class In>
struct ChannelMeans {
  using Scalar = In;

  template <int bytes>
  static CAMFAST_INLINE void run(const ImageView<In>& x, const int64_t& first, const int64_t& last, double* const& means) {
    constexpr int W = bytes / sizeof(double);
    if (x.position == 1) {
      for (int64_t c = first; c < last; ++c) means[c] = sum_run<W>(x, c) / double(x.S);
      return;
    }
    for (int64_t c = first; c < last; ++c) means[c] = 0;
    for (int64_t s = 0; s < x.S; ++s) {
      const In* from = x.data + s * x.position;
      int64_t c = first;
      for (; c + W <= last; c += W) store(means + c, load<double, W>(means + c) + load_double<W>(from + c));
      for (; c < last; ++c) means[c] += x.at(c, s);
    }
    for (int64_t c = first; c < last; ++c) means[c] /= double(x.S);
  }

 private:
  template <int W>
  static CAMFAST_INLINE double sum_run(const ImageView<In>& x, int64_t c) {
    const In* from = x.data + c * x.channel;
    Vec<double, W> sum{};
    int64_t s = 0;
    for (; s + W <= x.S; s += W) sum += load_double<W>(from + s);
    double total = horizontal_sum<double, W>(sum);
    for (; s < x.S; ++s) total += x.at(c, s);
    return total;
  }
};

// One piece of a Gram matrix: [first, last) of the longer side, added up into `gram` [np, np], zeros before.
template <class In>
struct GramPiece {
  ImageView<In> x;
  bool over_positions;
  int64_t first, last, n, np;
  const double* means; // [C]
  double* panel;       // gram_panel_size(np)
  double* gram;
};

inline int64_t gram_padded(int64_t n) { return (n + kGramPad - 1) / kGramPad * kGramPad; }
inline int64_t gram_panel_depth(int64_t np) { return std::clamp<int64_t>(28 * 1024 / (8 * np), 16, 256); }
inline int64_t gram_panel_size(int64_t np) { return gram_panel_depth(np) * np; }

template <class In>
struct PackPanel {
  using Scalar = In;

  // Row k of the panel holds element `from + k` of the longer side. Columns n..np are zero and stay so.
  template <int W>
  static CAMFAST_INLINE void pack(const GramPiece<In>& p, int64_t from, int64_t depth) {
    const bool contiguous = p.over_positions == (p.x.position == 1);
    if (!contiguous) { // transposed on the way
      for (int64_t i = 0; i < p.n; ++i) {
        for (int64_t k = 0; k < depth; ++k) {
          const int64_t c = p.over_positions ? from + k : i, s = p.over_positions ? i : from + k;
          p.panel[k * p.np + i] = p.x.at(c, s) - p.means[c];
        }
      }
      return;
    }
    for (int64_t k = 0; k < depth; ++k) {
      const In* row = p.x.data + (from + k) * (p.over_positions ? p.x.channel : p.x.position);
      double* to = p.panel + k * p.np;
      int64_t i = 0;
      if (p.over_positions) {
        const double mean = p.means[from + k];
        for (; i + W <= p.n; i += W) store(to + i, load_double<W>(row + i) - mean);
        for (; i < p.n; ++i) to[i] = p.x.at(from + k, i) - mean;
      } else {
        for (; i + W <= p.n; i += W) store(to + i, load_double<W>(row + i) - load<double, W>(p.means + i));
        for (; i < p.n; ++i) to[i] = p.x.at(i, from + k) - p.means[i];
      }
    }
  }

  template <int bytes>
  static CAMFAST_INLINE void run(const GramPiece<In>& p, const int64_t& from, const int64_t& depth) {
    pack<bytes / sizeof(double)>(p, from, depth);
  }
};

// panel' * panel, added to the blocks of the matrix on and above the diagonal: the same code for all types of activations.
struct GramPanel {
  int64_t n, np;
  const double* panel;
  double* gram;
};

struct AddPanel {
  // Rows [i, i + 4) and V vectors of columns from j on.
  template <int W, int V>
  static CAMFAST_INLINE void block(const GramPanel& p, int64_t depth, int64_t i, int64_t j) {
    Vec<double, W> sums[kGramRows][V];
    for (int r = 0; r < kGramRows; ++r) {
      for (int v = 0; v < V; ++v) sums[r][v] = load<double, W>(p.gram + (i + r) * p.np + j + v * W);
    }
    for (int64_t k = 0; k < depth; ++k) {
      const double* row = p.panel + k * p.np;
      Vec<double, W> columns[V];
      for (int v = 0; v < V; ++v) columns[v] = load<double, W>(row + j + v * W);
      for (int r = 0; r < kGramRows; ++r) {
        for (int v = 0; v < V; ++v) sums[r][v] += columns[v] * row[i + r];
      }
    }
    for (int r = 0; r < kGramRows; ++r) {
      for (int v = 0; v < V; ++v) store(p.gram + (i + r) * p.np + j + v * W, sums[r][v]);
    }
  }

  template <int bytes>
  static CAMFAST_INLINE void run(const GramPanel& p, const int64_t& depth) {
    constexpr int W = bytes / sizeof(double);
    constexpr int V = bytes == kAvx512Bytes ? 4 : 2; // as many as the registers hold beside the operands
    for (int64_t i = 0; i < p.n; i += kGramRows) {
      int64_t j = i / W * W;
      for (; j + V * W <= p.np; j += V * W) block<W, V>(p, depth, i, j);
      if constexpr (V > 2) {
        if (j + 2 * W <= p.np) {
          block<W, 2>(p, depth, i, j);
          j += 2 * W;
        }
      }
      if (j < p.np) block<W, 1>(p, depth, i, j);
    }
  }
};

template <class In>
void add_gram(const GramPiece<In>& p) {
  const GramPanel panel{p.n, p.np, p.panel, p.gram};
  for (int64_t from = p.first; from < p.last; from += gram_panel_depth(p.np)) {
    const int64_t depth = std::min(gram_panel_depth(p.np), p.last - from);
    multiversion<PackPanel<In>>(p, from, depth);
    multiversion<AddPanel>(panel, depth);
  }
}

} // namespace camfast

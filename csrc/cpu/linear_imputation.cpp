// Noisy linear imputation on the CPU: a plane (an image's channel) is one thread's work, and stays in its second cache.
//
// Conjugate gradients, preconditioned by a multigrid V-cycle (a Jacobi step before and after each coarser grid), start from the
// solution on coarser grids. A round passes four times over the picture's planes of N numbers:
//
//   down       reads r                      the first Jacobi step is not stored, what it leaves goes to the coarser grid
//   up         reads r, writes z            and r z, max |z|
//   direction  reads z, p, writes p         and p A p; A p is not stored
//   advance    reads p, y, r, writes y, r   A p once more
//
// 11 planes, each with a mask of a quarter of its bytes in four of the passes: 50 bytes and some 70 operations a pixel. The
// V-cycle's part, 3 planes, comes again on coarser grids, a quarter of it on each: 55 bytes. At 224 x 224 that is 2.8 MB a round,
// which at 32 bytes a cycle of the second cache is 0.03 ms; arithmetic and shuffles make it 0.09. ROAD's masks take 4 to 6 rounds.
#include "../linear_imputation.h"

#include "linear_imputation_passes.h"
#include "team.h"

namespace camfast {
namespace {

// Solves for the picture that `all.grids[0].y` holds; the solution is y + z.
template <int W>
CAMFAST_INLINE void solve_plane(Hierarchy& all, float tolerance) {
  using P = Passes<W>;
  const std::vector<Grid>& grids = all.grids;
  const int coarsest = int(grids.size()) - 1;
  for (int level = 0; level < coarsest; ++level) P::coarsen(grids[level], grids[level + 1]);
  for (int level = coarsest; level >= 0; --level) {
    const Grid& grid = grids[level];
    if (level < coarsest) P::start(grid, grids[level + 1]);
    P::residual(grid);
    float before = 0.f;
    for (int round = 0;; ++round) {
      for (int k = level; k < coarsest; ++k) P::down(grids[k], grids[k + 1]);
      typename P::Sums now = P::solve(all);
      for (int k = coarsest - 1; k >= level; --k) now = P::up(grids[k], grids[k + 1]);
      if (level == 0 && (now.largest < tolerance || round == kImputationRounds)) break;
      const float curvature = P::direction(grid, round ? now.product / std::max(before, kLeastDivisor) : 0.f, round == 0);
      P::advance(grid, now.product / std::max(curvature, kLeastDivisor));
      if (level > 0) break; // a start for the next grid, no more
      before = now.product;
    }
  }
}

// Planes `first` to `last` - 1 of all images' planes.
struct Impute {
  template <int bytes>
  static CAMFAST_INLINE void run(const ImputationInputs& in, const int64_t& first, const int64_t& last) {
    constexpr int W = bytes / 4;
    const auto* images = static_cast<const float*>(in.images.const_data_ptr());
    const auto* masks = static_cast<const bool*>(in.removed.const_data_ptr());
    auto* out = static_cast<float*>(in.out.mutable_data_ptr());
    Hierarchy all(in.H, in.W);
    const Grid& own = all.grids.front();
    const int64_t area = in.H * in.W;
    bool solvable = false;
    for (int64_t plane = first; plane < last; ++plane) {
      const float* image = images + plane * area;
      const bool* removed = masks + plane / in.C * area;
      if (plane == first || plane % in.C == 0) solvable = all.take(removed);
      float fill = NAN; // of removed pixels without a solution
      bool solved = false;
      if (!solvable) {
        double sum = 0;
        for (int64_t i = 0; i < area; ++i) sum += double(image[i]);
        fill = float(sum / double(area));
      } else if (Passes<W>::take(own, image)) {
        solve_plane<W>(all, in.tolerance);
        solved = true;
      }
      for (int64_t y = 0; y < in.H; ++y) {
        const int64_t from = y * in.W;
        const float *solution = own.y + y * own.stride, *rest = own.z + y * own.stride;
        float* line = own.line;
        for (int64_t x = 0; x < in.W; ++x) line[x] = solved ? solution[x] + rest[x] : fill;
        if (in.noise) {
          for (int64_t x = 0; x < in.W; ++x) line[x] += in.noise[plane * area + from + x];
        }
        for (int64_t x = 0; x < in.W; ++x) out[plane * area + from + x] = removed[from + x] ? line[x] : image[from + x];
      }
    }
  }
};

Tensor linear_imputation(const Tensor& images, const Tensor& removed, std::optional<Tensor> noise, double tolerance) {
  const ImputationInputs in = imputation_inputs(images, removed, noise, tolerance);
  const int64_t planes = in.B * in.C, area = in.H * in.W;
  if (planes * area == 0) return in.out;
  const int64_t threads = std::clamp<int64_t>(std::min(planes, planes * area / 2048), 1, torch::stable::get_num_threads());
  // In turns of whole images, whose planes share a mask, as long as there are several for each thread.
  const int64_t turns = std::clamp<int64_t>(planes / (8 * threads), 1, planes);
  const int64_t claim = threads == 1 ? planes : turns > in.C ? turns / in.C * in.C : turns;
  const auto impute = [&](int64_t first, int64_t last) { multiversion<Impute>(in, first, last); };
  run_team(threads, 0, planes, claim, [](int64_t) {}, impute);
  return in.out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CPU, m) { m.impl("linear_imputation", TORCH_BOX(&camfast::linear_imputation)); }

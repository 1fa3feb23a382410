#include "launch.cuh"
#include "preprocess_kernel.cuh"

namespace camfast::cuda {

template <class Out>
cudaError_t launch_preprocess(const PreprocessCall& call) {
  PreprocessJob<Out> job{};
  job.frames = call.frames;
  job.out = static_cast<Out*>(call.out);
  job.rows = call.rows;
  job.columns = call.columns;
  job.normalise = call.normalise;
  job.N = call.N;
  // As many pixels as one strip covers, so that a block sums each column of the frame once.
  const int fitting = int(float(kStrip / 3) / job.columns.step) - int(2 * job.columns.reach / job.columns.step) - 2;
  job.tile = fitting < 1 ? 1 : fitting > kTile ? kTile : fitting;
  job.words = reinterpret_cast<uintptr_t>(call.frames) % 4 == 0 && call.columns.length % 4 == 0;
  job.interleaved = call.interleaved;
  const int tiles = (job.columns.out + job.tile - 1) / job.tile;
  const auto capped = [](int n) { return unsigned(n < 65535 ? n : 65535); };
  return launch(&preprocess_kernel<Out>,
                {dim3(unsigned(tiles), capped(job.rows.out), capped(call.N)), dim3(kPreprocessThreads), 0, call.stream}, job);
}

template cudaError_t launch_preprocess<float>(const PreprocessCall&);
template cudaError_t launch_preprocess<__half>(const PreprocessCall&);
template cudaError_t launch_preprocess<__nv_bfloat16>(const PreprocessCall&);

} // namespace camfast::cuda

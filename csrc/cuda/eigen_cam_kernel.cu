#include "eigen_cam_kernel.cuh"
#include "eigen_cam_large.cuh"
#include "launch.cuh"

namespace camfast::cuda {
namespace {

template <class In>
cudaError_t launch_small(const EigenCall& call, const EigenImage<In>& first) {
  const EigenPlan& plan = call.plan;
  EigenJob<In> job{first, call.image, call.shape.kernel, call.gamma, call.resize, plan.group, plan.exchange};
  job.partial = static_cast<double*>(call.scratch);
  job.out = static_cast<AccOf<In>*>(call.out);
  Launch how{dim3(unsigned(call.shape.N * plan.group)), dim3(kGramThreads), plan.shared_bytes, call.stream};
  how.cluster = plan.exchange == Exchange::cluster ? plan.group : 1;
  how.cooperative = plan.exchange == Exchange::grid;
  return launch(&eigen_kernel<In>, how, job);
}

// Images [begin, begin + count) of the call.
template <class In>
cudaError_t launch_batch(const EigenCall& call, const EigenImage<In>& first, long long begin, int count) {
  using T = AccOf<In>;
  const EigenShape& shape = call.shape;
  const EigenPlan& plan = call.plan;
  const EigenScratch memory{shape, plan.steps, static_cast<double*>(call.scratch)};
  EigenLargeJob<In> job{memory, first, call.image};
  job.first.data += begin * call.image;
  T* raw = reinterpret_cast<T*>(memory.memory + eigen_image_values(shape, plan.steps) * plan.batch);
  const auto images = unsigned(count);
  const auto over = [](long long n, int unit) { return unsigned((n + unit - 1) / unit); };
  const dim3 block(kGramThreads);
  cudaError_t error =
      launch(&eigen_means_kernel<In>, {dim3(over(shape.C, kGramThreads / kWarp), images), block, 0, call.stream}, job);
  if (error != cudaSuccess) return error;
  const unsigned tiles = over(shape.n(), kGramTile);
  error = launch(&eigen_gram_kernel<In>, {dim3(tiles * (tiles + 1) / 2, images), block, 0, call.stream}, job);
  if (error != cudaSuccess) return error;
  error = launch(&eigen_vector_kernel, {dim3(images), block, 0, call.stream}, EigenVectorJob{memory, call.gamma});
  if (error != cudaSuccess) return error;
  if (!shape.over_positions()) {
    error = launch(&eigen_project_kernel<In>, {dim3(over(shape.S, kGramThreads), images), block, 0, call.stream}, job);
    if (error != cudaSuccess) return error;
  }
  error = launch(&eigen_settle_kernel<T>, {dim3(images), block, 0, call.stream}, EigenSettleJob<T>{memory, raw});
  if (error != cudaSuccess) return error;

  ResizeCall resize{};
  resize.maps = raw;
  resize.M = count;
  resize.resize = call.resize;
  resize.relu = call.resize.normalize;
  resize.out = static_cast<T*>(call.out) + begin * call.resize.out.positions();
  resize.scratch = raw + (long long)plan.batch * shape.S;
  resize.plan = plan.resize;
  resize.stream = call.stream;
  return launch_resize<T>(resize);
}

} // namespace

template <class In>
cudaError_t launch_eigen(const EigenCall& call) {
  const EigenImage<In> first{static_cast<const In*>(call.activations), call.channel, call.position, call.shape.C, call.shape.S};
  if (call.plan.fits) return launch_small(call, first);
  for (long long begin = 0; begin < call.shape.N; begin += call.plan.batch) {
    const auto count = int(std::min<long long>(call.plan.batch, call.shape.N - begin));
    const cudaError_t error = launch_batch(call, first, begin, count);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

template cudaError_t launch_eigen<float>(const EigenCall&);
template cudaError_t launch_eigen<__half>(const EigenCall&);
template cudaError_t launch_eigen<__nv_bfloat16>(const EigenCall&);

} // namespace camfast::cuda

#include "cam_kernel.cuh"
#include "cam_large.cuh"
#include "cam_pipeline.cuh"
#include "launch.cuh"

namespace camfast::cuda {
namespace {

// Whether 16-byte loads are right everywhere: the address, and every stride that is added to it.
template <class In>
bool vectors_fit(const void* data, std::initializer_list<long long> strides) {
  if (reinterpret_cast<uintptr_t>(data) % 16 != 0) return false;
  for (long long s : strides) {
    if (s % kVector<In> != 0) return false;
  }
  return true;
}

template <class In>
ChannelSumJob<In> channel_sum_job(const CamCall& call) {
  const bool adjacent = call.channels_adjacent;
  ChannelSumJob<In> job{};
  job.activations = static_cast<const In*>(call.activations);
  job.second = static_cast<const In*>(call.second);
  job.rule = call.rule;
  job.C = call.C;
  job.S = call.resize.in.positions();
  job.chunk = call.plan.chunk;
  job.vectors = vectors_fit<In>(call.activations, {call.a.image, adjacent ? call.a.step : 0, adjacent ? call.C : 0}) &&
      (call.rule == Rule::weights || vectors_fit<In>(call.second, {call.s.image, call.s.target, adjacent ? call.s.step : 0}));
  job.a_image = call.a.image;
  job.a_step = call.a.step;
  job.s_image = call.s.image;
  job.s_target = call.s.target;
  job.s_step = call.s.step;
  return job;
}

template <class In, bool weighted>
cudaError_t launch_fused(const CamCall& call) {
  const CamPlan& plan = call.plan;
  CamJob<In> job{};
  job.sum = channel_sum_job<In>(call);
  job.resize = call.resize;
  job.K = call.K;
  job.group = plan.group;
  job.exchange = plan.exchange;
  job.partial = static_cast<AccOf<In>*>(call.scratch);
  job.out = static_cast<AccOf<In>*>(call.out);
  Launch how{dim3(unsigned(call.maps) * unsigned(plan.group)), dim3(unsigned(plan.threads)), plan.shared_bytes, call.stream};
  how.cluster = plan.exchange == Exchange::cluster ? plan.group : 1;
  how.cooperative = plan.exchange == Exchange::grid;
  how.carveout = plan.carveout;
  if (plan.stages) return launch(&cam_pipeline_kernel<In, weighted>, how, PipelineJob<In>{job, plan.stages});
  return launch(call.channels_adjacent ? &cam_kernel<In, weighted, true> : &cam_kernel<In, weighted, false>, how, job);
}

template <class In>
cudaError_t launch_large(const CamCall& call) {
  using T = AccOf<In>;
  const int S = call.resize.in.positions();
  const bool adjacent = call.channels_adjacent;
  T* scratch = static_cast<T*>(call.scratch);
  LargeJob<In> job{};
  job.activations = static_cast<const In*>(call.activations);
  job.second = static_cast<const In*>(call.second);
  job.rule = call.rule;
  job.K = call.K;
  job.C = call.C;
  job.S = S;
  job.maps_count = call.maps;
  job.a = {call.a.image, 0, adjacent ? 1 : call.a.step, adjacent ? call.a.step : 1};
  job.g = {call.s.image, call.s.target, adjacent || call.rule == Rule::weights ? 1 : call.s.step, adjacent ? call.s.step : 1};
  job.weights = scratch;
  job.maps = scratch + (long long)call.maps * call.C;
  T* rest = job.maps + (long long)call.maps * S;
  const unsigned rows = unsigned(std::min(call.maps, 65535)); // blocks along y; each takes every rows-th map
  if (has_weights(call.rule) && call.rule != Rule::weights && call.C > 0) {
    const cudaError_t error =
        launch(&large_weights_kernel<In>, {dim3(unsigned(call.C), rows), dim3(kLargeThreads), 0, call.stream}, job);
    if (error != cudaSuccess) return error;
  }
  const unsigned blocks = unsigned((S + kLargeThreads - 1) / kLargeThreads);
  const cudaError_t error = launch(&large_sum_kernel<In>, {dim3(blocks, rows), dim3(kLargeThreads), 0, call.stream}, job);
  if (error != cudaSuccess) return error;

  ResizeCall finish{};
  finish.maps = job.maps;
  finish.M = call.maps;
  finish.resize = call.resize;
  finish.relu = call.resize.normalize;
  finish.out = call.out;
  finish.scratch = rest;
  finish.plan.group = call.plan.group; // and `fits` false: by way of the rest of the scratch
  finish.stream = call.stream;
  return launch_resize<T>(finish);
}

} // namespace

template <class In>
cudaError_t launch_cam(const CamCall& call) {
  if (!call.plan.fits) return launch_large<In>(call);
  return has_weights(call.rule) ? launch_fused<In, true>(call) : launch_fused<In, false>(call);
}

template cudaError_t launch_cam<float>(const CamCall&);
template cudaError_t launch_cam<__half>(const CamCall&);
template cudaError_t launch_cam<__nv_bfloat16>(const CamCall&);

} // namespace camfast::cuda

#ifndef CAMFAST_EMULATOR
namespace camfast::cuda {

Copies compiled_copies() {
  cudaFuncAttributes compiled{};
  if (cudaFuncGetAttributes(&compiled, &cam_pipeline_kernel<float, true>) != cudaSuccess) {
    cudaGetLastError(); // then without
    return Copies::none;
  }
  return compiled.ptxVersion >= 90 ? Copies::bulk : compiled.ptxVersion >= 80 ? Copies::threads : Copies::none;
}

int largest_cluster() {
  constexpr int kLarge = 16;
  auto* kernel = &cam_kernel<float, true, false>;
  cudaFuncAttributes compiled{};
  const bool has_clusters = cudaFuncGetAttributes(&compiled, kernel) == cudaSuccess && compiled.ptxVersion >= 90;
  if (!has_clusters) return 1; // PTX of an older architecture, which the driver compiled for this one
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kLarge, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kLarge);
  config.blockDim = dim3(kMaxCamThreads);
  config.attrs = &cluster;
  config.numAttrs = 1;
  int places = 0;
  const bool known = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&places, kernel, &config) == cudaSuccess;
  if (!known) cudaGetLastError(); // the question may be refused; that is no failure of the op
  return known && places > 0 ? kLarge : kPortableCluster;
}

} // namespace camfast::cuda
#endif

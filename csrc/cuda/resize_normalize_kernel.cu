#include "launch.cuh"
#include "resize_normalize.h"
#include "resize_normalize_kernel.cuh"

namespace camfast::cuda {
namespace {

template <class In>
cudaError_t finish_large(const ResizeJob& resize, bool relu, int maps, int group, const In* raw, void* scratch, void* out,
                         cudaStream_t stream) {
  using T = AccOf<In>;
  T* rectified = static_cast<T*>(scratch);
  auto* normalizers = reinterpret_cast<Normalizer<T>*>(rectified + (long long)maps * resize.in.positions());
  static_assert(sizeof(Normalizer<T>) == 4 * sizeof(T), "large_scratch_bytes counts four values a normaliser");
  const LargeFinishJob<In> job{resize, relu, group, raw, rectified, normalizers, static_cast<T*>(out)};
  const cudaError_t error = launch(&large_range_kernel<In>, {dim3(unsigned(maps)), dim3(kResizeThreads), 0, stream}, job);
  if (error != cudaSuccess) return error;
  return launch(&large_write_kernel<In>, {dim3(unsigned(maps) * unsigned(group)), dim3(kResizeThreads), 0, stream}, job);
}

} // namespace

template <class In>
cudaError_t launch_resize(const ResizeCall& call) {
  using T = AccOf<In>;
  const ResizePlan& plan = call.plan;
  const In* maps = static_cast<const In*>(call.maps);
  if (!plan.fits) {
    return finish_large<In>(call.resize, call.relu, call.M, plan.group, maps, call.scratch, call.out, call.stream);
  }
  const ResizeMapsJob<In> job{call.resize, call.relu, plan.group, maps, static_cast<T*>(call.out)};
  return launch(&resize_kernel<In>,
                {dim3(unsigned(call.M) * unsigned(plan.group)), dim3(kResizeThreads), plan.shared_bytes, call.stream}, job);
}

template cudaError_t launch_resize<float>(const ResizeCall&);
template cudaError_t launch_resize<__half>(const ResizeCall&);
template cudaError_t launch_resize<__nv_bfloat16>(const ResizeCall&);

} // namespace camfast::cuda

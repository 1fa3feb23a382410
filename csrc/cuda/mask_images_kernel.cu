#include "launch.cuh"
#include "mask_images_kernel.cuh"

namespace camfast::cuda {

template <class In>
cudaError_t launch_masks(const MaskCall& call) {
  const auto aligned = [](const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; };
  MaskJob<In> job{};
  job.images = static_cast<const In*>(call.images);
  job.maps = static_cast<const AccOf<In>*>(call.maps);
  job.out = static_cast<In*>(call.out);
  job.C = call.C;
  job.planes = call.planes;
  job.channels_last = call.channels_last;
  job.scale_first = call.scale_first;
  job.map_in_shared = call.shared_bytes > 0;
  job.vectors = !call.channels_last && aligned(call.images) && aligned(call.out) && call.size.positions() % kVector<In> == 0;
  job.resize = {call.map, call.size, true};
  job.group = call.group;
  const Launch how{dim3(unsigned(call.N) * unsigned(call.C) * unsigned(call.group)), dim3(kMaskThreads), call.shared_bytes,
                   call.stream};
  return launch(call.corners ? &mask_kernel<In, true> : &mask_kernel<In, false>, how, job);
}

template cudaError_t launch_masks<float>(const MaskCall&);
template cudaError_t launch_masks<__half>(const MaskCall&);
template cudaError_t launch_masks<__nv_bfloat16>(const MaskCall&);

} // namespace camfast::cuda

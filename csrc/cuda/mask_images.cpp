// mask_images on CUDA.
#include "../mask_images.h"
#include "../dispatch.h"
#include "device.h"
#include "mask_images.h"
#include "reference.h"

namespace camfast::cuda {
namespace {

Tensor mask_images(const Tensor& images, const Tensor& maps, bool align_corners, bool scale_first) {
  const int device = images.get_device_index();
  const DeviceGuard guard(device);
  MaskInputs in = mask_inputs(images, maps);
  if (in.out.numel() == 0) return in.out;
  const int64_t count = in.N * in.C, S = in.map.positions();
  check_counts(count, in.map, in.size, 1);

  MaskCall call{};
  call.images = in.images.const_data_ptr();
  call.maps = in.maps.const_data_ptr();
  call.out = in.out.mutable_data_ptr();
  call.N = int(in.N);
  call.C = int(in.C);
  call.planes = int(in.planes);
  call.channels_last = in.channels_last;
  call.corners = align_corners;
  call.scale_first = scale_first;
  call.map = extent(in.map);
  call.size = extent(in.size);
  call.group = blocks_a_map(machine(device), count, in.size.positions() * in.planes * in.out.element_size());
  const int64_t map_bytes = S * in.maps.element_size();
  call.shared_bytes = map_bytes <= machine(device).shared_bytes - kStaticSharedBytes ? int(map_bytes) : 0;
  call.stream = current_stream(device);
  dispatch<UpToSingle>(images.scalar_type(), [&](auto type) { STD_CUDA_CHECK(launch_masks<typename decltype(type)::type>(call)); });
  return in.out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { CAMFAST_IMPL_OR_REFERENCE(m, mask_images, &camfast::cuda::mask_images); }

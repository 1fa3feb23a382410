// resize_normalize on CUDA.
#include "../resize_normalize.h"
#include "../dispatch.h"
#include "device.h"
#include "reference.h"
#include "resize_normalize.h"

namespace camfast::cuda {
namespace {

Tensor resize_normalize(const Tensor& maps, OptionalSizes size, bool normalize, bool relu) {
  const int device = maps.get_device_index();
  const DeviceGuard guard(device);
  ResizeInputs in = resize_inputs(maps, size, normalize, relu);
  if (in.out.numel() == 0) return in.out;
  check_counts(in.M, in.map, in.size, 1);

  ResizeCall call{};
  call.maps = in.maps.const_data_ptr();
  call.M = int(in.M);
  call.resize = {extent(in.map), extent(in.size), normalize};
  call.relu = relu;
  call.out = in.out.mutable_data_ptr();
  call.plan = plan_resize(machine(device), in.M, in.map.positions(), in.size.positions(), int(in.out.element_size()));
  Scratch scratch(call.plan.scratch_bytes, maps);
  call.scratch = scratch.data();
  call.stream = current_stream(device);
  dispatch<UpToSingle>(maps.scalar_type(), [&](auto type) { STD_CUDA_CHECK(launch_resize<typename decltype(type)::type>(call)); });
  return in.out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { CAMFAST_IMPL_OR_REFERENCE(m, resize_normalize, &camfast::cuda::resize_normalize); }

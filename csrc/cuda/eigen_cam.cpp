// eigen_cam and kpca_cam on CUDA.
#include "../eigen_cam.h"
#include "../dispatch.h"
#include "device.h"
#include "eigen_cam.h"
#include "reference.h"

namespace camfast::cuda {
namespace {

Tensor eigen_map(const Tensor& activations, const OptionalSizes& size, bool normalize, bool kernel, std::optional<double> gamma) {
  const int device = activations.get_device_index();
  const DeviceGuard guard(device);
  EigenInputs in = eigen_inputs(activations, size, kernel, gamma);
  if (in.out.numel() == 0) return in.out;
  check_counts(in.N, in.map, in.size, in.C);

  EigenCall call{};
  call.activations = in.activations.const_data_ptr();
  call.image = in.image;
  call.channel = in.channel;
  call.position = in.position;
  call.shape = {in.N, int(in.C), int(in.S), kernel, in.size.positions(), int(in.out.element_size())};
  call.gamma = in.gamma;
  call.resize = {extent(in.map), extent(in.size), normalize};
  call.out = in.out.mutable_data_ptr();
  call.plan = plan_eigen(machine(device), call.shape);
  Scratch scratch(call.plan.scratch_bytes, activations);
  call.scratch = scratch.data();
  call.stream = current_stream(device);
  dispatch<UpToSingle>(activations.scalar_type(),
                       [&](auto type) { STD_CUDA_CHECK(launch_eigen<typename decltype(type)::type>(call)); });
  return in.out;
}

Tensor eigen_cam(const Tensor& activations, OptionalSizes size, bool normalize) {
  return eigen_map(activations, size, normalize, false, std::nullopt);
}

Tensor kpca_cam(const Tensor& activations, OptionalSizes size, bool normalize, std::optional<double> gamma) {
  return eigen_map(activations, size, normalize, true, gamma);
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  CAMFAST_IMPL_OR_REFERENCE(m, eigen_cam, &camfast::cuda::eigen_cam);
  CAMFAST_IMPL_OR_REFERENCE(m, kpca_cam, &camfast::cuda::kpca_cam);
}

// preprocess on CUDA.
#include "../preprocess.h"
#include "../dispatch.h"
#include "device.h"
#include "preprocess.h"

namespace camfast::cuda {
namespace {

Tensor preprocess(const Tensor& frames, Sizes size, std::vector<double> mean, std::vector<double> std, ScalarType dtype,
                  std::optional<std::vector<double>> box, bool channels_last) {
  const int device = frames.get_device_index();
  const DeviceGuard guard(device);
  PreprocessInputs in = preprocess_inputs(frames, size, mean, std, dtype, box, channels_last);
  if (in.out.numel() == 0) return in.out;
  STD_TORCH_CHECK(in.N <= (1 << 24), "frames must be at most 2^24 in one call, got ", in.N);

  PreprocessCall call{};
  call.frames = static_cast<const uint8_t*>(in.frames.const_data_ptr());
  call.out = in.out.mutable_data_ptr();
  call.rows = in.rows;
  call.columns = in.columns;
  call.normalise = in.normalise;
  call.N = int(in.N);
  call.interleaved = channels_last;
  call.stream = current_stream(device);
  dispatch<UpToSingle>(dtype, [&](auto type) { STD_CUDA_CHECK(launch_preprocess<typename decltype(type)::type>(call)); });
  return in.out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { m.impl("preprocess", TORCH_BOX(&camfast::cuda::preprocess)); }

// overlay on CUDA.
#include "../overlay.h"
#include "device.h"
#include "overlay.h"

namespace camfast::cuda {
namespace {

Tensor overlay(const Tensor& frames, const Tensor& heatmap, const Tensor& colors, double alpha) {
  const int device = frames.get_device_index();
  const DeviceGuard guard(device);
  OverlayInputs in = overlay_inputs(frames, heatmap, colors, alpha);
  if (in.out.numel() == 0) return in.out;
  check_counts(in.N, in.map, in.frame, 1);

  OverlayCall call{};
  call.frames = static_cast<const uint8_t*>(in.frames.const_data_ptr());
  call.heat = static_cast<const float*>(in.heatmap.const_data_ptr());
  call.colors = static_cast<const uint8_t*>(in.colors.const_data_ptr());
  call.out = static_cast<uint8_t*>(in.out.mutable_data_ptr());
  call.N = int(in.N);
  call.map = extent(in.map);
  call.frame = extent(in.frame);
  call.alpha = in.alpha;
  call.frame_share = in.frame_share;
  call.blocks = blocks_a_map(machine(device), in.N, in.frame.positions() * 6);
  call.stream = current_stream(device);
  STD_CUDA_CHECK(launch_overlay(call));
  return in.out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { m.impl("overlay", TORCH_BOX(&camfast::cuda::overlay)); }

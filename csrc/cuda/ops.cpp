// The CUDA ops: check, guard, allocate, return early when empty, plan, dispatch on dtype, launch, check.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime_api.h>

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <mutex>

#include "../masks.h"
#include "../preprocess_arguments.h"
#include "../tile_maps.h"
#include "launches.h"

namespace camfast {
namespace {

// What the device offers, read once; the caller's device guard is in force.
const cuda::Machine& machine(int device) {
  constexpr int kMaxDevices = 64;
  static cuda::Machine machines[kMaxDevices];
  static std::once_flag known[kMaxDevices];
  STD_TORCH_CHECK(device >= 0 && device < kMaxDevices, "device index must be below ", kMaxDevices, ", got ", device);
  std::call_once(known[device], [device] {
    cuda::Machine& m = machines[device];
    int major = 0, cooperative = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&m.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&m.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device));
    m.max_cluster = major >= 9 ? cuda::largest_cluster() : 1;
    m.cooperative = cooperative != 0;
  });
  return machines[device];
}

cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

cuda::MapExtent extent(const Extent& e) {
  return {int(e.d), int(e.h), int(e.w)};
}

// Positions, outputs and channels of one image, and blocks, are counted in 32 bits.
void check_counts(int64_t maps, const Extent& in, const Extent& out, int64_t channels) {
  STD_TORCH_CHECK(in.positions() * std::max<int64_t>(channels, 1) <= INT32_MAX && out.positions() <= INT32_MAX,
                  "an image's activations and its heatmap must have fewer than 2^31 values, got ",
                  in.positions() * channels, " and ", out.positions());
  STD_TORCH_CHECK(maps <= (1 << 24), "maps must be at most 2^24 in one call, got ", maps);
}

// Freed in stream order, so that it may go out of scope as soon as the kernel is launched.
Tensor scratch(int64_t bytes, const Tensor& like) {
  return allocate({bytes}, ScalarType::Byte, like);
}

template <Rule rule>
Tensor cam_op(const Tensor& activations, const Tensor& second, OptionalSizes size, bool normalize) {
  const Sizes out_size = output_size(size, activations, 2);
  const int device = activations.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  CamInputs in = cam_inputs(activations, second, rule);
  const int64_t S = in.map.positions();
  const bool channels_adjacent = in.layout == Layout::channels_adjacent;
  if (!channels_adjacent && in.C > 1 && (in.a_step != S || (rule != Rule::weights && in.s_step != S))) {
    // The kernel walks dense channels; a gap between them is rare enough for a copy.
    in = cam_inputs(torch::stable::contiguous(in.activations), torch::stable::contiguous(in.second), rule);
  }
  const ScalarType type = in.activations.scalar_type();
  Tensor out = allocate(heatmap_shape(in, out_size), accumulation_type(type), in.activations);
  if (out.numel() == 0) return out;
  const Extent out_extent = extent_of(out_size);
  const int64_t maps = in.N * in.K;
  check_counts(maps, in.map, out_extent, in.C);

  cuda::CamCall call{};
  call.activations = in.activations.const_data_ptr();
  call.second = in.second.const_data_ptr();
  call.a = {in.a_image, 0, in.a_step};
  call.s = {in.s_image, in.s_target, in.s_step};
  call.rule = rule;
  call.channels_adjacent = in.layout == Layout::channels_adjacent;
  call.maps = int(maps);
  call.K = int(in.K);
  call.C = int(in.C);
  call.resize = {extent(in.map), extent(out_extent), normalize};
  call.out = out.mutable_data_ptr();
  call.plan = cuda::plan_cam(machine(device), {maps, int(in.C), int(S), out_extent.positions(), int(in.activations.element_size()),
                                               int(out.element_size()), rule, call.channels_adjacent});
  std::optional<Tensor> workspace;
  if (call.plan.scratch_bytes > 0) {
    workspace = scratch(call.plan.scratch_bytes, in.activations);
    call.scratch = workspace->mutable_data_ptr();
  }
  call.stream = current_stream(device);
  switch (type) {
    case ScalarType::Double: STD_CUDA_CHECK(cuda::launch_cam<double>(call)); break;
    case ScalarType::Float: STD_CUDA_CHECK(cuda::launch_cam<float>(call)); break;
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_cam<__half>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_cam<__nv_bfloat16>(call)); break;
  }
  return out;
}

Tensor resize_normalize(const Tensor& maps, OptionalSizes size, bool normalize, bool relu) {
  check_floating(maps, "maps");
  const Sizes out_size = output_size(size, maps, 1);
  const int device = maps.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  Sizes shape{maps.size(0)};
  shape.insert(shape.end(), out_size.begin(), out_size.end());
  Tensor out = allocate(shape, accumulation_type(maps.scalar_type()), maps);
  if (out.numel() == 0) return out;
  const Tensor dense = torch::stable::contiguous(maps);
  const Extent in = extent_of(dense, 1), out_extent = extent_of(out_size);
  check_counts(maps.size(0), in, out_extent, 1);

  cuda::ResizeCall call{};
  call.maps = dense.const_data_ptr();
  call.M = int(maps.size(0));
  call.resize = {extent(in), extent(out_extent), normalize};
  call.relu = relu;
  call.out = out.mutable_data_ptr();
  call.plan = cuda::plan_resize(machine(device), call.M, in.positions(), out_extent.positions(), int(out.element_size()));
  std::optional<Tensor> workspace;
  if (call.plan.scratch_bytes > 0) {
    workspace = scratch(call.plan.scratch_bytes, maps);
    call.scratch = workspace->mutable_data_ptr();
  }
  call.stream = current_stream(device);
  switch (maps.scalar_type()) {
    case ScalarType::Double: STD_CUDA_CHECK(cuda::launch_resize<double>(call)); break;
    case ScalarType::Float: STD_CUDA_CHECK(cuda::launch_resize<float>(call)); break;
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_resize<__half>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_resize<__nv_bfloat16>(call)); break;
  }
  return out;
}

Tensor eigen_map(const Tensor& given, const OptionalSizes& size, bool normalize, bool kernel, std::optional<double> gamma) {
  check_floating(given, "activations");
  const Sizes out_size = output_size(size, given, 2);
  STD_TORCH_CHECK(given.size(1) > 0, "activations must have channels, got shape ", shape_string(given));
  const int device = given.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  Sizes out_shape{given.size(0)};
  out_shape.insert(out_shape.end(), out_size.begin(), out_size.end());
  const ScalarType type = given.scalar_type();
  Tensor out = allocate(out_shape, accumulation_type(type), given);
  if (out.numel() == 0) return out;
  Tensor activations = given;
  LayoutOf layout = layout_of(activations, 1);
  if (layout.layout == Layout::other) {
    activations = torch::stable::contiguous(activations);
    layout = layout_of(activations, 1);
  }
  const Extent in = extent_of(activations, 2), out_extent = extent_of(out_size);
  const int64_t N = activations.size(0), C = activations.size(1), S = in.positions();
  check_counts(N, in, out_extent, C);

  cuda::EigenCall call{};
  call.activations = activations.const_data_ptr();
  const bool adjacent = layout.layout == Layout::positions_adjacent;
  call.image = activations.stride(0);
  call.channel = adjacent ? layout.step : 1;
  call.position = adjacent ? 1 : layout.step;
  call.shape = {N, int(C), int(S), kernel, out_extent.positions(), int(out.element_size())};
  call.gamma = gamma.value_or(1.0 / double(C));
  call.resize = {extent(in), extent(out_extent), normalize};
  call.out = out.mutable_data_ptr();
  call.plan = cuda::plan_eigen(machine(device), call.shape);
  std::optional<Tensor> workspace;
  if (call.plan.scratch_bytes > 0) {
    workspace = scratch(call.plan.scratch_bytes, activations);
    call.scratch = workspace->mutable_data_ptr();
  }
  call.stream = current_stream(device);
  switch (type) {
    case ScalarType::Double: STD_CUDA_CHECK(cuda::launch_eigen<double>(call)); break;
    case ScalarType::Float: STD_CUDA_CHECK(cuda::launch_eigen<float>(call)); break;
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_eigen<__half>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_eigen<__nv_bfloat16>(call)); break;
  }
  return out;
}

Tensor eigen_cam(const Tensor& activations, OptionalSizes size, bool normalize) {
  return eigen_map(activations, size, normalize, false, std::nullopt);
}

Tensor kpca_cam(const Tensor& activations, OptionalSizes size, bool normalize, std::optional<double> gamma) {
  return eigen_map(activations, size, normalize, true, gamma);
}

Tensor mask_images(const Tensor& images, const Tensor& maps, bool align_corners, bool scale_first) {
  const int device = images.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  MaskInputs in = mask_inputs(images, maps);
  if (in.out.numel() == 0) return in.out;
  const int64_t count = in.N * in.C, S = in.map.positions();
  check_counts(count, in.map, in.size, 1);

  cuda::MaskCall call{};
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
  call.group = cuda::blocks_a_map(machine(device), count, in.size.positions() * in.planes * in.out.element_size());
  const int64_t map_bytes = S * in.maps.element_size();
  call.shared_bytes = map_bytes <= machine(device).shared_bytes - cuda::kStaticSharedBytes ? int(map_bytes) : 0;
  call.stream = current_stream(device);
  switch (images.scalar_type()) {
    case ScalarType::Double: STD_CUDA_CHECK(cuda::launch_masks<double>(call)); break;
    case ScalarType::Float: STD_CUDA_CHECK(cuda::launch_masks<float>(call)); break;
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_masks<__half>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_masks<__nv_bfloat16>(call)); break;
  }
  return in.out;
}

Tensor preprocess(const Tensor& frames, Sizes size, std::vector<double> mean, std::vector<double> std, ScalarType dtype,
                  std::optional<std::vector<double>> box, bool channels_last) {
  const PreprocessArguments a = check_preprocess(frames, size, mean, std, dtype, box);
  const int device = frames.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  Tensor out = allocate_images(a, dtype, channels_last, frames);
  if (out.numel() == 0) return out;
  STD_TORCH_CHECK(a.N <= (1 << 24), "frames must be at most 2^24 in one call, got ", a.N);
  const Tensor dense = torch::stable::contiguous(frames);

  cuda::PreprocessCall call{};
  call.frames = static_cast<const uint8_t*>(dense.const_data_ptr());
  call.out = out.mutable_data_ptr();
  call.rows = a.rows;
  call.columns = a.columns;
  call.normalise = a.normalise;
  call.N = int(a.N);
  call.interleaved = channels_last;
  call.stream = current_stream(device);
  switch (dtype) {
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_preprocess<__half>(call)); break;
    case ScalarType::BFloat16: STD_CUDA_CHECK(cuda::launch_preprocess<__nv_bfloat16>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_preprocess<float>(call)); break;
  }
  return out;
}

Tensor overlay(const Tensor& frames, const Tensor& heatmap, const Tensor& colors, double alpha) {
  check_overlay(frames, heatmap, colors);
  const int device = frames.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  const int64_t N = frames.size(0), H = frames.size(1), W = frames.size(2);
  Tensor out = allocate({N, H, W, 3}, ScalarType::Byte, frames);
  if (out.numel() == 0) return out;
  const Tensor dense_frames = torch::stable::contiguous(frames), dense_heat = torch::stable::contiguous(heatmap);
  const Tensor dense_colors = torch::stable::contiguous(colors);
  const Extent map = extent_of(dense_heat, 1), frame{1, H, W};
  check_counts(N, map, frame, 1);

  cuda::OverlayCall call{};
  call.frames = static_cast<const uint8_t*>(dense_frames.const_data_ptr());
  call.heat = static_cast<const float*>(dense_heat.const_data_ptr());
  call.colors = static_cast<const uint8_t*>(dense_colors.const_data_ptr());
  call.out = static_cast<uint8_t*>(out.mutable_data_ptr());
  call.N = int(N);
  call.map = extent(map);
  call.frame = extent(frame);
  call.alpha = float(alpha);
  call.frame_share = float(1.0 - alpha);
  call.blocks = cuda::blocks_a_map(machine(device), N, frame.positions() * 6);
  call.stream = current_stream(device);
  STD_CUDA_CHECK(cuda::launch_overlay(call));
  return out;
}

Tensor tile_maps(const Tensor& maps, const Tensor& colors, int64_t columns, int64_t pad_y, int64_t pad_x, int64_t scale,
                 std::optional<Tensor> limits, int64_t background) {
  const TileLayout layout = check_tile_maps(maps, colors, columns, pad_y, pad_x, scale, limits, background);
  const int device = maps.get_device_index();
  const torch::stable::accelerator::DeviceGuard guard(device);
  Tensor out = allocate({layout.height(), layout.width(), 3}, ScalarType::Byte, maps);
  const Tensor dense = torch::stable::contiguous(maps), dense_colors = torch::stable::contiguous(colors);
  const int64_t cells = layout.rows() * layout.columns;
  STD_TORCH_CHECK(cells <= INT32_MAX && layout.h * layout.scale <= INT32_MAX, "maps must be fewer than 2^31, got ", cells);

  cuda::TileCall call{};
  call.maps = dense.const_data_ptr();
  call.colors = static_cast<const uint8_t*>(dense_colors.const_data_ptr());
  std::optional<Tensor> dense_limits;
  if (limits.has_value()) {
    dense_limits = torch::stable::contiguous(*limits);
    call.limits = static_cast<const float*>(dense_limits->const_data_ptr());
  }
  call.out = static_cast<uint8_t*>(out.mutable_data_ptr());
  call.layout = layout;
  call.background = uint8_t(background);
  // Every part of a cell reads the whole map: more than a few would read more than they write.
  call.parts = std::min(8, cuda::blocks_a_map(machine(device), cells, layout.h * layout.w * layout.scale * layout.scale * 3));
  call.stream = current_stream(device);
  switch (maps.scalar_type()) {
    case ScalarType::Float: STD_CUDA_CHECK(cuda::launch_tile_maps<float>(call)); break;
    case ScalarType::Half: STD_CUDA_CHECK(cuda::launch_tile_maps<__half>(call)); break;
    default: STD_CUDA_CHECK(cuda::launch_tile_maps<__nv_bfloat16>(call)); break;
  }
  return out;
}

} // namespace
} // namespace camfast

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) {
  using camfast::Rule;
  m.impl("cam", TORCH_BOX(&camfast::cam_op<Rule::weights>));
  m.impl("grad_cam", TORCH_BOX(&camfast::cam_op<Rule::grad_cam>));
  m.impl("grad_cam_plus_plus", TORCH_BOX(&camfast::cam_op<Rule::grad_cam_plus_plus>));
  m.impl("xgrad_cam", TORCH_BOX(&camfast::cam_op<Rule::xgrad_cam>));
  m.impl("hires_cam", TORCH_BOX(&camfast::cam_op<Rule::hires_cam>));
  m.impl("layer_cam", TORCH_BOX(&camfast::cam_op<Rule::layer_cam>));
  m.impl("grad_cam_elementwise", TORCH_BOX(&camfast::cam_op<Rule::grad_cam_elementwise>));
  m.impl("resize_normalize", TORCH_BOX(&camfast::resize_normalize));
  m.impl("eigen_cam", TORCH_BOX(&camfast::eigen_cam));
  m.impl("kpca_cam", TORCH_BOX(&camfast::kpca_cam));
  m.impl("mask_images", TORCH_BOX(&camfast::mask_images));
  m.impl("preprocess", TORCH_BOX(&camfast::preprocess));
  m.impl("overlay", TORCH_BOX(&camfast::overlay));
  m.impl("tile_maps", TORCH_BOX(&camfast::tile_maps));
}

// tile_maps on CUDA.
#include "../tile_maps.h"
#include "../dispatch.h"
#include "device.h"
#include "tile_maps.h"

namespace camfast::cuda {
namespace {

Tensor tile_maps(const Tensor& maps, const Tensor& colors, int64_t columns, int64_t pad_y, int64_t pad_x, int64_t scale,
                 std::optional<Tensor> limits, int64_t background) {
  const int device = maps.get_device_index();
  const DeviceGuard guard(device);
  TileInputs in = tile_inputs(maps, colors, columns, pad_y, pad_x, scale, limits, background);
  const TileLayout& layout = in.layout;
  const int64_t cells = layout.rows() * layout.columns;
  STD_TORCH_CHECK(cells <= INT32_MAX && layout.h * layout.scale <= INT32_MAX, "maps must be fewer than 2^31, got ", cells);

  TileCall call{};
  call.maps = in.maps.const_data_ptr();
  call.colors = static_cast<const uint8_t*>(in.colors.const_data_ptr());
  call.limits = in.limits;
  call.out = static_cast<uint8_t*>(in.out.mutable_data_ptr());
  call.layout = layout;
  call.background = in.background;
  // Every part of a cell reads the whole map: more than a few would read more than they write.
  call.parts = std::min(8, blocks_a_map(machine(device), cells, layout.h * layout.w * layout.scale * layout.scale * 3));
  call.stream = current_stream(device);
  dispatch<UpToSingle>(maps.scalar_type(),
                       [&](auto type) { STD_CUDA_CHECK(launch_tile_maps<typename decltype(type)::type>(call)); });
  return in.out;
}

} // namespace
} // namespace camfast::cuda

STABLE_TORCH_LIBRARY_IMPL(camfast, CUDA, m) { m.impl("tile_maps", TORCH_BOX(&camfast::cuda::tile_maps)); }

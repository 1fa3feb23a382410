#include "launch.cuh"
#include "tile_maps_kernel.cuh"

namespace camfast::cuda {

template <class In>
cudaError_t launch_tile_maps(const TileCall& call) {
  TileJob<In> job{};
  job.maps = static_cast<const In*>(call.maps);
  job.colors = call.colors;
  job.limits = call.limits;
  job.out = call.out;
  job.layout = call.layout;
  job.background = call.background;
  const unsigned cells = unsigned(call.layout.rows() * call.layout.columns);
  return launch(&tile_maps_kernel<In>, {dim3(cells, unsigned(call.parts)), dim3(kTileThreads), 0, call.stream}, job);
}

template cudaError_t launch_tile_maps<float>(const TileCall&);
template cudaError_t launch_tile_maps<__half>(const TileCall&);
template cudaError_t launch_tile_maps<__nv_bfloat16>(const TileCall&);

} // namespace camfast::cuda

#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<float>(const CamCall&);
} // namespace camfast::cuda

#ifndef CAMFAST_EMULATOR
namespace camfast::cuda {

int largest_cluster() {
  constexpr int kLarge = 16;
  auto* kernel = &cam_kernel<float, true, false>;
  cudaLaunchAttribute cluster{};
  cluster.id = cudaLaunchAttributeClusterDimension;
  cluster.val.clusterDim = {kLarge, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(kLarge);
  config.blockDim = dim3(kMaxCamThreads);
  config.attrs = &cluster;
  config.numAttrs = 1;
  int places = 0;
  const bool known = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess &&
      cudaOccupancyMaxActiveClusters(&places, kernel, &config) == cudaSuccess;
  if (!known) cudaGetLastError(); // the question may be refused; that is no failure of the op
  return known && places > 0 ? kLarge : kPortableCluster;
}

} // namespace camfast::cuda
#endif

// One kernel launch with its attributes.
#pragma once

#include "plan.h"
#include "portable.cuh"

namespace camfast::cuda {

struct Launch {
  dim3 grid, block;
  int shared_bytes;
  cudaStream_t stream;
  int cluster = 1;          // blocks along x
  bool cooperative = false; // grid-wide barriers
  int carveout = 0;         // percent of the multiprocessor's memory to be shared memory; 0: as the driver has it
};

template <class Job>
cudaError_t launch(void (*kernel)(Job), const Launch& how, const Job& job) {
  constexpr int kWithoutAsking = 48 * 1024 - kStaticSharedBytes; // the limit counts static shared memory too
  if (how.shared_bytes > kWithoutAsking) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, how.shared_bytes);
    if (error != cudaSuccess) return error;
  }
  if (how.carveout) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributePreferredSharedMemoryCarveout, how.carveout);
    if (error != cudaSuccess) return error;
  }
  if (how.cluster > kPortableCluster) {
    const cudaError_t error = cudaFuncSetAttribute(kernel, cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
    if (error != cudaSuccess) return error;
  }
  cudaLaunchConfig_t config{};
  config.gridDim = how.grid;
  config.blockDim = how.block;
  config.dynamicSmemBytes = size_t(how.shared_bytes);
  config.stream = how.stream;
  cudaLaunchAttribute attribute{};
  if (how.cluster > 1) {
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim.x = unsigned(how.cluster);
    attribute.val.clusterDim.y = 1;
    attribute.val.clusterDim.z = 1;
  } else {
    attribute.id = cudaLaunchAttributeCooperative;
    attribute.val.cooperative = 1;
  }
  config.attrs = &attribute;
  config.numAttrs = how.cluster > 1 || how.cooperative ? 1 : 0;
  return cudaLaunchKernelEx(&config, kernel, job);
}

} // namespace camfast::cuda

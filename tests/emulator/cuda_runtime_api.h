// The few calls of the CUDA runtime with which kernels are launched, so that a .cu file compiles whole under g++:
//
//   g++ -x c++ -std=c++17 -DCAMFAST_EMULATOR -Itests/emulator -c csrc/cuda/<op>_kernel.cu
//
// A launch runs at once, whatever its stream. Faults that the driver would refuse come back as its error codes; faults
// inside a kernel throw emu::Error.
#pragma once

#include <map>

#include "cuda_emulator.h"

enum cudaError_t { cudaSuccess = 0, cudaErrorInvalidValue = 1, cudaErrorInvalidConfiguration = 9 };
using cudaStream_t = struct CUstream_st*;

enum cudaFuncAttribute {
  cudaFuncAttributeMaxDynamicSharedMemorySize = 8,
  cudaFuncAttributePreferredSharedMemoryCarveout = 9,
  cudaFuncAttributeNonPortableClusterSizeAllowed = 13
};
enum cudaLaunchAttributeID { cudaLaunchAttributeCooperative = 2, cudaLaunchAttributeClusterDimension = 4 };
union cudaLaunchAttributeValue {
  int cooperative;
  struct {
    unsigned x, y, z;
  } clusterDim;
};
struct cudaLaunchAttribute {
  cudaLaunchAttributeID id;
  cudaLaunchAttributeValue val;
};
struct cudaLaunchConfig_t {
  dim3 gridDim, blockDim;
  size_t dynamicSmemBytes;
  cudaStream_t stream;
  cudaLaunchAttribute* attrs;
  unsigned numAttrs;
};

namespace emu {
// What kernels were allowed by cudaFuncSetAttribute.
struct Allowance {
  size_t dynamic_shared = 48 * 1024;
  bool large_clusters = false;
};
inline Allowance& allowance(const void* kernel) {
  static std::map<const void*, Allowance> of_kernel;
  return of_kernel[kernel];
}
}  // namespace emu

inline const char* cudaGetErrorString(cudaError_t error) {
  if (error == cudaSuccess) return "no error";
  return error == cudaErrorInvalidValue ? "invalid argument" : "invalid configuration";
}

template <class... Params>
cudaError_t cudaFuncSetAttribute(void (*kernel)(Params...), cudaFuncAttribute attribute, int value) {
  emu::Allowance& allowed = emu::allowance(reinterpret_cast<const void*>(kernel));
  if (attribute == cudaFuncAttributeNonPortableClusterSizeAllowed) {
    allowed.large_clusters = value != 0;
  } else if (attribute == cudaFuncAttributePreferredSharedMemoryCarveout) {
    if (value < -1 || value > 100) return cudaErrorInvalidValue; // else a hint
  } else {
    if (value < 0 || value > 227 * 1024) return cudaErrorInvalidValue;
    allowed.dynamic_shared = size_t(value);
  }
  return cudaSuccess;
}

template <class... Params, class... Args>
cudaError_t cudaLaunchKernelEx(const cudaLaunchConfig_t* config, void (*kernel)(Params...), Args&&... args) {
  const emu::Allowance& allowed = emu::allowance(reinterpret_cast<const void*>(kernel));
  unsigned cluster = 1;
  bool cooperative = false;
  for (unsigned i = 0; i < config->numAttrs; ++i) {
    const cudaLaunchAttributeValue& value = config->attrs[i].val;
    if (config->attrs[i].id == cudaLaunchAttributeCooperative) {
      cooperative = value.cooperative != 0;
    } else {
      if (value.clusterDim.y != 1 || value.clusterDim.z != 1) return cudaErrorInvalidValue;  // rows only, here
      cluster = value.clusterDim.x;
    }
  }
  if (config->dynamicSmemBytes > allowed.dynamic_shared) return cudaErrorInvalidValue;
  const dim3 grid = config->gridDim, block = config->blockDim;
  const size_t threads = size_t(block.x) * block.y * block.z;
  if (grid.x == 0 || grid.y == 0 || grid.z == 0 || grid.y > 65535 || grid.z > 65535 || threads == 0 || threads > 1024)
    return cudaErrorInvalidConfiguration;
  if (cluster == 0 || cluster > (allowed.large_clusters ? 16u : 8u) || grid.x % cluster != 0)
    return cudaErrorInvalidConfiguration;
  emu::launch(kernel, grid, block, config->dynamicSmemBytes, cluster, cooperative, std::forward<Args>(args)...);
  return cudaSuccess;
}

// What every CUDA op asks of its device: its limits, the current stream, and scratch memory.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/macros.h>

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>

#include "../layout.h"
#include "plan.h"

namespace camfast::cuda {

using torch::stable::accelerator::DeviceGuard;

int largest_cluster();   // cam_kernel.cu
Copies compiled_copies(); // cam_kernel.cu

// What the device offers, read once; the caller's device guard is in force.
inline const Machine& machine(int device) {
  constexpr int kMaxDevices = 64;
  static Machine machines[kMaxDevices];
  static std::once_flag known[kMaxDevices];
  STD_TORCH_CHECK(device >= 0 && device < kMaxDevices, "device index must be below ", kMaxDevices, ", got ", device);
  std::call_once(known[device], [device] {
    Machine& m = machines[device];
    int major = 0, cooperative = 0;
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&m.multiprocessors, cudaDevAttrMultiProcessorCount, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&m.shared_bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device));
    STD_CUDA_CHECK(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, device));
    m.max_cluster = major >= 9 ? largest_cluster() : 1;
    m.cooperative = cooperative != 0;
    m.copies = compiled_copies();
  });
  return machines[device];
}

inline cudaStream_t current_stream(int device) {
  void* stream = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(device, &stream));
  return static_cast<cudaStream_t>(stream);
}

inline MapExtent extent(const Extent& e) { return {int(e.d), int(e.h), int(e.w)}; }

// Positions, outputs and channels of one image, and blocks, are counted in 32 bits.
inline void check_counts(int64_t maps, const Extent& in, const Extent& out, int64_t channels) {
  STD_TORCH_CHECK(in.positions() * std::max<int64_t>(channels, 1) <= INT32_MAX && out.positions() <= INT32_MAX,
                  "an image's activations and its heatmap must have fewer than 2^31 values, got ", in.positions() * channels,
                  " and ", out.positions());
  STD_TORCH_CHECK(maps <= (1 << 24), "maps must be at most 2^24 in one call, got ", maps);
}

// Global memory for a launch's own use, if it wants any. Freed in stream order, so that it may go out of scope as soon as the
// kernel is launched.
class Scratch {
 public:
  Scratch(int64_t bytes, const Tensor& like) {
    if (bytes > 0) memory_ = std::make_unique<Tensor>(allocate({bytes}, ScalarType::Byte, like));
  }
  void* data() { return memory_ ? memory_->mutable_data_ptr() : nullptr; }

 private:
  std::unique_ptr<Tensor> memory_;
};

} // namespace camfast::cuda

// Uses everything portable.cuh and async_copy.cuh offer, so that compiling and linking this file proves them under nvcc: for every
// architecture, without -rdc. Where a GPU is present it also runs, and checks what the emulator's self-test checks.
#include <cstdio>
#include <cstring>

#include "async_copy.cuh"
#include "portable.cuh"

// Every block gives its rank * 100 + thread, then reads the next block of its cluster.
__global__ void cluster_ring(int* out) {
  CAMFAST_DYNAMIC_SHARED(int, mine);
  const unsigned rank = camfast::group::cluster_rank(), size = camfast::group::cluster_size();
  mine[threadIdx.x] = int(rank * 100 + threadIdx.x);
  camfast::group::cluster_sync();
  const int* next = camfast::group::cluster_peer(mine, (rank + 1) % size);
  out[blockIdx.x * blockDim.x + threadIdx.x] = next[threadIdx.x];
  camfast::group::cluster_sync();
}

// Two phases: each thread writes its index; after the grid's barrier it reads the mirrored one.
__global__ void grid_mirror(int* scratch, int* out) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x), n = int(gridDim.x * blockDim.x);
  scratch[i] = i;
  camfast::group::grid_sync();
  out[i] = scratch[n - 1 - i];
}

// 16-byte asynchronous copies through shared memory.
__global__ void copy_through(const float4* in, float4* out) {
  CAMFAST_DYNAMIC_SHARED(float4, tile);
  __pipeline_memcpy_async(&tile[threadIdx.x], &in[threadIdx.x], sizeof(float4));
  __pipeline_commit();
  __pipeline_wait_prior(0);
  __syncthreads();
  out[threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
}

// The same bytes through a bulk copy and its barrier, twice, where the architecture has them.
__global__ void copy_in_bulk(const float4* in, float4* out) {
  CAMFAST_DYNAMIC_SHARED(float4, tile);
  __shared__ camfast::group::CopyBarrier barrier;
  if (!camfast::group::bulk_copies()) return;
  if (threadIdx.x == 0) {
    camfast::group::start_barrier(&barrier);
    camfast::group::copy_fence();
  }
  __syncthreads();
  for (unsigned turn = 0; turn < 2; ++turn) {
    if (threadIdx.x == 0) {
      camfast::group::expect_bytes(&barrier, blockDim.x * unsigned(sizeof(float4)));
      camfast::group::bulk_copy(tile, in + turn * blockDim.x, blockDim.x * unsigned(sizeof(float4)), &barrier);
    }
    camfast::group::wait_for_phase(&barrier, turn);
    out[turn * blockDim.x + threadIdx.x] = tile[blockDim.x - 1 - threadIdx.x];
    __syncthreads();
  }
}

#define CHECK(call)                                                                             \
  do {                                                                                          \
    const cudaError_t status = (call);                                                          \
    if (status != cudaSuccess) return printf("%s: %s\n", #call, cudaGetErrorString(status)), 1; \
  } while (0)

int main() {
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || devices == 0) {
    puts("no GPU: compiled and linked only");
    return 0;
  }
  constexpr int blocks = 8, threads = 64, count = blocks * threads;
  cudaDeviceProp device;
  CHECK(cudaGetDeviceProperties(&device, 0));
  const int cluster = device.major >= 9 ? 4 : 1;
  int *scratch, *out;
  CHECK(cudaMallocHost(&scratch, count * sizeof(int)));
  CHECK(cudaMallocHost(&out, count * sizeof(int)));
  int wrong = 0;

  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = threads;
  config.dynamicSmemBytes = threads * sizeof(int);
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = cluster;
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  config.attrs = &attribute;
  config.numAttrs = device.major >= 9 ? 1 : 0;
  CHECK(cudaLaunchKernelEx(&config, cluster_ring, out));
  CHECK(cudaDeviceSynchronize());
  for (int i = 0; i < count; ++i) wrong += out[i] != (i / threads % cluster + 1) % cluster * 100 + i % threads;

  void* arguments[] = {&scratch, &out};
  CHECK(cudaLaunchCooperativeKernel(grid_mirror, dim3(blocks), dim3(threads), arguments, 0, nullptr));
  CHECK(cudaDeviceSynchronize());
  for (int i = 0; i < count; ++i) wrong += out[i] != count - 1 - i;

  for (int i = 0; i < count; ++i) scratch[i] = i;
  copy_through<<<1, threads, threads * sizeof(float4)>>>(reinterpret_cast<const float4*>(scratch),
                                                        reinterpret_cast<float4*>(out));
  CHECK(cudaDeviceSynchronize());
  for (int i = 0; i < threads * 4; ++i) wrong += out[i] != (threads - 1 - i / 4) * 4 + i % 4;

  for (int i = 0; i < count; ++i) scratch[i] = i;
  if (device.major >= 9) {
    copy_in_bulk<<<1, threads / 2, threads / 2 * sizeof(float4)>>>(reinterpret_cast<const float4*>(scratch),
                                                                  reinterpret_cast<float4*>(out));
    CHECK(cudaDeviceSynchronize());
    for (int i = 0; i < threads * 4; ++i) {
      const int half = threads * 2, within = i % half;
      wrong += out[i] != i / half * half + (threads / 2 - 1 - within / 4) * 4 + within % 4;
    }
  }

  printf("%s, clusters of %d: %d wrong\n", device.name, cluster, wrong);
  return wrong != 0;
}

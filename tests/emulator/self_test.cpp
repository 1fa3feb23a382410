// Kernels without faults: the emulator must compute what a GPU computes, under every order of threads and blocks.
#include "check.h"
#include "cuda_runtime_api.h"
#include "portable.cuh"

namespace group = camfast::group;

namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

std::vector<int> iota(int count) {
  std::vector<int> values(static_cast<size_t>(count));
  for (int i = 0; i < count; ++i) values[size_t(i)] = i;
  return values;
}

// ---- indices -------------------------------------------------------------------------------------------------------

__global__ void count_visits(int* visits) {
  const unsigned block = blockIdx.x + gridDim.x * (blockIdx.y + gridDim.y * blockIdx.z);
  const unsigned thread = threadIdx.x + blockDim.x * (threadIdx.y + blockDim.y * threadIdx.z);
  ++visits[block * blockDim.x * blockDim.y * blockDim.z + thread];
}

TEST(every_thread_of_every_block_runs_once) {
  emu::for_each_schedule([] {
    emu::Buffer<int> visits(std::vector<int>(3 * 4 * 2 * 5 * 3 * 7, 0));
    emu::launch(count_visits, dim3(3, 4, 2), dim3(5, 3, 7), 0, 1, false, visits.data());
    for (const int v : visits.values()) CHECK(v == 1);
  });
}

// ---- block and warp ------------------------------------------------------------------------------------------------

template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads) block_sum(const T* __restrict__ in, T* __restrict__ out, int count) {
  __shared__ T parts[kThreads / 32];
  T sum = 0;
  const int first = int(blockIdx.x * kThreads + threadIdx.x), step = int(gridDim.x) * kThreads;
  for (int i = first; i < count; i += step) sum += __ldg(in + i);
#pragma unroll
  for (int offset = 16; offset > 0; offset /= 2) sum += __shfl_xor_sync(kAll, sum, offset);
  if (threadIdx.x % 32 == 0) parts[threadIdx.x / 32] = sum;
  __syncthreads();
  if (threadIdx.x < 32) {
    T total = threadIdx.x < kThreads / 32 ? parts[threadIdx.x] : T(0);
    for (int offset = 16; offset > 0; offset /= 2) total += __shfl_down_sync(kAll, total, unsigned(offset));
    if (threadIdx.x == 0) out[blockIdx.x] = total;
  }
}

template <typename T>
void check_block_sum() {
  emu::for_each_schedule([] {
    constexpr int count = 10007;
    emu::Buffer<T> in(size_t(count), "in"), out(7, "out");
    T expected = 0;
    for (int i = 0; i < count; ++i) expected += in[size_t(i)] = T(i % 13);  // exact in every type
    emu::launch(block_sum<T, 256>, 7, 256, 0, 1, false, in.data(), out.data(), count);
    CHECK(out.untouched() == 0);
    T total = 0;
    for (const T v : out.values()) total += v;
    CHECK(total == expected);
  });
}

TEST(block_sum_of_ints) { check_block_sum<int>(); }
TEST(block_sum_of_unsigned) { check_block_sum<unsigned>(); }
TEST(block_sum_of_floats) { check_block_sum<float>(); }
TEST(block_sum_of_doubles) { check_block_sum<double>(); }

template <typename T>
__global__ void all_shuffles(T* out, int width) {
  const int lane = int(threadIdx.x) % 32;
  const T value = T(lane);
  T* row = out + threadIdx.x * 4;
  row[0] = __shfl_sync(kAll, value, 5, width);
  row[1] = __shfl_up_sync(kAll, value, 3, width);
  row[2] = __shfl_down_sync(kAll, value, 3, width);
  row[3] = __shfl_xor_sync(kAll, value, 12, width);
}

template <typename T>
void check_shuffles() {
  for (const int width : {32, 16, 8, 4})
    emu::for_each_schedule([width] {
      emu::Buffer<T> out(64 * 4);
      emu::launch(all_shuffles<T>, 1, 64, 0, 1, false, out.data(), width);
      for (int thread = 0; thread < 64; ++thread) {
        const int lane = thread % 32, start = lane / width * width, end = start + width;
        const T* row = out.data() + thread * 4;
        CHECK(row[0] == T(start + 5 % width));
        CHECK(row[1] == T(lane - 3 >= start ? lane - 3 : lane));
        CHECK(row[2] == T(lane + 3 < end ? lane + 3 : lane));
        CHECK(row[3] == T((lane ^ 12) < end ? lane ^ 12 : lane));
      }
    });
}

TEST(shuffles_of_ints) { check_shuffles<int>(); }
TEST(shuffles_of_unsigned) { check_shuffles<unsigned>(); }
TEST(shuffles_of_floats) { check_shuffles<float>(); }
TEST(shuffles_of_doubles) { check_shuffles<double>(); }

__global__ void half_warps(int* out) {
  const int lane = int(threadIdx.x);
  if (lane < 16)
    out[lane] = __shfl_sync(0x0000FFFFu, lane, 3);
  else
    out[lane] = __shfl_sync(0xFFFF0000u, lane, 20);
  __syncwarp();
}

TEST(half_warps_meet_apart) {
  emu::for_each_schedule([] {
    emu::Buffer<int> out(32);
    emu::launch(half_warps, 1, 32, 0, 1, false, out.data());
    for (int lane = 0; lane < 32; ++lane) CHECK(out[size_t(lane)] == (lane < 16 ? 3 : 20));
  });
}

__global__ void votes(unsigned* out) {
  const int t = int(threadIdx.x);
  unsigned* row = out + t * 6;
  row[0] = __ballot_sync(kAll, t % 3 == 0);
  row[1] = unsigned(__any_sync(kAll, t == 40));
  row[2] = unsigned(__all_sync(kAll, t < 32));
  row[3] = unsigned(__syncthreads_count(t % 5 == 0));
  row[4] = unsigned(__syncthreads_or(t == 63));
  row[5] = unsigned(__syncthreads_and(t != 63));
}

TEST(votes_of_warps_and_blocks) {
  emu::for_each_schedule([] {
    emu::Buffer<unsigned> out(80 * 6);
    emu::launch(votes, 1, 80, 0, 1, false, out.data());  // the third warp has 16 lanes
    for (unsigned t = 0; t < 80; ++t) {
      unsigned ballot = 0;
      for (unsigned other = t / 32 * 32; other < std::min(t / 32 * 32 + 32, 80u); ++other)
        ballot |= unsigned(other % 3 == 0) << other % 32;
      const unsigned* row = out.data() + t * 6;
      CHECK(row[0] == ballot);
      CHECK(row[1] == (t / 32 == 1));
      CHECK(row[2] == (t / 32 == 0));
      CHECK(row[3] == 16);
      CHECK(row[4] == 1);
      CHECK(row[5] == 0);
    }
  });
}

// ---- clusters and the grid -----------------------------------------------------------------------------------------

// Pulls from the next block's dynamic memory and pushes into the previous block's static memory.
__global__ void cluster_exchange(int* pulled, int* pushed) {
  CAMFAST_DYNAMIC_SHARED(int, mine);
  __shared__ int inbox[64];
  const unsigned rank = group::cluster_rank(), size = group::cluster_size();
  const unsigned i = blockIdx.x * blockDim.x + threadIdx.x;
  mine[threadIdx.x] = int(i);
  inbox[threadIdx.x] = -7;
  group::cluster_sync();
  pulled[i] = group::cluster_peer(mine, (rank + 1) % size)[threadIdx.x];
  group::cluster_peer(inbox, (rank + size - 1) % size)[threadIdx.x] = int(i);
  group::cluster_sync();
  pushed[i] = inbox[threadIdx.x];
}

TEST(cluster_peers_reach_each_others_shared_memory) {
  for (const int size : {1, 2, 8, 16})
    emu::for_each_schedule([size] {
      emu::Buffer<int> pulled(48 * 64), pushed(48 * 64);
      emu::launch(cluster_exchange, 48, 64, 64 * sizeof(int), unsigned(size), false, pulled.data(), pushed.data());
      for (int i = 0; i < 48 * 64; ++i) {
        const int block = i / 64, next = block / size * size + (block + 1) % size;
        CHECK(pulled[size_t(i)] == next * 64 + i % 64);
        CHECK(pushed[size_t(i)] == next * 64 + i % 64);
      }
    });
}

__global__ void grid_mirror(int* scratch, int* out) {
  const int i = int(blockIdx.x * blockDim.x + threadIdx.x), n = int(gridDim.x * blockDim.x);
  scratch[i] = i;
  group::grid_sync();
  out[i] = scratch[n - 1 - i];
}

TEST(grid_sync_separates_two_phases) {
  emu::for_each_schedule([] {
    emu::Buffer<int> scratch(20 * 96), out(20 * 96);
    emu::launch(grid_mirror, 20, 96, 0, 1, true, scratch.data(), out.data());
    for (int i = 0; i < 20 * 96; ++i) CHECK(out[size_t(i)] == 20 * 96 - 1 - i);
  });
}

// The last block to finish adds up the parts of all; atomicInc leaves the counter at zero for the next launch.
__global__ void last_block_sum(const int* in, int* parts, unsigned* counter, int* total) {
  __shared__ bool last;
  const int sum = __syncthreads_count(in[blockIdx.x * blockDim.x + threadIdx.x]);
  if (threadIdx.x == 0) {
    parts[blockIdx.x] = sum;
    __threadfence();
    last = atomicInc(counter, gridDim.x - 1) == gridDim.x - 1;
  }
  __syncthreads();
  if (last && threadIdx.x == 0) {
    int all = 0;
    for (unsigned b = 0; b < gridDim.x; ++b) all += __ldcg(parts + b);
    *total = all;
  }
}

TEST(last_block_done) {
  emu::Buffer<unsigned> counter(std::vector<unsigned>{0});
  for (const unsigned concurrent : {0u, 5u}) {
    emu::config().concurrent = concurrent;
    emu::for_each_schedule([&] {
      emu::Buffer<int> in(std::vector<int>(11 * 64, 1)), parts(11), total(1);
      emu::launch(last_block_sum, 11, 64, 0, 1, false, in.data(), parts.data(), counter.data(), total.data());
      CHECK(total[0] == 11 * 64);
      CHECK(counter[0] == 0);
    });
  }
  emu::config().concurrent = 0;
}

__global__ void add_atomically(int* i, unsigned* u, float* f, double* d, int* largest, int* smallest, unsigned* swaps) {
  atomicAdd(i, -1);
  atomicAdd(u, 2u);
  atomicAdd(f, 0.5f);
  atomicAdd(d, 0.25);
  atomicMax(largest, int(threadIdx.x) - 50);
  atomicMin(smallest, int(threadIdx.x) - 50);
  unsigned seen = *swaps, before;
  do {
    before = seen;
    seen = atomicCAS(swaps, before, before + 3);
  } while (seen != before);
}

TEST(atomics) {
  emu::for_each_schedule([] {
    emu::Buffer<int> i(std::vector<int>{0, -1000, 1000});
    emu::Buffer<unsigned> u(std::vector<unsigned>{0, 0});
    emu::Buffer<float> f(std::vector<float>{0});
    emu::Buffer<double> d(std::vector<double>{0});
    emu::launch(add_atomically, 4, 100, 0, 1, false, i.data(), u.data(), f.data(), d.data(), i.data() + 1, i.data() + 2,
                u.data() + 1);
    CHECK(i[0] == -400 && i[1] == 49 && i[2] == -50 && u[0] == 800 && u[1] == 1200 && f[0] == 200 && d[0] == 100);
  });
}

__global__ void spin_until_set(volatile int* flag, int* out) {
  if (blockIdx.x == 0) {
    while (*flag == 0) __nanosleep(20);
    *out = *flag;
  } else {
    *flag = 9;
  }
}

TEST(a_spin_loop_that_sleeps_lets_others_run) {
  emu::config().concurrent = 2;
  emu::for_each_schedule([] {
    emu::Buffer<int> flag(std::vector<int>{0}), out(1);
    emu::launch(spin_until_set, 2, 1, 0, 1, false, flag.data(), out.data());
    CHECK(out[0] == 9);
  });
  emu::config().concurrent = 0;
}

// ---- asynchronous copies -------------------------------------------------------------------------------------------

// Two tiles in flight: while one is used the next is on its way.
__global__ void double_buffered(const float4* in, float4* out, int tiles) {
  CAMFAST_DYNAMIC_SHARED(float4, tile);
  const unsigned t = threadIdx.x, threads = blockDim.x;
  __pipeline_memcpy_async(&tile[t], &in[t], 16);
  __pipeline_commit();
  for (int k = 0; k < tiles; ++k) {
    if (k + 1 < tiles)
      __pipeline_memcpy_async(&tile[unsigned(k + 1) % 2 * threads + t], &in[unsigned(k + 1) * threads + t], 16);
    __pipeline_commit();
    __pipeline_wait_prior(1);
    __syncthreads();
    out[unsigned(k) * threads + t] = tile[unsigned(k) % 2 * threads + threads - 1 - t];
    __syncthreads();
  }
}

TEST(asynchronous_copies_arrive_when_waited_for) {
  emu::for_each_schedule([] {
    constexpr int tiles = 5, threads = 64;
    emu::Buffer<float4> in(size_t(tiles * threads)), out(size_t(tiles * threads));
    for (size_t i = 0; i < in.size(); ++i) in[i] = make_float4(float(i), 1, 2, 3);
    emu::launch(double_buffered, 1, threads, 2 * threads * sizeof(float4), 1, false, in.data(), out.data(), tiles);
    for (int i = 0; i < tiles * threads; ++i)
      CHECK(out[size_t(i)].x == float(i / threads * threads + threads - 1 - i % threads) && out[size_t(i)].w == 3);
  });
}

// ---- the host's side -----------------------------------------------------------------------------------------------

thread_local int host_value = 42;

TEST(the_callers_thread_local_variables_survive) {
  emu::Buffer<int> in(iota(64)), parts(1), total(1);
  emu::Buffer<unsigned> counter(std::vector<unsigned>{0});
  host_value = 43;
  emu::launch(last_block_sum, 1, 64, 0, 1, false, in.data(), parts.data(), counter.data(), total.data());
  CHECK(host_value == 43);
  CHECK(total[0] == 63);  // in[0] is 0
}

TEST(a_buffer_can_start_off_its_boundary) {
  const emu::Buffer<float> view(8, "view", 1), base(8, "base");
  CHECK(reinterpret_cast<uintptr_t>(base.data()) % 256 == 0);
  CHECK(reinterpret_cast<uintptr_t>(view.data()) % 256 == sizeof(float));
  CHECK(view.untouched() == 8 && view[0] != view[0]);
}

cudaError_t launch_exchange(unsigned blocks, unsigned cluster, size_t shared, int* pulled, int* pushed) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {cluster, 1, 1};
  cudaLaunchConfig_t config{};
  config.gridDim = blocks;
  config.blockDim = 64;
  config.dynamicSmemBytes = shared;
  config.attrs = &attribute;
  config.numAttrs = 1;
  return cudaLaunchKernelEx(&config, cluster_exchange, pulled, pushed);
}

TEST(launches_through_the_runtime) {
  emu::Buffer<int> pulled(32 * 64), pushed(32 * 64);
  CHECK(launch_exchange(32, 4, 256, pulled.data(), pushed.data()) == cudaSuccess);
  CHECK(pulled[0] == 64 && pushed[3 * 64] == 0 && pulled.untouched() == 0);
  CHECK(launch_exchange(0, 1, 256, pulled.data(), pushed.data()) == cudaErrorInvalidConfiguration);
  CHECK(launch_exchange(30, 4, 256, pulled.data(), pushed.data()) == cudaErrorInvalidConfiguration);
  // More than 48 KiB, and more than 8 blocks a cluster, must be asked for.
  CHECK(launch_exchange(32, 4, 50000, pulled.data(), pushed.data()) == cudaErrorInvalidValue);
  CHECK(launch_exchange(32, 16, 256, pulled.data(), pushed.data()) == cudaErrorInvalidConfiguration);
  CHECK(cudaFuncSetAttribute(cluster_exchange, cudaFuncAttributeMaxDynamicSharedMemorySize, 50000) == cudaSuccess);
  CHECK(cudaFuncSetAttribute(cluster_exchange, cudaFuncAttributeNonPortableClusterSizeAllowed, 1) == cudaSuccess);
  CHECK(launch_exchange(32, 16, 50000, pulled.data(), pushed.data()) == cudaSuccess);
  CHECK(pulled[15 * 64] == 0 && pulled[16 * 64] == 17 * 64);
}

}  // namespace

// Without arguments runs all tests; with a name runs that one. Exits with 1 when a check failed or no test ran.
int main(int count, char** arguments) {
  int ran = 0;
  for (const Test& test : tests()) {
    if (count > 1 && std::string(arguments[1]) != test.name) continue;
    const int before = failed_checks;
    try {
      test.body();
    } catch (const emu::Error& error) {
      ++failed_checks;
      printf("  %s\n", error.what());
    }
    printf("%s %s\n", failed_checks == before ? "ok  " : "FAIL", test.name);
    ++ran;
  }
  return failed_checks != 0 || ran == 0;
}

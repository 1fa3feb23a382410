// Kernels with faults: the emulator must find each of them, and say where.
#include "check.h"
#include "portable.cuh"

namespace group = camfast::group;

namespace {

constexpr unsigned kAll = 0xFFFFFFFFu;

// ---- missing barriers ----------------------------------------------------------------------------------------------

template <bool kBarrier>
__global__ void reverse_tile(const int* in, int* out) {
  __shared__ int tile[128];
  const unsigned i = blockIdx.x * 128 + threadIdx.x;
  tile[threadIdx.x] = in[i];
  if (kBarrier) __syncthreads();
  out[i] = tile[127 - threadIdx.x];
}

// How many schedules gave wrong results.
template <class Run>
int wrong_schedules(Run run) {
  int wrong = 0;
  emu::for_each_schedule([&] { wrong += !run(); });
  return wrong;
}

template <bool kBarrier>
int wrong_reversals() {
  return wrong_schedules([] {
    emu::Buffer<int> in(256), out(256);
    for (int i = 0; i < 256; ++i) in[size_t(i)] = i;
    emu::launch(reverse_tile<kBarrier>, 2, 128, 0, 1, false, in.data(), out.data());
    bool right = true;
    for (int i = 0; i < 256; ++i) right &= out[size_t(i)] == i / 128 * 128 + 127 - i % 128;
    return right;
  });
}

TEST(a_missing_syncthreads_shows) {
  CHECK(wrong_reversals<true>() == 0);
  CHECK(wrong_reversals<false>() == 6);  // half of the tile is read too early, whatever the order
}

// One-sided: only the first thread is read, so the forward order hides the fault and the others reveal it.
__global__ void broadcast_without_barrier(int* out) {
  __shared__ int value;
  if (threadIdx.x == 0) value = 5;
  out[threadIdx.x] = value;
}

TEST(other_orders_show_what_one_order_hides) {
  const int wrong = wrong_schedules([] {
    emu::Buffer<int> out(64);
    emu::launch(broadcast_without_barrier, 1, 64, 0, 1, false, out.data());
    return std::count(out.data(), out.data() + 64, 5) == 64;
  });
  CHECK(wrong >= 1 && wrong <= 5);
}

// Peers read a block's memory; kWait keeps the block alive until they have.
template <bool kWait>
__global__ void read_neighbour(float* out) {
  CAMFAST_DYNAMIC_SHARED(float, mine);
  const unsigned rank = group::cluster_rank(), next = (rank + 1) % group::cluster_size();
  mine[threadIdx.x] = float(rank);
  group::cluster_sync();
  const float* peer = group::cluster_peer(mine, next);
  float sum = 0;
  for (unsigned i = 0; i < blockDim.x; ++i) {
    __syncwarp();
    sum += peer[i];
  }
  out[blockIdx.x * blockDim.x + threadIdx.x] = sum;
  if (kWait) group::cluster_sync();
}

template <bool kWait>
int wrong_neighbours() {
  return wrong_schedules([] {
    emu::Buffer<float> out(4 * 32);
    emu::launch(read_neighbour<kWait>, 4, 32, 32 * sizeof(float), 4, false, out.data());
    bool right = true;
    for (int i = 0; i < 4 * 32; ++i) right &= out[size_t(i)] == float((i / 32 + 1) % 4 * 32);
    return right;
  });
}

TEST(a_block_that_ends_while_peers_read_it_shows) {
  CHECK(wrong_neighbours<true>() == 0);
  CHECK(wrong_neighbours<false>() > 0);
}

// Writes into a peer before that block has surely started.
__global__ void push_too_early(int* out) {
  __shared__ int inbox;
  *group::cluster_peer(&inbox, 1 - group::cluster_rank()) = 3;
  group::cluster_sync();
  out[blockIdx.x] = inbox;
}

TEST(a_write_into_a_block_that_has_not_started_is_lost) {
  emu::Buffer<int> out(2);
  emu::launch(push_too_early, 2, 1, 0, 2, false, out.data());
  CHECK(out[0] == 3 && out[1] == -1);
}

template <bool kWait>
__global__ void copy_tile(const int* in, int* out) {
  __shared__ int tile[32];
  __pipeline_memcpy_async(&tile[threadIdx.x], &in[threadIdx.x], 4);
  __pipeline_commit();
  if (kWait) __pipeline_wait_prior(0);
  __syncthreads();
  out[threadIdx.x] = tile[31 - threadIdx.x];
}

TEST(a_missing_wait_for_a_copy_shows) {
  emu::Buffer<int> in(std::vector<int>(32, 8)), out(32);
  emu::launch(copy_tile<true>, 1, 32, 0, 1, false, in.data(), out.data());
  CHECK(out[0] == 8 && out.untouched() == 0);
  emu::launch(copy_tile<false>, 1, 32, 0, 1, false, in.data(), out.data());
  CHECK(out[0] == -1 && out.untouched() == 32);
}

// ---- divergence ----------------------------------------------------------------------------------------------------

__global__ void early_exit() {
  if (threadIdx.x >= 48) return;
  __syncthreads();
}

__global__ void two_barriers() {
  if (threadIdx.x < 32)
    __syncthreads();
  else
    __syncthreads();
}

__global__ void block_against_cluster() {
  if (threadIdx.x == 0)
    group::cluster_sync();
  else
    __syncthreads();
}

__global__ void half_a_warp(int* out) {
  if (threadIdx.x < 16) out[threadIdx.x] = __shfl_sync(kAll, 1, 0);
}

__global__ void two_shuffles(int* out) {
  out[threadIdx.x] = threadIdx.x < 16 ? __shfl_sync(kAll, 1, 0) : __shfl_xor_sync(kAll, 1, 1);
}

__global__ void two_masks() { __syncwarp(threadIdx.x < 31 ? kAll : 0xF0000000u); }
__global__ void outside_mask() { __syncwarp(0x0000FFFFu); }
__global__ void one_block_waits() {
  if (blockIdx.x == 2) group::grid_sync();
}

TEST(divergence_is_named) {
  emu::Buffer<int> out(32);
  emu::for_each_schedule([&] {
    EXPECT_ERROR(emu::launch(early_exit, 3, 64, 0, 1, false), "deadlock", "and 47 more waits at __syncthreads",
                 "fault_test.cpp:", "and 15 more ended");
    EXPECT_ERROR(emu::launch(two_barriers, 1, 64, 0, 1, false), "divergence", "block (0,0,0) thread (",
                 "reached __syncthreads (fault_test.cpp:", "while others wait at __syncthreads (fault_test.cpp:");
    EXPECT_ERROR(emu::launch(block_against_cluster, 2, 8, 0, 2, false), "deadlock",
                 "block (1,0,0) thread (0,0,0) waits at cluster_sync", "and 6 more waits at __syncthreads");
    EXPECT_ERROR(emu::launch(half_a_warp, 1, 32, 0, 1, false, out.data()), "deadlock",
                 "and 15 more waits at __shfl_sync", "thread (16,0,0) and 15 more ended");
    EXPECT_ERROR(emu::launch(two_shuffles, 1, 32, 0, 1, false, out.data()), "divergence in a warp", "__shfl_xor_sync");
    EXPECT_ERROR(emu::launch(two_masks, 1, 32, 0, 1, false), "divergence in a warp", "mask 0xf0000000");
    EXPECT_ERROR(emu::launch(outside_mask, 1, 32, 0, 1, false), "is not in its own mask 0x0000ffff");
    EXPECT_ERROR(emu::launch(one_block_waits, 4, 2, 0, 1, true), "deadlock",
                 "block (2,0,0) thread (0,0,0) and 1 more waits at grid_sync");
  });
}

__global__ void wait_for_nobody(volatile int* flag) {
  while (*flag == 0) __nanosleep(20);
}

TEST(a_wait_without_end_is_ended) {
  emu::Buffer<int> flag(std::vector<int>{0});
  EXPECT_ERROR(emu::launch(wait_for_nobody, 2, 3, 0, 1, false, flag.data()), "livelock", "fault_test.cpp:");
}

__global__ void read_missing_lane(float* out) { out[threadIdx.x] = __shfl_down_sync(kAll, 1.0f, 4); }

TEST(a_lane_that_does_not_exist_gives_nan) {
  emu::Buffer<float> out(40);
  emu::launch(read_missing_lane, 1, 40, 0, 1, false, out.data());
  CHECK(out[0] == 1 && out[31] == 1 && out[35] == 1 && isnan(out[36]) && isnan(out[39]));
}

// ---- memory --------------------------------------------------------------------------------------------------------

__global__ void store(int* out, int index) { out[index] = 1; }
__global__ void store_shared(int index) {
  CAMFAST_DYNAMIC_SHARED(unsigned char, tile);
  tile[index] = 1;
}
__global__ void load_vector(const float* in, float* out) {
  *out = __ldg(reinterpret_cast<const float4*>(in)).x;
}

#if !defined(__SANITIZE_ADDRESS__)  // which stops at the access itself: see overrun_for_sanitizer
TEST(out_of_bounds_writes_are_found) {
  emu::Buffer<int> out(10, "output");
  emu::launch(store, 1, 1, 0, 1, false, out.data(), 9);
  for (const int index : {10, -1, 40, -30}) {
    emu::Buffer<int> overrun(10, "overrun");
    EXPECT_ERROR(emu::launch(store, 1, 1, 0, 1, false, overrun.data(), index), "out-of-bounds write", "'overrun'",
                 ("byte " + std::to_string(index * 4)).c_str());
  }
  emu::launch(store_shared, 1, 1, 100, 1, false, 99);
  EXPECT_ERROR(emu::launch(store_shared, 4, 1, 100, 1, false, 100), "out-of-bounds write", "block (0,0,0)",
               "100 bytes of dynamic shared memory at byte 100");
  EXPECT_ERROR(emu::launch(store_shared, 4, 1, 0, 1, false, -1), "0 bytes of dynamic shared memory at byte -1");
}

TEST(out_of_bounds_reads_give_nan) {
  const emu::Buffer<float> values(std::vector<float>{1, 2, 3});
  volatile int behind = 3, before = -1;
  CHECK(isnan(values.data()[behind]) && isnan(values.data()[before]));
}
#endif

TEST(overrun_for_sanitizer) {
#if defined(__SANITIZE_ADDRESS__)
  const char* where = getenv("CAMFAST_EMULATOR_OVERRUN");  // the caller expects the sanitizer to stop the program
  emu::Buffer<int> out(10);
  if (where && std::string(where) == "global") emu::launch(store, 1, 1, 0, 1, false, out.data(), 10);
  if (where && std::string(where) == "shared") emu::launch(store_shared, 1, 1, 100, 1, false, 100);
#endif
}

TEST(misaligned_vectors_are_found) {
  emu::Buffer<float> in(8), out(1);
  in[4] = 6;
  emu::launch(load_vector, 1, 1, 0, 1, false, in.data() + 4, out.data());
  CHECK(out[0] == 6);
  EXPECT_ERROR(emu::launch(load_vector, 1, 1, 0, 1, false, in.data() + 1, out.data()), "__ldg (fault_test.cpp:",
               "misaligned address for 16 bytes", "block (0,0,0) thread (0,0,0)");
}

__global__ void write_even(int* out) {
  if (threadIdx.x % 2 == 0) out[threadIdx.x] = 0;
}

TEST(unwritten_outputs_are_counted) {
  emu::Buffer<int> out(64);
  emu::launch(write_even, 1, 64, 0, 1, false, out.data());
  CHECK(out.untouched() == 32);
}

__global__ void read_uninitialised(float* out) {
  CAMFAST_DYNAMIC_SHARED(float, dynamic);
  __shared__ float fixed[2];
  out[blockIdx.x * 2] = dynamic[0];
  out[blockIdx.x * 2 + 1] = fixed[1];
  dynamic[0] = fixed[1] = 1;  // the next block must not see this
}

TEST(shared_memory_starts_as_nan_in_every_block) {
  emu::for_each_schedule([] {
    emu::Buffer<float> out(std::vector<float>(12, 0.0f));
    emu::launch(read_uninitialised, 6, 1, 4, 1, false, out.data());
    for (const float v : out.values()) CHECK(isnan(v));
  });
}

// ---- launches ------------------------------------------------------------------------------------------------------

__global__ void nothing() {}
__global__ void sync_grid() { group::grid_sync(); }
__global__ void trap_in(unsigned block) {
  if (blockIdx.x == block) __trap();
}
__global__ void peer_of_global(int* pointer) { group::cluster_peer(pointer, 0); }
__global__ void peer_out_of_range() {
  __shared__ int value;
  group::cluster_peer(&value, 2);
}

TEST(impossible_launches_are_refused) {
  EXPECT_ERROR(emu::launch(nothing, 0, 32, 0, 1, false), "grid out of range");
  EXPECT_ERROR(emu::launch(nothing, dim3(1, 70000), 32, 0, 1, false), "grid out of range");
  EXPECT_ERROR(emu::launch(nothing, 1, 1025, 0, 1, false), "1 to 1024 threads");
  EXPECT_ERROR(emu::launch(nothing, 1, 0, 0, 1, false), "1 to 1024 threads");
  EXPECT_ERROR(emu::launch(nothing, 1, 32, 228 * 1024, 1, false), "227 KiB");
  EXPECT_ERROR(emu::launch(nothing, 6, 32, 0, 4, false), "multiple of the cluster size");
  EXPECT_ERROR(emu::launch(nothing, 32, 32, 0, 32, false), "1 to 16 blocks");
  EXPECT_ERROR(emu::launch(sync_grid, 2, 32, 0, 1, false), "grid_sync needs a cooperative launch");
  EXPECT_ERROR(emu::launch(peer_out_of_range, 2, 1, 0, 2, false), "rank 2 of 2 blocks");
  emu::Buffer<int> global(1);
  EXPECT_ERROR(emu::launch(peer_of_global, 2, 1, 16, 2, false, global.data()), "not in this block's shared memory");
}

TEST(a_failed_launch_leaves_the_emulator_usable) {
  EXPECT_ERROR(emu::launch(trap_in, 9, 64, 0, 1, false, 5u), "__trap (fault_test.cpp:", "block (5,0,0)");
  CHECK(wrong_reversals<true>() == 0);
}

}  // namespace

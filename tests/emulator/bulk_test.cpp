// Bulk copies and their barriers: right use under every schedule, and the faults that must show.
#include "check.h"
#include "cuda_runtime_api.h"
#include "async_copy.cuh"

namespace group = camfast::group;

namespace {

enum class Fault { none, no_wait, wrong_parity, no_barrier, few_bytes, many_bytes, misaligned, not_started, left_behind };

constexpr int kTile = 64, kTiles = 7, kThreads = 64;

// Tile by tile, in reverse, through two stages: while one is used the next is on its way.
template <Fault fault>
__global__ void two_stages(const int* in, int* out) {
  __shared__ float4 memory[2][kTile / 4];
  int* tiles[] = {reinterpret_cast<int*>(memory[0]), reinterpret_cast<int*>(memory[1])};
  __shared__ group::CopyBarrier barriers[2];
  const int t = int(threadIdx.x);
  if (t == 0 && fault != Fault::not_started) {
    group::start_barrier(&barriers[0]);
    group::start_barrier(&barriers[1]);
    group::copy_fence();
  }
  __syncthreads();
  const auto fill = [&](int k) {
    constexpr unsigned bytes = kTile * sizeof(int);
    const unsigned expected = fault == Fault::few_bytes ? bytes + 16 : fault == Fault::many_bytes ? bytes - 16 : bytes;
    group::expect_bytes(&barriers[k % 2], expected);
    group::bulk_copy(tiles[k % 2], in + k * kTile + (fault == Fault::misaligned), bytes, &barriers[k % 2]);
  };
  if (t == 0) fill(0);
  for (int k = 0; k < kTiles; ++k) {
    if (t == 0 && k + 1 < kTiles) fill(k + 1);
    const unsigned parity = unsigned(k / 2 % 2);
    if (fault != Fault::no_wait) group::wait_for_phase(&barriers[k % 2], fault == Fault::wrong_parity ? parity ^ 1 : parity);
    out[k * kTile + t] = tiles[k % 2][kTile - 1 - t];
    if (fault != Fault::no_barrier) __syncthreads();
  }
  if (t == 0 && fault == Fault::left_behind) fill(1);
}

// Under how many schedules the result is wrong.
template <Fault fault>
int wrong_schedules() {
  int wrong = 0;
  emu::for_each_schedule([&] {
    emu::Buffer<int> in(size_t(kTile * kTiles)), out(in.size());
    for (size_t i = 0; i < in.size(); ++i) in[i] = int(i);
    emu::launch(two_stages<fault>, 1, kThreads, 0, 1, false, in.data(), out.data());
    bool right = true;
    for (int i = 0; i < kTile * kTiles; ++i) right &= out[size_t(i)] == i / kTile * kTile + kTile - 1 - i % kTile;
    wrong += !right;
  });
  return wrong;
}

TEST(bulk_copies_arrive_when_waited_for) { CHECK(wrong_schedules<Fault::none>() == 0); }

TEST(a_missing_wait_before_the_next_phase_shows) {
  EXPECT_ERROR(wrong_schedules<Fault::no_wait>(), "expect_bytes", "the phase before has not been waited for");
}

TEST(a_wait_for_the_wrong_phase_shows) {
  EXPECT_ERROR(wrong_schedules<Fault::wrong_parity>(), "the phase before has not been waited for");
}

TEST(memory_filled_while_in_use_shows) {
  int faults = 0;
  try {
    faults = wrong_schedules<Fault::no_barrier>();
  } catch (const emu::Error&) {
    faults = 1;
  }
  CHECK(faults > 0);
}

TEST(bytes_that_never_come_show) { EXPECT_ERROR(wrong_schedules<Fault::few_bytes>(), "livelock", "bulk_test.cpp"); }

TEST(more_bytes_than_expected_show) { EXPECT_ERROR(wrong_schedules<Fault::many_bytes>(), "256 bytes were copied, 240 expected"); }

TEST(misaligned_bulk_copies_show) { EXPECT_ERROR(wrong_schedules<Fault::misaligned>(), "bulk_copy", "multiples of 16 bytes"); }

TEST(a_barrier_must_be_started) { EXPECT_ERROR(wrong_schedules<Fault::not_started>(), "expect_bytes", "not started"); }

TEST(a_block_must_not_end_before_its_copies) { EXPECT_ERROR(wrong_schedules<Fault::left_behind>(), "ended while a bulk copy"); }

__global__ void copy_all(const int* in, unsigned bytes, int* out, bool waits) {
  __shared__ float4 tile[kTile / 4];
  __shared__ group::CopyBarrier barrier;
  group::start_barrier(&barrier);
  group::expect_bytes(&barrier, bytes);
  group::bulk_copy(tile, in, bytes, &barrier);
  if (waits) group::wait_for_phase(&barrier, 0);
  memcpy(out, tile, sizeof *out);
  group::wait_for_phase(&barrier, 0);
}

TEST(a_missing_wait_for_a_phase_shows) {
  emu::Buffer<int> in(std::vector<int>(32, 8)), out(1);
  emu::launch(copy_all, 1, 1, 0, 1, false, in.data(), 128u, out.data(), true);
  CHECK(out[0] == 8);
  emu::launch(copy_all, 1, 1, 0, 1, false, in.data(), 128u, out.data(), false);
  CHECK(out[0] == -1);
}

TEST(a_copy_that_reads_beyond_its_buffer_shows) {
  emu::Buffer<int> in(30), out(1);
  emu::launch(copy_all, 1, 1, 0, 1, false, in.data(), 112u, out.data(), true);
  EXPECT_ERROR(emu::launch(copy_all, 1, 1, 0, 1, false, in.data(), 128u, out.data(), true), "bulk_copy", "reads beyond its buffer");
  EXPECT_ERROR(emu::launch(copy_all, 1, 1, 0, 1, false, in.data() - 4, 64u, out.data(), true), "reads beyond its buffer");
}

}  // namespace

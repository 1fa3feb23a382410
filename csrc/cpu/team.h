// One parallel region for work in two stages.
//
//   stage 1: `items` independent pieces, claimed one at a time
//   stage 2: `rows` rows, claimed in runs; may use everything stage 1 wrote
//
// A second parallel region would cost about as much as the work of a single small map. Here whoever is done with stage 1
// waits for the others, but only for a while: the thread that finishes the last item never waits, so the rows are always
// done by somebody, whatever the scheduler does (fewer threads than asked for, nested regions, a busy machine).
#pragma once

#include <torch/csrc/stable/ops.h>

#include <algorithm>
#include <atomic>
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace camfast {

// What ThreadSanitizer cannot see, since OpenMP's library is not instrumented: that all members of a team come after its
// fork, and that what follows the team comes after its join. It is told of these two alone, so that races within a team,
// and between the two stages, are reported as ever. Nothing in ordinary builds.
#if defined(__SANITIZE_THREAD__)
inline void comes_before(const char& point) { __tsan_release(const_cast<char*>(&point)); }
inline void comes_after(const char& point) { __tsan_acquire(const_cast<char*>(&point)); }
#else
inline void comes_before(const char&) {}
inline void comes_after(const char&) {}
#endif

template <class Member>
struct Team {
  const Member& member;
  char fork = 0, join = 0; // their addresses count

  void operator()(int64_t begin, int64_t end) const {
    comes_after(fork);
    member(begin, end);
    comes_before(join);
  }
};

inline void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

template <class Stage1, class Stage2>
void run_team(int64_t threads, int64_t items, int64_t rows, int64_t rows_a_claim, const Stage1& stage1, const Stage2& stage2) {
  std::atomic<int64_t> next_item{0}, items_done{0}, next_row{0};
  const auto member = [&](int64_t, int64_t) {
    int64_t done = 0;
    for (int64_t i; (i = next_item.fetch_add(1, std::memory_order_relaxed)) < items;) {
      stage1(i);
      done = items_done.fetch_add(1, std::memory_order_acq_rel) + 1;
    }
    if (rows == 0) return;
    constexpr int kPatience = 20000; // spins of some 40 ns: far more than a small stage 1, far less than a stall
    for (int spin = 0; done < items; ++spin) {
      if (spin == kPatience) return;
      relax();
      done = items_done.load(std::memory_order_acquire);
    }
    for (int64_t row; (row = next_row.fetch_add(rows_a_claim, std::memory_order_relaxed)) < rows;) {
      stage2(row, std::min(row + rows_a_claim, rows));
    }
  };
  if (threads <= 1) {
    member(0, 1);
  } else {
    const Team<decltype(member)> team{member};
    comes_before(team.fork);
    torch::stable::parallel_for(0, threads, 1, team);
    comes_after(team.join);
  }
}

} // namespace camfast

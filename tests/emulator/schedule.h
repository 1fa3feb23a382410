// The order in which ready fibers run: the emulator's only freedom, and a test's means to provoke races.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <vector>

#include "fibers.h"

namespace emu {

enum class Order { forward, reverse, random };

struct Config {
  Order order = Order::forward;
  uint64_t seed = 0;        // of Order::random
  unsigned concurrent = 0;  // clusters that live at once; 0: one, or one to three under the random order
};
inline Config& config() {
  static Config value;
  return value;
}

// Calls body under every order of threads and blocks: forward, reverse, and `seeds` random ones.
template <class Body>
void for_each_schedule(Body&& body, unsigned seeds = 4) {
  struct Restore {
    Config saved = config();
    ~Restore() { config() = saved; }
  } restore;
  config() = {Order::forward, 0, restore.saved.concurrent};
  body();
  config().order = Order::reverse;
  body();
  config().order = Order::random;
  for (config().seed = 1; config().seed <= seeds; ++config().seed) body();
}

class Schedule {
 public:
  // Starts the random numbers of config().seed.
  void seed() { random_ = config().seed * 0x9E3779B97F4A7C15u + 1; }

  // Groups of blocks in the order in which they become alive, and how many of them at once.
  std::vector<size_t> groups(size_t count) {
    std::vector<size_t> order(count);
    std::iota(order.begin(), order.end(), size_t(0));
    if (config().order == Order::reverse) std::reverse(order.begin(), order.end());
    if (config().order == Order::random)
      for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random(i)]);
    return order;
  }
  size_t concurrent() {
    return config().concurrent ? config().concurrent : config().order == Order::random ? 1 + random(3) : 1;
  }

  // Forgets what was ready; `blocks` live from now on.
  void clear(size_t blocks) {
    queue_.clear();
    pools_.assign(blocks, {});
    open_.clear();
    block_ = 0;
  }
  bool empty() const { return queue_.empty() && open_.empty(); }

  void start(Fiber* fiber) {
    if (config().order == Order::random)
      add(fiber);
    else
      config().order == Order::reverse ? queue_.push_front(fiber) : queue_.push_back(fiber);
  }

  // `at(i)` for i < count: fibers that a barrier sets free. In the fixed orders they run before those still in the
  // queue: warp after warp, which is kind to the caches.
  template <class At>
  void release(size_t count, At at) {
    for (size_t i = 0; i < count; ++i) {
      if (config().order == Order::random)
        add(at(i));
      else
        queue_.push_front(at(config().order == Order::reverse ? i : count - 1 - i));
    }
  }

  void postpone(Fiber* fiber) {
    if (config().order == Order::random)
      add(fiber);
    else
      queue_.push_back(fiber);
  }

  Fiber* next() {
    if (config().order == Order::random) return draw();
    Fiber* fiber = queue_.front();
    queue_.pop_front();
    return fiber;
  }

  // Where hardware may interleave (atomics, fences), the random order sometimes does.
  bool wants_preemption() { return config().order == Order::random && random(4) == 0; }

 private:
  uint64_t random(uint64_t bound) {  // xorshift*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return (random_ * 0x2545F4914F6CDD1Du >> 32) % bound;
  }

  void add(Fiber* fiber) {
    auto& pool = pools_[fiber->block->ordinal];
    if (pool.empty()) open_.push_back(fiber->block->ordinal);
    pool.push_back(fiber);
  }
  // Any thread of the block that ran last, and now and then of another: changing blocks costs a look at all statics.
  Fiber* draw() {
    if (pools_[block_].empty() || random(64) == 0) block_ = open_[random(open_.size())];
    auto& pool = pools_[block_];
    std::swap(pool[random(pool.size())], pool.back());
    Fiber* fiber = pool.back();
    pool.pop_back();
    if (pool.empty()) open_.erase(std::find(open_.begin(), open_.end(), block_));
    return fiber;
  }

  std::deque<Fiber*> queue_;                // the fixed orders
  std::vector<std::vector<Fiber*>> pools_;  // the random order: ready fibers by block,
  std::vector<size_t> open_;                // the blocks that have some,
  size_t block_ = 0;                        // and the one drawn from last
  uint64_t random_ = 1;
};

}  // namespace emu

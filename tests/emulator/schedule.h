// The order in which ready fibers run: the emulator's only freedom, and a test's means to provoke races.
#pragma once

#include <stdint.h>

#include <algorithm>
#include <deque>
#include <numeric>
#include <vector>

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

struct Fiber;

class Schedule {
 public:
  // Forgets what was ready and starts the random numbers of config().seed.
  void reset() {
    ready_.clear();
    random_ = config().seed * 0x9E3779B97F4A7C15u + 1;
  }

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

  bool empty() const { return ready_.empty(); }
  void discard() { ready_.clear(); }

  void start(Fiber* fiber) {
    config().order == Order::reverse ? ready_.push_front(fiber) : ready_.push_back(fiber);
  }
  // `at(i)` for i < count: fibers that a barrier sets free. They run before those still in the queue: warp after warp,
  // which is kind to the caches.
  template <class At>
  void release(size_t count, At at) {
    const bool reverse = config().order == Order::reverse;
    for (size_t i = 0; i < count; ++i) ready_.push_front(at(reverse ? i : count - 1 - i));
  }
  void postpone(Fiber* fiber) { ready_.push_back(fiber); }

  Fiber* next() {
    if (config().order == Order::random) {
      // Mostly one of those released last, who tend to be of one block: a change of blocks copies all its statics.
      const size_t window = random(8) == 0 ? ready_.size() : std::min(ready_.size(), size_t(64));
      std::swap(ready_.front(), ready_[random(window)]);
    }
    Fiber* fiber = ready_.front();
    ready_.pop_front();
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

  std::deque<Fiber*> ready_;
  uint64_t random_ = 1;
};

}  // namespace emu

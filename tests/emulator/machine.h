// The machine below the intrinsics: fibers, barriers, warps, the schedule. See cuda_emulator.h for the picture.
#pragma once

#include <stdio.h>

#include <functional>
#include <type_traits>

#include "fibers.h"
#include "guarded_memory.h"
#include "schedule.h"

// The built-in variables always hold the running fiber's values.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace emu {

class Machine {
 public:
  static constexpr size_t max_pauses = 1000000;

  Fiber* current = &host_;

  void run_grid(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster_size,
                bool cooperative) {
    if (current != &host_) fail("a launch from inside a kernel is not supported");
    const size_t blocks = size_t(grid.x) * grid.y * grid.z, threads = size_t(block.x) * block.y * block.z;
    require(blocks > 0 && grid.x <= 2147483647u && grid.y <= 65535 && grid.z <= 65535, "grid out of range");
    require(threads > 0 && threads <= 1024 && block.z <= 64, "expected 1 to 1024 threads a block (z up to 64)");
    require(shared_bytes <= 227 * 1024, "expected at most 227 KiB of shared memory a block");
    require(cluster_size >= 1 && cluster_size <= 16, "expected clusters of 1 to 16 blocks");
    require(grid.x % cluster_size == 0, "grid.x must be a multiple of the cluster size");
    body_ = &body;
    gridDim = grid;
    blockDim = block;
    cooperative_ = cooperative;
    cluster_size_ = cluster_size;
    shared_bytes_ = shared_bytes;
    schedule_.seed();
    const Statics::Loan loan(statics_);

    const size_t group = cooperative ? blocks : cluster_size;
    const std::vector<size_t> order = schedule_.groups(blocks / group);
    for (size_t next = 0; next < order.size();) {
      const size_t at_once = std::min(schedule_.concurrent(), order.size() - next);
      std::vector<size_t> wave;
      for (size_t i = 0; i < at_once; ++i)
        for (size_t b = 0; b < group; ++b) wave.push_back(order[next + i] * group + b);
      next += at_once;
      run_wave(wave, threads);
    }
    for (const Watched& w : watched())
      if (const auto at = w.memory->damage())
        throw Error("out-of-bounds write: '" + w.name + "' of " + std::to_string(w.memory->bytes()) +
                    " bytes was overrun at byte " + std::to_string(*at));
  }

  // Runs another ready fiber; returns when this one has been made ready again and its turn has come.
  void suspend() {
    if (schedule_.empty()) explain_deadlock();
    Fiber* next = schedule_.next();
    if (next != current) switch_to(next);
  }

  // Lets others go first.
  void yield() {
    schedule_.postpone(current);
    suspend();
  }
  // A spin loop's pause. Counts the pauses since a barrier opened or a thread ended, to end a wait that cannot.
  void pause(Site site) {
    if (++pauses_ > max_pauses) fail("livelock: nothing but pauses", site, " for ", max_pauses, " turns");
    yield();
  }
  void preempt() {
    if (schedule_.wants_preemption()) yield();
  }

  int arrive(Barrier& barrier, const char* op, Site site, bool vote = false) {
    if (barrier.arrived && !(barrier.site == site && barrier.op == op))
      fail("divergence: ", *current, " reached ", op, site, " while others wait at ", barrier.op, barrier.site);
    barrier.op = current->op = op;
    barrier.site = current->site = site;
    barrier.votes += vote;
    if (++barrier.arrived == barrier.count) {
      barrier.result = barrier.votes;
      barrier.votes = 0;
      barrier.arrived = 0;
      pauses_ = 0;
      schedule_.release(barrier.count, [&](size_t i) { return barrier.first + i; });
    }
    suspend();
    return barrier.result;
  }

  Barrier& grid_barrier() {
    if (!cooperative_) fail("grid_sync needs a cooperative launch");
    return grid_;
  }

  // All lanes of `mask` meet. Each gives a value and gets the value of lane `source`, or with source < 0 the ballot.
  uint64_t meet(const char* op, unsigned mask, uint64_t value, int source, Site site) {
    Fiber& self = *current;
    Warp& warp = *self.warp;
    if (!(mask >> self.lane & 1)) fail(op, site, ": ", self, " is not in its own mask ", Hex{mask});
    mask &= warp.exists;
    self.op = op;
    self.site = site;
    self.mask = mask;
    self.value = value;
    self.source = source;
    warp.waiting |= 1u << self.lane;
    if ((warp.waiting & mask) == mask) complete(warp, self);
    suspend();
    return self.result;
  }

  unsigned char* dynamic_shared() const { return current->block->dynamic->begin(); }
  unsigned rank() const { return unsigned(current->block - current->block->cluster->first); }

  // The counterpart of a shared-memory address in another block of the cluster.
  void* peer(const void* shared, unsigned rank) {
    Block& own = *current->block;
    if (rank >= own.cluster->size) fail("cluster_peer: rank ", rank, " of ", own.cluster->size, " blocks");
    Block& other = own.cluster->first[rank];
    auto* address = static_cast<const unsigned char*>(shared);
    const size_t offset = size_t(address - own.dynamic->begin());
    if (offset < shared_bytes_) return other.dynamic->begin() + offset;
    if (void* counterpart = statics_.find(shared, other.statics)) return counterpart;
    fail("cluster_peer: the address is not in this block's shared memory");
  }

  // Joins the parts in place: nobody unwinds an abandoned fiber, so its frames must not own strings.
  template <class... Parts>
  [[noreturn]] void fail(const Parts&... parts) {
    failure_.clear();
    (add(parts), ...);
    if (current == &host_) throw Error(failure_);
    if (failure_.find("block (") == std::string::npos) add("; in "), add(*current);
    switch_to(&host_);
    abort();  // never reached: nobody resumes a failed wave
  }

 private:
  static void require(bool condition, const char* message) {
    if (!condition) throw Error(std::string("launch: ") + message);
  }

  struct Hex {
    unsigned value;
  };
  void add(const char* text) { failure_ += text; }
  void add(const Fiber& f) { add("block "), add(f.block->index), add(" thread "), add(f.thread); }
  void add(uint3 v) { add("("), add(v.x), add(","), add(v.y), add(","), add(v.z), add(")"); }
  void add(Hex mask) {
    char buffer[16];
    snprintf(buffer, sizeof buffer, "0x%08x", mask.value);
    add(buffer);
  }
  void add(Site site) {
    const char* slash = strrchr(site.file, '/');
    add(" ("), add(slash ? slash + 1 : site.file), add(":"), add(site.line), add(")");
  }
  template <class Number>
  std::enable_if_t<std::is_arithmetic_v<Number>> add(Number v) {
    failure_ += std::to_string(v);
  }

  void run_wave(const std::vector<size_t>& indices, size_t threads) {
    const size_t count = indices.size() * threads, warps = (threads + 31) / 32;
    statics_.detach();
    stacks_.reserve(count);
    schedule_.clear(indices.size());
    failure_.clear();
    blocks_.resize(std::max(blocks_.size(), indices.size()));
    clusters_.assign(indices.size() / cluster_size_, {});
    if (fibers_.size() < count) fibers_.resize(count);
    grid_ = {fibers_.data(), count};
    live_ = count;
    pauses_ = 0;
    for (size_t b = 0; b < indices.size(); ++b) {
      Block& block = blocks_[b];
      Cluster& cluster = clusters_[b / cluster_size_];
      if (b % cluster_size_ == 0) {
        cluster.barrier = {&fibers_[b * threads], threads * cluster_size_};
        cluster.first = &block;
        cluster.size = cluster_size_;
      }
      block.index = {unsigned(indices[b] % gridDim.x), unsigned(indices[b] / gridDim.x % gridDim.y),
                     unsigned(indices[b] / gridDim.x / gridDim.y)};
      block.ordinal = b;
      block.cluster = &cluster;
      block.barrier = {&fibers_[b * threads], threads};
      block.live = threads;
      block.started = false;
      block.warps.assign(warps, {});
      block.copy_barriers.clear();
      if (!block.dynamic || block.dynamic->bytes() != shared_bytes_) block.dynamic.reset(new Guarded(shared_bytes_));
      if (indices.size() > 1) statics_.prepare(block.statics);
      for (size_t t = 0; t < threads; ++t) {
        Fiber& fiber = fibers_[b * threads + t];
        Warp& warp = block.warps[t / 32];
        if (t % 32 == 0) warp.lanes = &fiber;
        warp.exists |= 1u << t % 32;
        fiber.block = &block;
        fiber.warp = &warp;
        fiber.lane = unsigned(t % 32);
        fiber.thread = {unsigned(t % blockDim.x), unsigned(t / blockDim.x % blockDim.y),
                        unsigned(t / blockDim.x / blockDim.y)};
        fiber.done = false;
        fiber.op = nullptr;
        fiber.copies.clear();
        fiber.batch = 0;
        stacks_.prepare(fiber, b * threads + t, &Machine::entry);
        schedule_.start(&fiber);
      }
    }
    suspend();  // until the last fiber ends, or one fails
    if (!failure_.empty()) throw Error(failure_);
  }

  void complete(Warp& warp, const Fiber& last) {
    Fiber* met[32];
    unsigned count = 0, ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(last.mask >> lane & 1)) continue;
      Fiber& f = warp.lanes[lane];
      if (f.mask != last.mask || strcmp(f.op, last.op) || !(f.site == last.site))
        fail("divergence in a warp: ", last, " reached ", last.op, last.site, " with mask ", Hex{last.mask}, " while ",
             f, " waits at ", f.op, f.site, " with mask ", Hex{f.mask});
      met[count++] = &f;
      ballot |= unsigned(f.value != 0) << lane;
    }
    for (unsigned i = 0; i < count; ++i) {
      const int source = met[i]->source;
      // A lane outside the mask has no defined value: poison.
      met[i]->result = source < 0 ? ballot : last.mask >> source & 1 ? warp.lanes[source].value : ~uint64_t(0);
    }
    schedule_.release(count, [&](size_t i) { return met[i]; });
    warp.waiting &= ~last.mask;
    pauses_ = 0;
  }

  // What a fiber does, from first to last.
  static void entry();
  void live_and_die() {
    Block& block = *current->block;
    if (!block.started) {  // here and not earlier: what a peer wrote before the block started is lost
      block.started = true;
      block.dynamic->poison();
      if (statics_.reached_by_peers()) statics_.poison();
    }
    (*body_)();
    current->done = true;
    pauses_ = 0;
    if (--block.live == 0) {
      for (const auto& barrier : block.copy_barriers)
        if (!barrier.second.copies.empty()) fail("block ", block.index, " ended while a bulk copy was on its way");
      if (const auto at = block.dynamic->damage())
        fail("out-of-bounds write: block ", block.index, " overran its ", shared_bytes_,
             " bytes of dynamic shared memory at byte ", *at);
      block.dynamic->poison();  // a peer that still reads it gets NaN
      statics_.poison();
    }
    if (--live_ == 0) switch_to(&host_);
    suspend();
  }

  void switch_to(Fiber* next) {
    Fiber* self = current;
    current = next;
    if (next != &host_) {
      statics_.change_to(next->block->statics);
      threadIdx = next->thread;
      blockIdx = next->block->index;
    }
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(self->done ? nullptr : &self->fake_stack, next->stack,
                                   next == &host_ ? host_stack_bytes_ : Stacks::bytes);
#endif
#if defined(CAMFAST_EMULATOR_OWN_SWITCH)
    switch_stack(&self->stack_pointer, next->stack_pointer);
#else
    swapcontext(&self->context, &next->context);
#endif
    landed(self);
  }

  // First thing after a change of stacks. The first fiber of all learns here where the host's stack lies.
  void landed([[maybe_unused]] Fiber* self) {
#if defined(__SANITIZE_ADDRESS__)
    const void* left = nullptr;
    size_t left_bytes = 0;
    __sanitizer_finish_switch_fiber(self ? self->fake_stack : nullptr, &left, &left_bytes);
    if (host_stack_bytes_) return;
    host_.stack = static_cast<unsigned char*>(const_cast<void*>(left));
    host_stack_bytes_ = left_bytes;
#endif
  }

  // Fibers of one block in the same state are told as one: the first by name, the others by number.
  [[noreturn]] void explain_deadlock() {
    struct Group {
      const Fiber* first;
      size_t others;
    };
    static std::vector<Group> groups;  // static, hence no memory of an abandoned frame
    groups.clear();
    for (size_t i = 0; i < grid_.count; ++i) {
      const Fiber& f = fibers_[i];
      const auto same = std::find_if(groups.begin(), groups.end(), [&](const Group& g) {
        const bool together = g.first->block == f.block && g.first->done == f.done;
        return together && (f.done || (g.first->op == f.op && g.first->site == f.site));
      });
      same == groups.end() ? groups.push_back({&f, 0}) : void(++same->others);
    }
    failure_ = "deadlock, no thread can go on";
    for (size_t i = 0; i < std::min(groups.size(), size_t(16)); ++i) {
      const Fiber& f = *groups[i].first;
      add("; "), add(f);
      if (groups[i].others) add(" and "), add(groups[i].others), add(" more");
      if (f.done)
        add(" ended");
      else
        add(" waits at "), add(f.op), add(f.site);
    }
    if (groups.size() > 16) add("; and "), add(groups.size() - 16), add(" more groups");
    switch_to(&host_);
    abort();
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<Fiber> fibers_;
  Stacks stacks_;
  Schedule schedule_;
  Barrier grid_;
  Fiber host_;  // stands for the caller of launch
  Statics statics_;
  size_t live_ = 0, pauses_ = 0, shared_bytes_ = 0;
  [[maybe_unused]] size_t host_stack_bytes_ = 0;  // AddressSanitizer asks for it
  unsigned cluster_size_ = 1;
  bool cooperative_ = false;
  std::string failure_;
};
inline Machine machine;

inline void Machine::entry() {
  machine.landed(nullptr);
  machine.live_and_die();
}

}  // namespace emu

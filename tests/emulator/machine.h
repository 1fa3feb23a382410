// The machine below the intrinsics: fibers, barriers, warps, the schedule. See cuda_emulator.h for the picture.
#pragma once

#include <link.h>
#include <stdio.h>
#include <sys/mman.h>

#include <deque>
#include <functional>
#include <map>
#include <numeric>
#include <stdexcept>

#include "cuda_types.h"
#include "guarded_memory.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

// The built-in variables always hold the running fiber's values.
inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
inline constexpr int warpSize = 32;

namespace emu {

// Every fault found in a kernel or its launch; the message names block, thread and source line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

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

// A place in the kernel's source: the default argument is evaluated where the intrinsic is called.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& o) const { return line == o.line && (file == o.file || !strcmp(file, o.file)); }
  std::string text() const {
    const char* slash = strrchr(file, '/');
    return std::string(slash ? slash + 1 : file) + ":" + std::to_string(line);
  }
};
inline Site here(const char* file = __builtin_FILE(), int line = __builtin_LINE()) { return {file, line}; }

struct Fiber;
struct Block;

// All `count` fibers from `first` on must arrive before one goes on.
struct Barrier {
  Fiber* first = nullptr;
  size_t count = 0, arrived = 0;
  int votes = 0, result = 0;  // threads with a true predicate: so far, and in the round that ended last
  const char* op = nullptr;
  Site site{};
};

struct Warp {
  Fiber* lanes = nullptr;
  unsigned exists = 0, waiting = 0;  // bit masks; the last warp of a block may be partial
};

struct AsyncCopy {
  unsigned char* to;
  const unsigned char* from;
  unsigned bytes, zeros, batch;
};

struct Fiber {
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
  unsigned char* stack = nullptr;
  void* fake_stack = nullptr;  // AddressSanitizer's
  Block* block = nullptr;
  Warp* warp = nullptr;
  uint3 thread{};
  unsigned lane = 0;
  bool done = false;
  const char* op = nullptr;  // what it waits in, and where
  Site site{};
  unsigned mask = 0;  // of a warp operation
  int source = 0;
  uint64_t value = 0, result = 0;
  std::vector<AsyncCopy> copies;
  unsigned batch = 0;
};

struct Cluster {
  Barrier barrier;
  Block* first = nullptr;
  unsigned size = 1;
};

struct Block {
  uint3 index{};
  Cluster* cluster = nullptr;
  Barrier barrier;
  size_t live = 0;
  bool started = false;
  std::vector<Warp> warps;
  std::unique_ptr<Guarded> dynamic;
  std::vector<unsigned char> statics;  // the image of its __shared__ variables while another block runs
};

inline std::string text(uint3 v) {
  return "(" + std::to_string(v.x) + "," + std::to_string(v.y) + "," + std::to_string(v.z) + ")";
}

#if defined(__x86_64__)
// Pushes the registers that a call must preserve, changes stacks, pops the other fiber's.
inline __attribute__((naked, noinline)) void switch_stack(void** /*save*/, void* /*load*/) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
      "movq %rsp, (%rdi); movq %rsi, %rsp;"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}
#endif

class Machine {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t stack_bytes = 256 << 10;
#else
  static constexpr size_t stack_bytes = 64 << 10;
#endif
  static constexpr size_t max_guarded_stacks = 16384;  // each guard page costs two of the kernel's 65530 mappings

  Fiber* current = &host_;

  // The program's TLS segment: where __shared__ variables live.
  unsigned char* statics = nullptr;
  size_t statics_bytes = 0;

  void run_grid(const std::function<void()>& body, dim3 grid, dim3 block, size_t shared_bytes, unsigned cluster_size,
                bool cooperative) {
    if (current != &host_) throw Error("a launch from inside a kernel is not supported");
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
    random_ = config().seed * 0x9E3779B97F4A7C15u + 1;
    find_statics();

    const size_t group = cooperative ? blocks : cluster_size;
    std::vector<size_t> order(blocks / group);
    std::iota(order.begin(), order.end(), size_t(0));
    if (config().order == Order::reverse) std::reverse(order.begin(), order.end());
    if (config().order == Order::random)
      for (size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[random(i)]);

    for (size_t next = 0; next < order.size();) {
      size_t at_once = config().concurrent ? config().concurrent : config().order == Order::random ? 1 + random(3) : 1;
      at_once = std::min(at_once, order.size() - next);
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
    if (ready_.empty()) fail(deadlock());
    if (config().order == Order::random) std::swap(ready_.front(), ready_[random(ready_.size())]);
    Fiber* next = ready_.front();
    ready_.pop_front();
    if (next != current) switch_to(next);
  }

  // Lets others go first: a spin loop's pause.
  void yield() {
    ready_.push_back(current);
    suspend();
  }

  // Where hardware may interleave (atomics, fences), the random order sometimes does.
  void preempt() {
    if (config().order == Order::random && random(4) == 0) yield();
  }

  int arrive(Barrier& barrier, const char* op, Site site, bool vote = false) {
    if (barrier.arrived && !(barrier.site == site && barrier.op == op))
      fail("divergence: " + who(*current) + " reached " + op + " (" + site.text() + ") while others wait at " +
           barrier.op + " (" + barrier.site.text() + ")");
    barrier.op = current->op = op;
    barrier.site = current->site = site;
    barrier.votes += vote;
    if (++barrier.arrived == barrier.count) {
      barrier.result = barrier.votes;
      barrier.votes = 0;
      barrier.arrived = 0;
      // The released run before those still in the queue: warp after warp, which is kind to the caches.
      const bool reverse = config().order == Order::reverse;
      for (size_t i = 0; i < barrier.count; ++i) ready_.push_front(barrier.first + (reverse ? i : barrier.count - 1 - i));
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
    if (!(mask >> self.lane & 1))
      fail(std::string(op) + " (" + site.text() + "): " + who(self) + " is not in its own mask " + hex(mask));
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
    if (rank >= own.cluster->size)
      fail("cluster_peer: rank " + std::to_string(rank) + " of " + std::to_string(own.cluster->size) + " blocks");
    Block& other = own.cluster->first[rank];
    auto* address = static_cast<const unsigned char*>(shared);
    const size_t in_dynamic = size_t(address - own.dynamic->begin()), in_statics = size_t(address - statics);
    if (in_dynamic < shared_bytes_) return other.dynamic->begin() + in_dynamic;
    if (in_statics < statics_bytes) return (&other == &own ? statics : other.statics.data()) + in_statics;
    fail("cluster_peer: the address is not in this block's shared memory");
  }

  [[noreturn]] void fail(const std::string& message) {
    if (current == &host_) throw Error(message);
    failure_ = message.find("block (") == std::string::npos ? message + "; in " + who(*current) : message;
    switch_to(&host_);
    abort();  // never reached: nobody resumes a failed wave
  }

  static std::string who(const Fiber& f) { return "block " + text(f.block->index) + " thread " + text(f.thread); }

 private:
  static void require(bool condition, const char* message) {
    if (!condition) throw Error(std::string("launch: ") + message);
  }
  static std::string hex(unsigned v) {
    char buffer[16];
    snprintf(buffer, sizeof buffer, "0x%08x", v);
    return buffer;
  }
  uint64_t random(uint64_t bound) {  // xorshift*
    random_ ^= random_ >> 12;
    random_ ^= random_ << 25;
    random_ ^= random_ >> 27;
    return (random_ * 0x2545F4914F6CDD1Du >> 32) % bound;
  }

  void run_wave(const std::vector<size_t>& indices, size_t threads) {
    const size_t count = indices.size() * threads, warps = (threads + 31) / 32;
    reserve_stacks(count);
    ready_.clear();
    failure_.clear();
    blocks_.resize(std::max(blocks_.size(), indices.size()));
    clusters_.assign(indices.size() / cluster_size_, {});
    if (fibers_.size() < count) fibers_.resize(count);
    grid_ = {fibers_.data(), count};
    live_ = count;
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
      block.cluster = &cluster;
      block.barrier = {&fibers_[b * threads], threads};
      block.live = threads;
      block.started = false;
      block.warps.assign(warps, {});
      if (!block.dynamic || block.dynamic->bytes() != shared_bytes_) block.dynamic.reset(new Guarded(shared_bytes_));
      block.statics.resize(statics_bytes);
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
        prepare(fiber, b * threads + t);
        config().order == Order::reverse ? ready_.push_front(&fiber) : ready_.push_back(&fiber);
      }
    }
    mapped_ = &host_block_;
    host_block_.statics.resize(statics_bytes);
    suspend();  // until the last fiber ends, or one fails
    if (!failure_.empty()) throw Error(failure_);
  }

  void complete(Warp& warp, const Fiber& last) {
    unsigned ballot = 0;
    for (unsigned lane = 0; lane < 32; ++lane) {
      if (!(last.mask >> lane & 1)) continue;
      const Fiber& f = warp.lanes[lane];
      if (f.mask != last.mask || strcmp(f.op, last.op) || !(f.site == last.site))
        fail("divergence in a warp: " + who(last) + " reached " + last.op + " (" + last.site.text() + ", mask " +
             hex(last.mask) + ") while " + who(f) + " waits at " + f.op + " (" + f.site.text() + ", mask " +
             hex(f.mask) + ")");
      ballot |= unsigned(f.value != 0) << lane;
    }
    const bool reverse = config().order == Order::reverse;
    for (unsigned i = 0; i < 32; ++i) {
      const unsigned lane = reverse ? i : 31 - i;
      if (!(last.mask >> lane & 1)) continue;
      Fiber& f = warp.lanes[lane];
      // A lane outside the mask has no defined value: poison.
      f.result = f.source < 0 ? ballot : last.mask >> f.source & 1 ? warp.lanes[f.source].value : ~uint64_t(0);
      ready_.push_front(&f);
    }
    warp.waiting &= ~last.mask;
  }

  // What a fiber does, from first to last.
  static void entry();
  void live_and_die() {
    Block& block = *current->block;
    if (!block.started) {  // here and not earlier: what a peer wrote before the block started is lost
      block.started = true;
      poison(block);
    }
    (*body_)();
    current->done = true;
    if (--block.live == 0) {
      if (const auto at = block.dynamic->damage())
        fail("out-of-bounds write: block " + text(block.index) + " overran its " + std::to_string(shared_bytes_) +
             " bytes of dynamic shared memory at byte " + std::to_string(*at));
      poison(block);  // a peer that still reads it gets NaN
    }
    if (--live_ == 0) switch_to(&host_);
    suspend();
  }
  void poison(Block& block) {
    block.dynamic->poison();
    memset(statics, 0xFF, statics_bytes);
  }

  void switch_to(Fiber* next) {
    Fiber* self = current;
    Block* block = next == &host_ ? &host_block_ : next->block;
    if (block != mapped_) {
      memcpy(mapped_->statics.data(), statics, statics_bytes);
      memcpy(statics, block->statics.data(), statics_bytes);
      mapped_ = block;
    }
    current = next;
    threadIdx = next->thread;
    blockIdx = block->index;
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_start_switch_fiber(self->done ? nullptr : &self->fake_stack, next->stack,
                                   next == &host_ ? host_stack_bytes_ : stack_bytes);
#endif
#if defined(__x86_64__)
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

  std::string deadlock() {
    std::map<std::string, std::pair<std::string, size_t>> groups;  // state: first fiber in it, how many
    for (size_t i = 0; i < grid_.count; ++i) {
      const Fiber& f = fibers_[i];
      std::string state = f.done ? "ended" : std::string("waits at ") + f.op + " (" + f.site.text() + ")";
      auto found = groups.emplace("block " + text(f.block->index) + " " + state, std::make_pair(who(f) + "|" + state, 0));
      ++found.first->second.second;
    }
    std::string message = "deadlock: no thread can go on";
    size_t shown = 0;
    for (const auto& [key, group] : groups) {
      if (++shown > 16) return message + "; and " + std::to_string(groups.size() - 16) + " more groups";
      const size_t bar = group.first.find('|');
      const std::string others = group.second > 1 ? " and " + std::to_string(group.second - 1) + " more" : "";
      message += "; " + group.first.substr(0, bar) + others + " " + group.first.substr(bar + 1);
    }
    return message;
  }

  void reserve_stacks(size_t count) {
    if (count <= stacks_) return;
    if (stack_memory_) munmap(stack_memory_, stacks_ * stack_bytes);
    void* memory = mmap(nullptr, count * stack_bytes, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("no memory for the stacks of " + std::to_string(count) + " threads");
    stack_memory_ = static_cast<unsigned char*>(memory);
    stacks_ = count;
    for (size_t i = 0; i < count && count <= max_guarded_stacks; ++i)
      mprotect(stack_memory_ + i * stack_bytes, 4096, PROT_NONE);
  }

  void prepare(Fiber& fiber, size_t index) {
    fiber.stack = stack_memory_ + index * stack_bytes;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, stack_bytes);  // a failed wave leaves its frames behind
#endif
    // Tops staggered over the cache sets: equal offsets in 64 KiB strides would all share one.
    unsigned char* top = fiber.stack + stack_bytes - 128 - index % 32 * 192;
#if defined(__x86_64__)
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry's address, no caller
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(&entry);
    fiber.stack_pointer = frame;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = size_t(top - fiber.stack);
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, &Machine::entry, 0);
#endif
  }

  // The TLS segment of the program or library that this header is compiled into.
  void find_statics() {
    static thread_local char anchor;  // so that there is one
    struct Search {
      unsigned char *anchor, *begin;
      size_t bytes;
    } search{reinterpret_cast<unsigned char*>(&anchor), nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          auto* s = static_cast<Search*>(data);
          auto* begin = static_cast<unsigned char*>(info->dlpi_tls_data);
          for (int i = 0; begin && i < info->dlpi_phnum; ++i)
            if (info->dlpi_phdr[i].p_type == PT_TLS && size_t(s->anchor - begin) < info->dlpi_phdr[i].p_memsz) {
              s->begin = begin;
              s->bytes = info->dlpi_phdr[i].p_memsz;
            }
          return 0;
        },
        &search);
    if (!search.begin) throw Error("the program's thread-local storage was not found");
    statics = search.begin;
    statics_bytes = search.bytes;
  }

  const std::function<void()>* body_ = nullptr;
  std::vector<Block> blocks_;
  std::vector<Cluster> clusters_;
  std::vector<Fiber> fibers_;
  std::deque<Fiber*> ready_;
  Barrier grid_;
  Fiber host_;          // stands for the caller of launch
  Block host_block_;    // its image keeps the caller's own thread-local variables
  Block* mapped_ = nullptr;
  size_t live_ = 0, shared_bytes_ = 0, stacks_ = 0;
  [[maybe_unused]] size_t host_stack_bytes_ = 0;  // AddressSanitizer asks for it
  unsigned cluster_size_ = 1;
  bool cooperative_ = false;
  unsigned char* stack_memory_ = nullptr;
  uint64_t random_ = 1;
  std::string failure_;
};
inline Machine machine;

inline void Machine::entry() {
  machine.landed(nullptr);
  machine.live_and_die();
}

}  // namespace emu

// What the machine is made of: fibers with their stacks, and the warps, blocks and clusters they belong to.
#pragma once

#include <sys/mman.h>

#include <map>
#include <memory>
#include <vector>

#include "cuda_types.h"
#include "guarded_memory.h"
#include "statics.h"

#if defined(__x86_64__) && !defined(CAMFAST_EMULATOR_UCONTEXT)
#define CAMFAST_EMULATOR_OWN_SWITCH 1  // ten times faster than swapcontext, which asks the system to keep signal masks
#else
#include <ucontext.h>
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

namespace emu {

// A place in the kernel's source: the default argument is evaluated where the intrinsic is called.
struct Site {
  const char* file;
  int line;
  bool operator==(const Site& o) const { return line == o.line && (file == o.file || !strcmp(file, o.file)); }
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
#if defined(CAMFAST_EMULATOR_OWN_SWITCH)
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

// A barrier that counts the bytes of copies in: what it waits for in the phase of `parity`.
struct CopyPhase {
  unsigned parity = 0;
  bool expecting = false;
  size_t expected = 0, asked = 0;  // bytes
  std::vector<AsyncCopy> copies;
};

struct Cluster {
  Barrier barrier;
  Block* first = nullptr;
  unsigned size = 1;
};

struct Block {
  uint3 index{};
  size_t ordinal = 0;  // among those alive
  Cluster* cluster = nullptr;
  Barrier barrier;
  size_t live = 0;
  bool started = false;
  std::vector<Warp> warps;
  std::unique_ptr<Guarded> dynamic;
  std::map<const void*, CopyPhase> copy_barriers;
  StaticsImage statics;  // its __shared__ variables while another block runs
};

#if defined(CAMFAST_EMULATOR_OWN_SWITCH)
// Pushes the registers that a call must preserve, changes stacks, pops the other fiber's. noipa: the compiler must not
// conclude from these few instructions that a kernel's variables stay as they are.
inline __attribute__((naked, noipa)) void switch_stack(void** /*save*/, void* /*load*/) {
  asm("pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15;"
      "movq %rsp, (%rdi); movq %rsi, %rsp;"
      "popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp; ret");
}
#endif

// One stack a fiber, kept from launch to launch.
class Stacks {
 public:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr size_t bytes = 256 << 10;
#else
  static constexpr size_t bytes = 64 << 10;
#endif
  static constexpr size_t max_guarded = 16384;  // each guard page costs two of the system's 65530 mappings

  void reserve(size_t count) {
    if (count <= count_) return;
    if (memory_) munmap(memory_, count_ * bytes);
    memory_ = nullptr;
    count_ = 0;
    void* memory =
        mmap(nullptr, count * bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw Error("launch: no memory for the stacks of " + std::to_string(count) + " threads");
    memory_ = static_cast<unsigned char*>(memory);
    count_ = count;
    for (size_t i = 0; i < count && count <= max_guarded; ++i) mprotect(memory_ + i * bytes, 4096, PROT_NONE);
  }

  // Makes the fiber start in `entry` when it is switched to.
  void prepare(Fiber& fiber, size_t index, void (*entry)()) {
    fiber.stack = memory_ + index * bytes;
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(fiber.stack, bytes);  // a failed launch leaves its frames behind
#endif
    // Tops staggered over the cache sets: equal offsets in 64 KiB strides would all share one.
    unsigned char* top = fiber.stack + bytes - 128 - index % 32 * 192;
#if defined(CAMFAST_EMULATOR_OWN_SWITCH)
    void** frame = reinterpret_cast<void**>(top) - 8;  // six registers, the entry's address, no caller
    std::fill(frame, frame + 8, nullptr);
    frame[6] = reinterpret_cast<void*>(entry);
    fiber.stack_pointer = frame;
#else
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack;
    fiber.context.uc_stack.ss_size = size_t(top - fiber.stack);
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, entry, 0);
#endif
  }

 private:
  unsigned char* memory_ = nullptr;
  size_t count_ = 0;
};

}  // namespace emu

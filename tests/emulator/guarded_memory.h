// Memory whose overruns are found: guard zones around shared memory and around a test's global buffers.
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <memory>
#include <new>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#endif

namespace emu {

// Bytes with a guard zone on either side. Content starts as 0xFF; the zones hold 0xFFA5, again NaN in every float
// format, so that a stray read shows too. Under AddressSanitizer a stray access stops at once.
class Guarded {
 public:
  static constexpr size_t zone = 256;

  // `shift` bytes off a 256-byte boundary, for misaligned views.
  explicit Guarded(size_t bytes, size_t shift = 0) : bytes_(bytes), total_(2 * zone + shift + bytes) {
    raw_ = static_cast<unsigned char*>(aligned_alloc(256, (total_ + 255) / 256 * 256));
    if (!raw_) throw std::bad_alloc();
    begin_ = raw_ + zone + shift;
    set_guards();
    poison();
    protect(true);
    live().push_back(this);
  }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  ~Guarded() {
    live().erase(std::find(live().begin(), live().end(), this));
    protect(false);
    free(raw_);
  }

  unsigned char* begin() const { return begin_; }
  size_t bytes() const { return bytes_; }
  void poison() { memset(begin_, 0xFF, bytes_); }

  // Whether the bytes are partly in some buffer's guard zones.
  static bool cut(const void* from, size_t bytes) {
    const auto* at = static_cast<const unsigned char*>(from);
    return std::any_of(live().begin(), live().end(), [&](const Guarded* g) {
      const bool touches = at < g->raw_ + g->total_ && at + bytes > g->raw_;
      return touches && (at < g->begin_ || at + bytes > g->begin_ + g->bytes_);
    });
  }

  // Offset from begin() of the first overwritten guard byte: negative before the content, bytes() or more behind it.
  // Repairs the guards, so that one fault is reported once.
  std::optional<ptrdiff_t> damage() {
    protect(false);
    std::optional<ptrdiff_t> found;
    for (const unsigned char* p = raw_; p < begin_ && !found; ++p)
      if (*p != guard(p)) found = p - begin_;
    for (const unsigned char* p = begin_ + bytes_; p < raw_ + total_ && !found; ++p)
      if (*p != guard(p)) found = p - begin_;
    if (found) set_guards();
    protect(true);
    return found;
  }

 private:
  static std::vector<const Guarded*>& live() {
    static auto& list = *new std::vector<const Guarded*>; // never destroyed: buffers of the program's end leave it
    return list;
  }
  static unsigned char guard(const unsigned char* p) { return reinterpret_cast<uintptr_t>(p) & 1 ? 0xFF : 0xA5; }
  void set_guards() {
    for (unsigned char* p = raw_; p < begin_; ++p) *p = guard(p);
    for (unsigned char* p = begin_ + bytes_; p < raw_ + total_; ++p) *p = guard(p);
  }
  void protect([[maybe_unused]] bool on) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(raw_, total_);
    if (!on) return;
    __asan_poison_memory_region(raw_, begin_ - raw_);
    __asan_poison_memory_region(begin_ + bytes_, raw_ + total_ - begin_ - bytes_);
#endif
  }

  size_t bytes_, total_;
  unsigned char *raw_, *begin_;
};

struct Watched {
  Guarded* memory;
  std::string name;
};
inline std::vector<Watched>& watched() {
  static std::vector<Watched> list;
  return list;
}

// Global memory: an array of T whose guard zones are checked after every launch. Uninitialised elements are 0xFF.
template <class T>
class Buffer {
 public:
  // `offset` elements off a 256-byte boundary, for misaligned views.
  explicit Buffer(size_t count, std::string name = "buffer", size_t offset = 0)
      : memory_(new Guarded(count * sizeof(T), offset * sizeof(T))) {
    watched().push_back({memory_.get(), std::move(name)});
  }
  explicit Buffer(const std::vector<T>& values, std::string name = "buffer", size_t offset = 0)
      : Buffer(values.size(), std::move(name), offset) {
    std::copy(values.begin(), values.end(), data());
  }
  ~Buffer() {
    auto& list = watched();
    list.erase(std::remove_if(list.begin(), list.end(), [&](const Watched& w) { return w.memory == memory_.get(); }),
               list.end());
  }
  Buffer(const Buffer&) = delete;
  Buffer& operator=(const Buffer&) = delete;

  T* data() const { return reinterpret_cast<T*>(memory_->begin()); }
  size_t size() const { return memory_->bytes() / sizeof(T); }
  T& operator[](size_t i) const { return data()[i]; }
  std::vector<T> values() const { return std::vector<T>(data(), data() + size()); }
  void poison() { memory_->poison(); }
  // Elements whose bytes are all still 0xFF: outputs that the kernel never wrote.
  size_t untouched() const {
    unsigned char pattern[sizeof(T)];
    memset(pattern, 0xFF, sizeof pattern);
    return size_t(std::count_if(data(), data() + size(), [&](const T& v) { return !memcmp(&v, pattern, sizeof v); }));
  }

 private:
  std::unique_ptr<Guarded> memory_;
};

}  // namespace emu

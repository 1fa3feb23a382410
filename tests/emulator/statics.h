// The __shared__ variables of each block. They are thread_local, hence lie together in the TLS segment of the program
// or library that this header is compiled into; one block's are live there, the other blocks' are kept in images.
//
//   TLS segment   [ chunk | chunk | chunk | ... ]   live: the running block
//   image of b 1  [ chunk | ....  | chunk | ... ]   only chunks that some block has touched are ever copied:
//   image of b 2  [ chunk | ....  | chunk | ... ]   all others hold 0xFF everywhere
//
// A program with many kernels has 100 KiB of such variables, a kernel uses a few: hence the bookkeeping by chunk.
#pragma once

#include <link.h>
#include <string.h>

#include <algorithm>
#include <stdexcept>
#include <vector>

namespace emu {

// Every fault found in a kernel or its launch; the message names block, thread and source line.
struct Error : std::runtime_error {
  using std::runtime_error::runtime_error;
};

using StaticsImage = std::vector<unsigned char>;

class Statics {
 public:
  // For the time of a launch the segment belongs to the blocks; the caller's own variables come back afterwards.
  class Loan {
   public:
    explicit Loan(Statics& statics) : statics_(statics) { statics_.enter(); }
    ~Loan() { memcpy(statics_.live_, statics_.callers_.data(), statics_.bytes_); }
    Loan(const Loan&) = delete;
    Loan& operator=(const Loan&) = delete;

   private:
    Statics& statics_;
  };

  // Before a wave: every variable holds 0xFF, no block is live, and images may have been moved.
  void detach() {
    if (mapped_) poison();
    mapped_ = nullptr;
  }
  void prepare(StaticsImage& image) const { image.assign(bytes_, 0xFF); }

  // Makes the image's block the live one.
  void change_to(StaticsImage& image) {
    if (&image == mapped_) return;
    if (mapped_) {  // else both hold 0xFF
      find_touched();
      for_each_touched([&](size_t begin, size_t size) {
        memcpy(mapped_->data() + begin, live_ + begin, size);
        memcpy(live_ + begin, image.data() + begin, size);
      });
    }
    mapped_ = &image;
  }

  // Fills the live block's variables with 0xFF: memset is cheaper than finding the chunks that need it.
  void poison() { memset(live_, 0xFF, bytes_); }

  // Whether a block that has not started may hold something else than 0xFF.
  bool reached_by_peers() const { return reached_by_peers_; }

  // The counterpart of a live variable in another block's image; null when the address is no such variable.
  void* find(const void* address, StaticsImage& image) {
    const size_t offset = size_t(static_cast<const unsigned char*>(address) - live_);
    if (offset >= bytes_) return nullptr;
    std::fill(touched_.begin(), touched_.end(), true);  // a peer may write there, unseen
    reached_by_peers_ = true;
    return (&image == mapped_ ? live_ : image.data()) + offset;
  }

 private:
  static constexpr size_t chunk = 1024;

  void enter() {
    locate();
    callers_.assign(live_, live_ + bytes_);
    poison();
    reached_by_peers_ = false;
    touched_.assign((bytes_ + chunk - 1) / chunk, false);
    mapped_ = nullptr;
  }

  void find_touched() {
    static const std::vector<unsigned char> untouched(chunk, 0xFF);
    for (size_t i = 0; i < touched_.size(); ++i)
      if (!touched_[i]) touched_[i] = memcmp(live_ + i * chunk, untouched.data(), size_of(i)) != 0;
  }
  template <class Body>
  void for_each_touched(Body body) const {
    for (size_t i = 0; i < touched_.size(); ++i)
      if (touched_[i]) body(i * chunk, size_of(i));
  }
  size_t size_of(size_t i) const { return std::min(chunk, bytes_ - i * chunk); }

  void locate() {
    static thread_local char anchor;  // so that there is one
    struct Search {
      unsigned char *anchor, *begin;
      size_t bytes;
    } search{reinterpret_cast<unsigned char*>(&anchor), nullptr, 0};
    dl_iterate_phdr(
        [](dl_phdr_info* info, size_t, void* data) {
          auto* s = static_cast<Search*>(data);
          auto* segment = static_cast<unsigned char*>(info->dlpi_tls_data);
          for (int i = 0; segment && i < info->dlpi_phnum; ++i) {
            const auto& header = info->dlpi_phdr[i];
            if (header.p_type != PT_TLS || size_t(s->anchor - segment) >= header.p_memsz) continue;
            s->begin = segment;
            s->bytes = header.p_memsz;
          }
          return 0;
        },
        &search);
    if (!search.begin) throw Error("launch: the program's thread-local storage was not found");
    live_ = search.begin;
    bytes_ = search.bytes;
  }

  unsigned char* live_ = nullptr;
  size_t bytes_ = 0;
  StaticsImage callers_;
  StaticsImage* mapped_ = nullptr;  // whose variables are live; its own content is stale meanwhile
  std::vector<unsigned char> touched_;
  bool reached_by_peers_ = false;
};

}  // namespace emu

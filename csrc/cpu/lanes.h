// Lanes of two vectors in another order: one instruction each where the CPU has one.
#pragma once

#include <utility>

#include "simd.h"

namespace camfast {

// Lane l of the result is lane `Order::at(l, W)` of a, followed by b.
template <class Order, int W, int... l>
CAMFAST_INLINE Vec<float, W> arranged(Vec<float, W> a, Vec<float, W> b, std::integer_sequence<int, l...>) {
#if defined(__clang__)
  return __builtin_shufflevector(a, b, Order::at(l, W)...);
#else
  return __builtin_shuffle(a, b, Vec<int32_t, W>{Order::at(l, W)...});
#endif
}
template <class Order, int W>
CAMFAST_INLINE Vec<float, W> arranged(Vec<float, W> a, Vec<float, W> b) {
  return arranged<Order, W>(a, b, std::make_integer_sequence<int, W>{});
}

struct LeftNeighbours { // of b's lanes, a being what is on the left of b
  static constexpr int at(int lane, int width) { return width - 1 + lane; }
};
struct RightNeighbours { // of a's lanes
  static constexpr int at(int lane, int) { return 1 + lane; }
};
struct EvenLanes {
  static constexpr int at(int lane, int) { return 2 * lane; }
};
struct OddLanes {
  static constexpr int at(int lane, int) { return 2 * lane + 1; }
};
struct FirstInterleaved { // a0 b0 a1 b1 ..., the first W of them
  static constexpr int at(int lane, int width) { return lane / 2 + lane % 2 * width; }
};
struct LastInterleaved {
  static constexpr int at(int lane, int width) { return width / 2 + lane / 2 + lane % 2 * width; }
};

} // namespace camfast

// Portable vectors and function multiversioning.
//
// Kernels are always-inlined templates over the vector width; each is instantiated once per instruction set inside a
// function that carries the target attribute, and chosen at run time. No -march flag: one binary serves every x86-64 CPU,
// and other architectures get the baseline, which the compiler lowers to what they have (NEON, ...).
#pragma once

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <algorithm>
#include <type_traits>

#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#define CAMFAST_INLINE inline __attribute__((always_inline))

#if defined(__x86_64__) && defined(__GNUC__)
#define CAMFAST_X86 1
#define CAMFAST_TARGET_AVX2 __attribute__((target("avx2,fma")))
#define CAMFAST_TARGET_AVX512 __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#else
#define CAMFAST_X86 0
#endif

namespace camfast {

enum class Isa { baseline, avx2, avx512 };

inline Isa detect_isa() {
#if CAMFAST_X86
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl")) {
    return Isa::avx512;
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return Isa::avx2;
#endif
  return Isa::baseline;
}

// CAMFAST_CPU_CAPABILITY in the environment, "baseline" or "avx2", asks for less than this machine has: to test what others run.
inline Isa allowed_isa() {
  const char* asked = getenv("CAMFAST_CPU_CAPABILITY");
  if (asked && strcmp(asked, "baseline") == 0) return Isa::baseline;
  return asked && strcmp(asked, "avx2") == 0 ? Isa::avx2 : Isa::avx512;
}

inline Isa isa() {
  static const Isa chosen = std::min(detect_isa(), allowed_isa());
  return chosen;
}

// Bytes of a vector register under an instruction set.
constexpr int kBaselineBytes = 16, kAvx2Bytes = 32, kAvx512Bytes = 64;

// `CAMFAST_MULTIVERSION(run, Kernel, args)`: Kernel::run<bytes>(args...) under the best instruction set.
// Kernel is a struct with a static always-inlined template `run<int bytes>(...)`.
#if CAMFAST_X86
template <class Kernel, class... Args>
CAMFAST_TARGET_AVX512 __attribute__((noinline)) void run_avx512(const Args&... args) {
  Kernel::template run<kAvx512Bytes>(args...);
}
template <class Kernel, class... Args>
CAMFAST_TARGET_AVX2 __attribute__((noinline)) void run_avx2(const Args&... args) {
  Kernel::template run<kAvx2Bytes>(args...);
}
#endif
template <class Kernel, class... Args>
__attribute__((noinline)) void run_baseline(const Args&... args) {
  Kernel::template run<kBaselineBytes>(args...);
}

// fp64 is there to compare by (gradcheck): kernels whose `Scalar` is double run in the baseline's vectors alone, which spares the
// build what few calls would use.
template <class Kernel, class = void>
constexpr bool kHasVersions = true;
template <class Kernel>
constexpr bool kHasVersions<Kernel, std::enable_if_t<std::is_same_v<typename Kernel::Scalar, double>>> = false;

// The same as a pointer, under an instruction set that this machine has.
template <class Kernel, class... Args>
void (*variant(Isa isa))(const Args&...) {
#if CAMFAST_X86
  if constexpr (kHasVersions<Kernel>) {
    switch (isa) {
      case Isa::avx512: return &run_avx512<Kernel, Args...>;
      case Isa::avx2: return &run_avx2<Kernel, Args...>;
      case Isa::baseline: break;
    }
  }
#endif
  return &run_baseline<Kernel, Args...>;
}

// The best instruction set of those whose vectors are no longer than `bytes`.
inline Isa isa_for(int64_t bytes) {
  const Isa longest = bytes >= kAvx512Bytes ? Isa::avx512 : bytes >= kAvx2Bytes ? Isa::avx2 : Isa::baseline;
  return isa() < longest ? isa() : longest;
}

template <class Kernel, class... Args>
void multiversion(const Args&... args) {
#if CAMFAST_X86
  if constexpr (kHasVersions<Kernel>) {
    switch (isa()) {
      case Isa::avx512: return run_avx512<Kernel>(args...);
      case Isa::avx2: return run_avx2<Kernel>(args...);
      case Isa::baseline: break;
    }
  }
#endif
  run_baseline<Kernel>(args...);
}

// W lanes of T, in the compiler's own vector extension: arithmetic and comparisons work lane by lane.
template <class T, int W>
struct VecOf {
  typedef T type __attribute__((vector_size(sizeof(T) * W)));
};
template <class T, int W>
using Vec = typename VecOf<T, W>::type;

// The integer type of T's width: what a comparison of Vec<T, W> yields a vector of.
template <class T>
using IntOf = std::conditional_t<sizeof(T) == 8, int64_t, int32_t>;

template <class To, class From>
CAMFAST_INLINE To bits(From from) {
  To to;
  static_assert(sizeof(To) == sizeof(From), "bits() keeps the size");
  memcpy(&to, &from, sizeof(To));
  return to;
}

template <class V, class P>
CAMFAST_INLINE V load_raw(const P* p) {
  V v;
  memcpy(&v, p, sizeof(V));
  return v;
}

template <class V, class P>
CAMFAST_INLINE void store(P* p, V v) {
  memcpy(p, &v, sizeof(V));
}

// W values as vectors of the accumulation type; fp16 and bf16 are widened in registers.
template <class T, int W>
CAMFAST_INLINE Vec<T, W> load(const T* p) {
  return load_raw<Vec<T, W>>(p);
}

template <class T, int W>
CAMFAST_INLINE Vec<float, W> load(const torch::headeronly::BFloat16* p) {
  const auto wide = __builtin_convertvector(load_raw<Vec<uint16_t, W>>(p), Vec<uint32_t, W>);
  return bits<Vec<float, W>>(wide << 16);
}

template <class T, int W>
CAMFAST_INLINE Vec<float, W> load(const torch::headeronly::Half* p) {
  // Exponent and mantissa moved to their fp32 place, rebiased by a multiplication that also makes subnormals right;
  // Inf and NaN (exponent all ones) get the fp32 exponent by hand.
  using U = Vec<uint32_t, W>;
  const U h = __builtin_convertvector(load_raw<Vec<uint16_t, W>>(p), U);
  const U magnitude = (h & 0x7fffu) << 13;
  const U finite = bits<U>(bits<Vec<float, W>>(magnitude) * 0x1p112f);
  const U special = magnitude | 0x7f800000u;
  const U is_special = bits<U>(magnitude >= 0x0f800000u);
  return bits<Vec<float, W>>(((finite & ~is_special) | (special & is_special)) | ((h & 0x8000u) << 16));
}

// The type in which values of In are summed.
template <class In>
using AccOf = std::conditional_t<std::is_same_v<In, double>, double, float>;

template <class T, class In>
CAMFAST_INLINE T widen(In x) {
  return T(float(x));
}
template <>
CAMFAST_INLINE double widen<double, double>(double x) {
  return x;
}
template <>
CAMFAST_INLINE float widen<float, float>(float x) {
  return x;
}

template <class T, int W>
CAMFAST_INLINE T horizontal_sum(Vec<T, W> v) {
  if constexpr (W == 1) {
    return v[0];
  } else {
    Vec<T, W / 2> low, high;
    memcpy(&low, &v, sizeof(low));
    memcpy(&high, reinterpret_cast<const char*>(&v) + sizeof(low), sizeof(high));
    return horizontal_sum<T, W / 2>(low + high);
  }
}

template <class T, int W>
CAMFAST_INLINE Vec<T, W> splat(T x) {
  return Vec<T, W>{} + x;
}

// Lane masks of all ones and all zeros, applied to values bit by bit so that NaN in a masked lane vanishes.
template <class T, int W>
CAMFAST_INLINE Vec<T, W> masked(Vec<T, W> v, Vec<IntOf<T>, W> mask) {
  return bits<Vec<T, W>>(bits<Vec<IntOf<T>, W>>(v) & mask);
}

template <class T, int W>
CAMFAST_INLINE Vec<T, W> choose(Vec<IntOf<T>, W> condition, Vec<T, W> yes, Vec<T, W> no) {
  using I = Vec<IntOf<T>, W>;
  return bits<Vec<T, W>>((bits<I>(yes) & condition) | (bits<I>(no) & ~condition));
}

} // namespace camfast

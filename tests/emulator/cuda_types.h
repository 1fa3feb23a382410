// The words of CUDA C++ for plain g++: qualifiers, vector types, 16-bit floats and scalar intrinsics.
// Included by cuda_emulator.h, which adds threads, barriers and launches.
#pragma once

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __grid_constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define __builtin_assume(condition) ((void)0)
// One copy for each block: the emulator swaps the program's thread-local storage when it changes blocks.
#define __shared__ static thread_local

// ---- vectors -------------------------------------------------------------------------------------------------------

#define CAMFAST_VECTOR2(T, name, bytes) \
  struct alignas(bytes) name { T x, y; }; \
  inline name make_##name(T x, T y) { return {x, y}; }
#define CAMFAST_VECTOR3(T, name, bytes) \
  struct alignas(bytes) name { T x, y, z; }; \
  inline name make_##name(T x, T y, T z) { return {x, y, z}; }
#define CAMFAST_VECTOR4(T, name, bytes) \
  struct alignas(bytes) name { T x, y, z, w; }; \
  inline name make_##name(T x, T y, T z, T w) { return {x, y, z, w}; }

CAMFAST_VECTOR2(unsigned char, uchar2, 2)
CAMFAST_VECTOR3(unsigned char, uchar3, 1)
CAMFAST_VECTOR4(unsigned char, uchar4, 4)
CAMFAST_VECTOR2(unsigned short, ushort2, 4)
CAMFAST_VECTOR4(unsigned short, ushort4, 8)
CAMFAST_VECTOR2(int, int2, 8)
CAMFAST_VECTOR3(int, int3, 4)
CAMFAST_VECTOR4(int, int4, 16)
CAMFAST_VECTOR2(unsigned, uint2, 8)
CAMFAST_VECTOR3(unsigned, uint3, 4)
CAMFAST_VECTOR4(unsigned, uint4, 16)
CAMFAST_VECTOR2(long long, longlong2, 16)
CAMFAST_VECTOR2(unsigned long long, ulonglong2, 16)
CAMFAST_VECTOR2(float, float2, 8)
CAMFAST_VECTOR3(float, float3, 4)
CAMFAST_VECTOR4(float, float4, 16)
CAMFAST_VECTOR2(double, double2, 16)
#undef CAMFAST_VECTOR2
#undef CAMFAST_VECTOR3
#undef CAMFAST_VECTOR4

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};

// ---- bits ----------------------------------------------------------------------------------------------------------

namespace emu {
template <class To, class From>
inline To bit_cast(From from) {
  static_assert(sizeof(To) == sizeof(From), "bit_cast needs equal sizes");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
}  // namespace emu

// Rounded towards zero; the sum of two floats is exact as a double, or close enough to tell on which side it lies.
inline float __fadd_rz(float a, float b) {
  const double sum = double(a) + double(b);
  const float nearest = float(sum);
  return std::fabs(double(nearest)) > std::fabs(sum) ? std::nextafter(nearest, 0.f) : nearest;
}
inline float __int_as_float(int v) { return emu::bit_cast<float>(v); }
inline float __uint_as_float(unsigned v) { return emu::bit_cast<float>(v); }
inline int __float_as_int(float v) { return emu::bit_cast<int>(v); }
inline unsigned __float_as_uint(float v) { return emu::bit_cast<unsigned>(v); }
inline double __longlong_as_double(long long v) { return emu::bit_cast<double>(v); }
inline long long __double_as_longlong(double v) { return emu::bit_cast<long long>(v); }
inline int __popc(unsigned v) { return __builtin_popcount(v); }
inline int __popcll(unsigned long long v) { return __builtin_popcountll(v); }
inline int __ffs(int v) { return __builtin_ffs(v); }
inline int __clz(int v) { return v == 0 ? 32 : __builtin_clz(static_cast<unsigned>(v)); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>((uint64_t(a) * b) >> 32); }
inline unsigned __byte_perm(unsigned low, unsigned high, unsigned selector) {
  const uint64_t bytes = uint64_t(high) << 32 | low;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) {
    const unsigned pick = selector >> (4 * i) & 0xF;
    unsigned byte = unsigned(bytes >> (8 * (pick & 7))) & 0xFF;
    if (pick & 8) byte = byte & 0x80 ? 0xFF : 0;  // bit 3 replicates the sign
    result |= byte << (8 * i);
  }
  return result;
}

// ---- scalar maths --------------------------------------------------------------------------------------------------

inline float rsqrtf(float v) { return 1.0f / sqrtf(v); }
inline double rsqrt(double v) { return 1.0 / sqrt(v); }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float __fdividef(float a, float b) { return a / b; }
inline float __frcp_rn(float v) { return 1.0f / v; }
inline float __fsqrt_rn(float v) { return sqrtf(v); }
inline float __expf(float v) { return expf(v); }
inline float __logf(float v) { return logf(v); }
inline float __saturatef(float v) { return v > 0.0f ? (v < 1.0f ? v : 1.0f) : 0.0f; }  // NaN becomes 0, as there

// A float outside the integer's range clamps and NaN becomes 0 (the hardware's cvt); a plain C++ cast is undefined.
namespace emu {
template <class Int>
inline Int to_integer(double rounded, double low, double high, Int smallest, Int largest) {
  if (rounded != rounded) return 0;
  return rounded <= low ? smallest : rounded >= high ? largest : static_cast<Int>(rounded);
}
inline int to_int(double v) { return to_integer<int>(v, -2147483648.0, 2147483647.0, INT32_MIN, INT32_MAX); }
inline unsigned to_uint(double v) { return to_integer<unsigned>(v, 0.0, 4294967295.0, 0u, UINT32_MAX); }
}  // namespace emu

inline int __float2int_rn(float v) { return emu::to_int(nearbyint(double(v))); }
inline int __float2int_rz(float v) { return emu::to_int(trunc(double(v))); }
inline int __float2int_rd(float v) { return emu::to_int(floor(double(v))); }
inline int __float2int_ru(float v) { return emu::to_int(ceil(double(v))); }
inline unsigned __float2uint_rn(float v) { return emu::to_uint(nearbyint(double(v))); }
inline unsigned __float2uint_rz(float v) { return emu::to_uint(trunc(double(v))); }

#define CAMFAST_MIN_MAX(T) \
  inline T min(T a, T b) { return b < a ? b : a; } \
  inline T max(T a, T b) { return a < b ? b : a; }
CAMFAST_MIN_MAX(int)
CAMFAST_MIN_MAX(unsigned)
CAMFAST_MIN_MAX(long)
CAMFAST_MIN_MAX(unsigned long)
CAMFAST_MIN_MAX(long long)
CAMFAST_MIN_MAX(unsigned long long)
#undef CAMFAST_MIN_MAX
// Floating point: like fmin and fmax, a NaN loses against a number.
inline float min(float a, float b) { return fminf(a, b); }
inline float max(float a, float b) { return fmaxf(a, b); }
inline double min(double a, double b) { return fmin(a, b); }
inline double max(double a, double b) { return fmax(a, b); }

// ---- half and bfloat16 ---------------------------------------------------------------------------------------------
// Storage and conversions only, all explicit, so that arithmetic in 16 bits cannot slip in unnoticed.

namespace emu {
inline uint16_t half_bits(float v) {  // round to nearest even
  const uint32_t bits = bit_cast<uint32_t>(v), sign = bits >> 16 & 0x8000, size = bits & 0x7FFFFFFF;
  if (size > 0x7F800000) return 0x7FFF;                                 // NaN
  if (size >= 0x477FF000) return uint16_t(sign | 0x7C00);               // 65520 and more: infinity
  if (size < 0x38800000)                                                // subnormal: a count of 2^-24
    return uint16_t(sign | unsigned(nearbyintf(fabsf(v) * 16777216.0f)));
  return uint16_t(sign | ((size + 0xFFF + (size >> 13 & 1) - 0x38000000) >> 13));
}
inline float half_value(uint16_t bits) {
  const uint32_t sign = uint32_t(bits & 0x8000) << 16, exponent = bits >> 10 & 31, fraction = bits & 0x3FF;
  if (exponent == 0) return copysignf(float(fraction) / 16777216.0f, bit_cast<float>(sign | 0x3F800000));
  if (exponent == 31) return bit_cast<float>(sign | 0x7F800000 | fraction << 13);
  return bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
}
inline uint16_t bfloat16_bits(float v) {  // round to nearest even
  const uint32_t bits = bit_cast<uint32_t>(v);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return 0x7FFF;
  return uint16_t((bits + 0x7FFF + (bits >> 16 & 1)) >> 16);
}
}  // namespace emu

struct __half {
  uint16_t bits;
  __half() = default;
  explicit __half(float v) : bits(emu::half_bits(v)) {}
  explicit operator float() const { return emu::half_value(bits); }
};
struct __nv_bfloat16 {
  uint16_t bits;
  __nv_bfloat16() = default;
  explicit __nv_bfloat16(float v) : bits(emu::bfloat16_bits(v)) {}
  explicit operator float() const { return emu::bit_cast<float>(uint32_t(bits) << 16); }
};
using half = __half;
using nv_bfloat16 = __nv_bfloat16;
struct alignas(4) __half2 { __half x, y; };
struct alignas(4) __nv_bfloat162 { __nv_bfloat16 x, y; };
using half2 = __half2;
using nv_bfloat162 = __nv_bfloat162;

inline float __half2float(__half v) { return float(v); }
inline __half __float2half(float v) { return __half(v); }
inline __half __float2half_rn(float v) { return __half(v); }
inline float2 __half22float2(__half2 v) { return {float(v.x), float(v.y)}; }
inline __half2 __float22half2_rn(float2 v) { return {__half(v.x), __half(v.y)}; }
inline __half2 __floats2half2_rn(float x, float y) { return {__half(x), __half(y)}; }
inline float __bfloat162float(__nv_bfloat16 v) { return float(v); }
inline __nv_bfloat16 __float2bfloat16(float v) { return __nv_bfloat16(v); }
inline __nv_bfloat16 __float2bfloat16_rn(float v) { return __nv_bfloat16(v); }
inline float2 __bfloat1622float2(__nv_bfloat162 v) { return {float(v.x), float(v.y)}; }
inline __nv_bfloat162 __float22bfloat162_rn(float2 v) { return {__nv_bfloat16(v.x), __nv_bfloat16(v.y)}; }
inline __nv_bfloat162 __floats2bfloat162_rn(float x, float y) { return {__nv_bfloat16(x), __nv_bfloat16(y)}; }

// Numbers: the 16-bit formats and the scalar intrinsics.
#include "check.h"

namespace {

// Rounds by search over all finite values of the format, ties to the even pattern.
template <typename T>
void check_rounding(unsigned infinity, float above_largest, float smallest) {
  auto value = [](unsigned bits) {
    T v;
    v.bits = uint16_t(bits);
    return float(v);
  };
  for (unsigned bits = 0; bits < infinity; ++bits) {
    const float low = value(bits);
    CHECK(T(low).bits == bits && T(-low).bits == (bits | 0x8000));
    if (bits + 1 == infinity) break;
    const float high = value(bits + 1), middle = float((double(low) + double(high)) / 2);
    CHECK(T(middle).bits == (bits % 2 ? bits + 1 : bits));
    if (middle > low && middle < high) {
      CHECK(T(nextafterf(middle, low)).bits == bits);
      CHECK(T(nextafterf(middle, high)).bits == bits + 1);
    }
  }
  CHECK(T(INFINITY).bits == infinity && T(-INFINITY).bits == (infinity | 0x8000) && T(NAN).bits == 0x7FFF);
  CHECK(T(above_largest).bits == infinity);
  CHECK(float(T(smallest)) == smallest && T(smallest).bits == 1);
  CHECK(isnan(float(T(NAN))) && isinf(float(T(INFINITY))));
}

TEST(half_rounds_to_nearest_even) { check_rounding<half>(0x7C00, 65520.0f, 0x1p-24f); }
TEST(bfloat16_rounds_to_nearest_even) { check_rounding<nv_bfloat16>(0x7F80, 0x1.FFp127f, 0x1p-133f); }

TEST(scalar_intrinsics) {
  CHECK(__byte_perm(0x33221100u, 0x77665544u, 0x7520) == 0x77552200u);
  CHECK(__byte_perm(0x000080FFu, 0, 0x9988) == 0xFFFFFFFFu);
  CHECK(__float2int_rn(2.5f) == 2 && __float2int_rn(3.5f) == 4 && __float2int_rz(-2.7f) == -2);
  CHECK(__float2int_rd(-2.5f) == -3 && __float2int_rn(1e20f) == INT32_MAX && __float2int_rn(NAN) == 0);
  CHECK(__float2uint_rn(-3.0f) == 0 && __float2uint_rn(255.4f) == 255);
  CHECK(min(NAN, 1.0f) == 1.0f && max(2.0, double(NAN)) == 2.0 && max(-3, 2) == 2 && __saturatef(NAN) == 0.0f);
  CHECK(__clz(1) == 31 && __clz(0) == 32 && __ffs(8) == 4 && __popc(0xF0F0u) == 8);
  CHECK(__umulhi(0x80000000u, 6u) == 3 && __float_as_uint(1.0f) == 0x3F800000u && rsqrtf(4.0f) == 0.5f);
  CHECK(sizeof(float4) == 16 && alignof(float4) == 16 && sizeof(uchar3) == 3 && sizeof(half2) == 4);
}

}  // namespace

// From a tensor's dtype to the C++ type of its values: the one switch over dtypes.
//
//   dispatch<Floating>(tensor.scalar_type(), [&](auto type) { compute<typename decltype(type)::type>(...); });
#pragma once

#ifdef USE_CUDA
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#else
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>
#endif

#include "tensor.h"

namespace camfast {

#ifdef USE_CUDA
using Half = __half;
using BFloat16 = __nv_bfloat16;
#else
using Half = torch::headeronly::Half;
using BFloat16 = torch::headeronly::BFloat16;
#endif

template <class T>
struct Type {
  using type = T;
};
template <class... T>
struct Types {};

using Floating = Types<double, float, Half, BFloat16>;
using UpToSingle = Types<float, Half, BFloat16>;

template <class T>
constexpr ScalarType kScalarType = std::is_same_v<T, double> ? ScalarType::Double
    : std::is_same_v<T, float>                               ? ScalarType::Float
    : std::is_same_v<T, Half>                                ? ScalarType::Half
                                                             : ScalarType::BFloat16;

template <class... T, class Body>
void dispatch(Types<T...>, ScalarType type, const Body& body) {
  const bool known = ((type == kScalarType<T> && (body(Type<T>{}), true)) || ...);
  STD_TORCH_CHECK(known, "there is no kernel for ", torch::headeronly::toString(type));
}

// `List` is one of the above.
template <class List, class Body>
void dispatch(ScalarType type, const Body& body) {
  dispatch(List{}, type, body);
}

} // namespace camfast

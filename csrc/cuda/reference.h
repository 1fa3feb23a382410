// fp64 on CUDA: the op's plain-PyTorch reference, which camfast/ops/registration.py makes known as `camfast::<op>_reference`.
// fp64 is for checks of gradients; kernels for it would take as long to compile as those for all the others.
#pragma once

#include "../tensor.h"

namespace camfast::cuda {

// Whether a boxed argument, which stays the stack's own, is an fp64 tensor.
inline bool is_double(StableIValue tensor) {
  int32_t dtype = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_dtype(torch::stable::detail::to<AtenTensorHandle>(tensor), &dtype));
  return dtype == aoti_torch_dtype_float64();
}

} // namespace camfast::cuda

// Makes `kernel` the CUDA kernel of `op`, whose first argument says the dtype. The stack goes on as it came: both kernels and
// the dispatcher take its arguments over and leave the result in the first place.
#define CAMFAST_IMPL_OR_REFERENCE(library, op, kernel)                                                           \
  library.impl(#op, [](StableIValue* stack, uint64_t arguments, uint64_t results) {                              \
    if (camfast::cuda::is_double(stack[0])) {                                                                    \
      TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("camfast::" #op "_reference", "", stack, TORCH_ABI_VERSION)); \
    } else {                                                                                                     \
      TORCH_BOX(kernel)(stack, arguments, results);                                                              \
    }                                                                                                            \
  })

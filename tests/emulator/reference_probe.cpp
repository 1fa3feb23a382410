// What csrc/cuda/reference.h does on CUDA, on the CPU: an op of the same schema whose kernel serves all but fp64.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "../../csrc/cuda/reference.h"

namespace {

using camfast::OptionalSizes;
using camfast::Tensor;

// Not the op: fp64 must never come here.
Tensor kernel(const Tensor& activations, const Tensor& gradients, OptionalSizes size, bool normalize) {
  return camfast::allocate({0}, camfast::ScalarType::Float, activations);
}

Tensor kpca_kernel(const Tensor& activations, OptionalSizes size, bool normalize, std::optional<double> gamma) {
  return camfast::allocate({0}, camfast::ScalarType::Float, activations);
}

} // namespace

STABLE_TORCH_LIBRARY(camfast_probe, m) {
  m.def("grad_cam(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("kpca_cam(Tensor activations, SymInt[]? size=None, bool normalize=True, float? gamma=None) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(camfast_probe, CPU, m) {
  CAMFAST_IMPL_OR_REFERENCE(m, grad_cam, &kernel);
  CAMFAST_IMPL_OR_REFERENCE(m, kpca_cam, &kpca_kernel);
}

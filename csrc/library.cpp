// Every op's schema, in the order in which data flows. Kernels register themselves beside their code, for the CPU in
// csrc/cpu and for CUDA in csrc/cuda; fakes, gradients and the fallback for other devices are in camfast/ops/.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <torch/csrc/stable/library.h>

#include <string>

#include "cpu/simd.h"

// `import camfast._C` loads this library; there is nothing to call in it.
extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

namespace {

std::string cpu_capability() {
  switch (camfast::isa()) {
    case camfast::Isa::avx512: return "AVX-512";
    case camfast::Isa::avx2: return "AVX2";
    default: return "baseline";
  }
}

} // namespace

STABLE_TORCH_LIBRARY(camfast, m) {
  // frames uint8 [N, H, W, 3] -> images [N, 3, *size]; box [left, top, right, bottom] in the frame's pixels
  m.def(
      "preprocess(Tensor frames, SymInt[] size, float[] mean, float[] std, ScalarType dtype=float, float[]? box=None, "
      "bool channels_last=False) -> Tensor");
  // activations [N, C, *map], weights [N, C] or [N, K, C] -> heatmap [N, *size] or [N, K, *size]
  m.def("cam(Tensor activations, Tensor weights, SymInt[]? size=None, bool normalize=True) -> Tensor");
  // activations [N, C, *map], gradients [N, C, *map] or [N, K, C, *map] -> heatmap [N, *size] or [N, K, *size]
  m.def("grad_cam(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("grad_cam_plus_plus(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("xgrad_cam(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("hires_cam(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("layer_cam(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("grad_cam_elementwise(Tensor activations, Tensor gradients, SymInt[]? size=None, bool normalize=True) -> Tensor");
  // activations [N, C, *map] -> heatmap [N, *size]: the projection on the first principal component, linear or of a kernel
  m.def("eigen_cam(Tensor activations, SymInt[]? size=None, bool normalize=True) -> Tensor");
  m.def("kpca_cam(Tensor activations, SymInt[]? size=None, bool normalize=True, float? gamma=None) -> Tensor");
  // maps [M, *map] -> [M, *size]
  m.def("resize_normalize(Tensor maps, SymInt[]? size=None, bool normalize=True, bool relu=False) -> Tensor");
  // Derivatives, in the dtype of sums: by the maps, of the derivative by the result [M, *size]
  m.def("resize_normalize_backward(Tensor grad, Tensor maps, bool normalize, bool relu) -> Tensor");
  // by activations and by gradients or weights, of the derivative by the raw maps [N, (K,) *map]; rule: its number in math/cam.h
  m.def("cam_backward(Tensor grad, Tensor activations, Tensor second, int rule) -> (Tensor, Tensor)");
  // images [N, P, *size], maps [N, C, *map] fp32 (fp64 for fp64 images) -> images masked by each map [N * C, P, *size]
  m.def("mask_images(Tensor images, Tensor maps, bool align_corners=True, bool scale_first=False) -> Tensor");
  // images fp32 [B, C, H, W], removed bool [B, H, W], noise [B, C, H, W] or none -> images with new values at removed pixels
  m.def("linear_imputation(Tensor images, Tensor removed, Tensor? noise=None, float tolerance=0.002) -> Tensor");
  // frames uint8 [N, H, W, 3], heatmap [N, h, w], colors uint8 [256, 3] -> uint8 [N, H, W, 3]
  m.def("overlay(Tensor frames, Tensor heatmap, Tensor colors, float alpha=0.5) -> Tensor");
  // maps [M, h, w], colors uint8 [256, 3], limits [2] or none -> uint8 picture [H, W, 3] of tiles
  m.def(
      "tile_maps(Tensor maps, Tensor colors, SymInt columns, SymInt pad_y=2, SymInt pad_x=2, SymInt scale=1, "
      "Tensor? limits=None, int background=255) -> Tensor");
  // Which instruction set the CPU kernels use on this machine.
  m.def("cpu_capability() -> str");
}

STABLE_TORCH_LIBRARY_IMPL(camfast, CompositeExplicitAutograd, m) { m.impl("cpu_capability", TORCH_BOX(&cpu_capability)); }

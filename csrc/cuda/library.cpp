// The CUDA library's module: `import camfast._C_cuda` registers the CUDA kernels; there is nothing to call in it.
#define PY_SSIZE_T_CLEAN
#include <Python.h>

// Read by camfast.libraries.build_info() from the file itself, so that it is known where the library cannot be loaded.
extern "C" __attribute__((visibility("default"), used)) const char camfast_architectures[] =
    "camfast architectures: " CAMFAST_ARCHITECTURES;

extern "C" __attribute__((visibility("default"))) PyObject* PyInit__C_cuda(void) {
  static PyModuleDef module = {PyModuleDef_HEAD_INIT, "_C_cuda", nullptr, -1, nullptr, nullptr, nullptr, nullptr, nullptr};
  return PyModule_Create(&module);
}

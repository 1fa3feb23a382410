// The Grad-CAM family's kernels.
#include "../cuda/cam_kernel.cu"

// Kernels that take nvcc a few seconds each, and as long again for every file that it starts on.
#include "../cuda/cam_backward_kernel.cu"
#include "../cuda/mask_images_kernel.cu"
#include "../cuda/overlay_kernel.cu"
#include "../cuda/preprocess_kernel.cu"
#include "../cuda/resize_normalize_backward_kernel.cu"
#include "../cuda/resize_normalize_kernel.cu"
#include "../cuda/tile_maps_kernel.cu"

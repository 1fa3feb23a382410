#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<__half>(const CamCall&);
template cudaError_t launch_resize<__half>(const ResizeCall&);
} // namespace camfast::cuda

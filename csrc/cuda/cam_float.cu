#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<float>(const CamCall&);
template cudaError_t launch_resize<float>(const ResizeCall&);
} // namespace camfast::cuda

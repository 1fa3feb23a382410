#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<double>(const CamCall&);
template cudaError_t launch_resize<double>(const ResizeCall&);
} // namespace camfast::cuda

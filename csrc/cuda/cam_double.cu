#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<double>(const CamCall&);
} // namespace camfast::cuda

#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<__half>(const CamCall&);
} // namespace camfast::cuda

#include "cam_launch.cuh"

namespace camfast::cuda {
template cudaError_t launch_cam<__nv_bfloat16>(const CamCall&);
} // namespace camfast::cuda

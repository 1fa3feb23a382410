// The kernels of Eigen-CAM and KPCA-CAM.
#include "../cuda/eigen_cam_kernel.cu"

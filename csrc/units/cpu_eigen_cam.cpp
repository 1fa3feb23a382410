// Eigen-CAM and KPCA-CAM.
#include "../cpu/eigen_cam.cpp"

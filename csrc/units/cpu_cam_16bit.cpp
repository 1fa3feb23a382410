// The Grad-CAM family for 16 bits.
#include "../cpu/cam_16bit.cpp"

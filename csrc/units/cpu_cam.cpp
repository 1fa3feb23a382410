// The Grad-CAM family for 32 and 64 bits.
#include "../cpu/cam.cpp"

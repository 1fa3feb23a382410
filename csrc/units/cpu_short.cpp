// The schemas, and ops that compile in a few seconds each: parsing torch's headers for each takes as long again.
#include "../library.cpp"

#include "../cpu/cam_backward.cpp"
#include "../cpu/mask_images.cpp"
#include "../cpu/overlay.cpp"
#include "../cpu/preprocess.cpp"
#include "../cpu/resize.cpp"
#include "../cpu/resize_normalize.cpp"
#include "../cpu/resize_normalize_backward.cpp"
#include "../cpu/tile_maps.cpp"

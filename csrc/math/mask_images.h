// How Score-CAM scales a map that masks an image.
#pragma once

#include "resize_normalize.h"

namespace camfast {

constexpr double kMaskEps = 1e-8;

// A mask of Score-CAM: the resized map from 0 to 1, (x - min) / (max - min + eps), the range being that of the resized map,
// or of the map itself. A range that is not finite makes everything NaN; a constant map becomes 0 (min_max_normalizer).
template <class T>
CAMFAST_HD Normalizer<T> mask_normalizer(T low, T high, bool constant, T finite) {
  const T range = high - low;
  const T scale = (constant ? T(0) : T(1) / (range + T(kMaskEps))) + finite * T(0);
  return {low, scale, T(0), range * scale};
}

} // namespace camfast

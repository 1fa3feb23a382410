// What the CPU and the CUDA kernel of `preprocess` share: the arguments, checked, and the filter's arithmetic.
#pragma once

#include <math.h>

#include "scalar.h"

namespace camfast {

// One axis of an antialiased linear resize. Output `i` has its centre at start + (i + 0.5) * step in the frame, and
// weighs what lies under a triangle of half-width `reach`: frame pixel j, whose centre is j + 0.5, by 1 - distance / reach
struct ResizeAxis {
  float start, step, reach, slope; // slope: 1 / reach
  int length, out;                 // of the frame and of the result

  CAMFAST_HD float centre(int i) const { return start + (float(i) + 0.5f) * step; }
  CAMFAST_HD bool inside(float centre) const { return centre >= 0.f && centre <= float(length); }
  // The first pixel under the triangle, and the one after the last.
  CAMFAST_HD int first(float centre) const {
    const float at = ceilf(centre - reach - 0.5f);
    return at < 0.f ? 0 : int(at);
  }
  CAMFAST_HD int end(float centre) const {
    const float at = floorf(centre + reach - 0.5f) + 1.f;
    return at > float(length) ? length : int(at);
  }
  // Not below 0: rounding may put a pixel at the triangle's foot outside it.
  CAMFAST_HD float weight(int j, float centre) const {
    const float w = 1.f - fabsf(float(j) + 0.5f - centre) * slope;
    return w < 0.f ? 0.f : w;
  }
};

inline ResizeAxis resize_axis(double start, double end, int64_t length, int64_t out) {
  const double step = (end - start) / double(out);
  const double reach = step > 1.0 ? step : 1.0;
  return {float(start), float(step), float(reach), float(1.0 / reach), int(length), int(out)};
}

// value * scale + shift, for sums of levels from 0 to 255.
struct Normalise {
  float scale[3], shift[3];
};

} // namespace camfast

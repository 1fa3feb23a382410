// What the CPU and the CUDA kernel of `preprocess` share: the arguments, checked, and the filter's arithmetic.
#pragma once

#include <math.h>

#include "scalar.h"

namespace camfast {

// One axis of an antialiased linear resize. Output `i` has its centre at start + (i + 0.5) * step in the frame, and
// weighs what lies under a triangle of half-width `reach`: frame pixel j, whose centre is j + 0.5, by 1 - distance / reach.
// Centres are found in double precision: single would be off by a thousandth of a pixel in a frame of some thousand.
struct ResizeAxis {
  double start, step;
  float reach, slope; // slope: 1 / reach
  int length, out;    // of the frame and of the result

  // A centre: the pixel that it lies in, and how far behind the pixel's start.
  struct Centre {
    int pixel;
    float within;
    bool inside; // the frame
  };

  CAMFAST_HD Centre centre(int i) const {
    const double at = start + (double(i) + 0.5) * step;
    const bool inside = at >= 0.0 && at <= double(length);
    const double pixel = inside ? floor(at) : at < 0.0 ? 0.0 : double(length);
    return {int(pixel), inside ? float(at - pixel) : 0.f, inside};
  }
  // The first pixel under the triangle, and the one after the last.
  CAMFAST_HD int first(const Centre& c) const {
    const float at = ceilf(c.within - reach - 0.5f);
    const int j = at < -float(c.pixel) ? 0 : c.pixel + int(at); // a wide triangle's foot may be too far away to be counted
    return j < 0 ? 0 : j;
  }
  CAMFAST_HD int end(const Centre& c) const {
    const float at = floorf(c.within + reach - 0.5f) + 1.f;
    const int j = at > float(length - c.pixel) ? length : c.pixel + int(at);
    return j > length ? length : j;
  }
  // Not below 0: rounding may put a pixel at the triangle's foot outside it.
  CAMFAST_HD float weight(int j, const Centre& c) const {
    const float w = 1.f - fabsf(float(j - c.pixel) + 0.5f - c.within) * slope;
    return w < 0.f ? 0.f : w;
  }
};

inline ResizeAxis resize_axis(double start, double end, int64_t length, int64_t out) {
  const double step = (end - start) / double(out);
  const double reach = step > 1.0 ? step : 1.0;
  return {start, step, float(reach), float(1.0 / reach), int(length), int(out)};
}

// value * scale + shift, for sums of levels from 0 to 255.
struct Normalise {
  float scale[3], shift[3];
};

} // namespace camfast

// The derivative of y = (x - min x) / (eps + max x - min x):
//
//   dL/dx = (dL/dy - at_low [x is the least] / lows - at_high [x is the greatest] / highs) / (eps + max x - min x)
//   at_high = sum dL/dy * y        at_low = sum dL/dy - at_high
//
// The least and greatest values share theirs evenly where there are several. A constant x has the derivative 0: its slope,
// one over eps, would be that of rounding. Resizing is linear, and its derivative the transposed sum.
#pragma once

#include "resize_normalize.h"

namespace camfast {

template <class T>
struct MinMaxSlope {
  T low, high, scale;      // scale: 1 / (eps + range), 0 for a constant x, NaN where a value is not finite
  T low_share, high_share; // what each least and each greatest value takes

  CAMFAST_HD T operator()(T grad, T x) const {
    return (grad - (x == low ? low_share : T(0)) - (x == high ? high_share : T(0))) * scale;
  }
};

// `total` is sum dL/dy, `above` is sum dL/dy * (x - min x); `lows` and `highs` count the least and the greatest values.
template <class T>
CAMFAST_HD MinMaxSlope<T> min_max_slope(T low, T high, T total, T above, T lows, T highs, T finite) {
  const T range = high - low;
  const T slope = range == T(0) ? T(0) : T(1) / (T(kRangeEps) + range);
  const T at_high = above * slope;
  return {low, high, slope + finite * T(0), (total - at_high) / lows, at_high / highs};
}

} // namespace camfast

// How a heat value becomes a colour, and a colour is laid over a frame.
#pragma once

#include "scalar.h"

namespace camfast {

// One 8-bit colour channel of an overlay, (1 - alpha) * frame + alpha * colour; without its fraction, halves are rounded up.
CAMFAST_HD float blended(float frame, float frame_share, float color_times_alpha) {
  return frame * frame_share + color_times_alpha + 0.5f;
}

CAMFAST_HD uint8_t blend(float frame, float frame_share, float color_times_alpha) {
  return uint8_t(blended(frame, frame_share, color_times_alpha));
}

// Where in the colour table a heat value lies, from 0 to 255; its row is this without the fraction.
CAMFAST_HD float color_place(float heat) { return (heat < 0.f ? 0.f : heat > 1.f ? 1.f : heat) * 255.f; }

// The row of the colour table for a heat value; -1 for NaN, where the frame shows through.
CAMFAST_HD int color_index(float heat) { return heat == heat ? int(color_place(heat)) : -1; }

} // namespace camfast

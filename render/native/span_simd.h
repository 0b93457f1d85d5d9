// Where the drawn ellipse meets a strip of pixel rows: what tiles and cells are told by.
#pragma once

#include "frame.h"
#include "lanes.h"

namespace fieldpress::render::FIELDPRESS_ISA {

// Left and right end of the ellipse within strips of rows [low, high], these from the mean; x: the
// mean from wherever the ends are wanted. A strip that it misses gives NaN.
template <typename V>
FP_INLINE void span(const Splat& s, float x, V low, V high, V& left, V& right) {
  const V ay = all<V>(s.ay), axy = all<V>(s.axy), inverse = all<V>(s.inverse_ax);
  const V widest = all<V>(s.widest_y), reach = all<V>(s.reach + SLACK_REACH);
  const V up = least(most(widest, low), high), down = least(most(-widest, low), high);
  const V ru = rough_root(reach - (ay * up) * (ay * up));
  const V rd = rough_root(reach - (ay * down) * (ay * down));
  right = x + SLACK_PIXELS + (ru - axy * up) * inverse;
  left = x - SLACK_PIXELS - (rd + axy * down) * inverse;
}

}  // namespace fieldpress::render::FIELDPRESS_ISA

"""Places on a Morton curve: Gaussians that are near on it are near in space."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ..quant import entropy

DEPTH = 20  # Bits an axis.
STRIP = 1 << 14  # Centres that are in double precision at once.


def along_curve(means: Tensor) -> NDArray[np.uint64]:
    """[N] Morton codes of finite centres [N, 3] in the cube that holds them."""
    low, span = 0.0, 1e-300
    if len(means):
        low = means.amin(0).double()
        span = max(float((means.amax(0).double() - low).max()), span)
    cells = [
        ((part.double() - low) / span * ((1 << DEPTH) - 1)).numpy().astype(np.uint32)
        for part in means.detach().split(STRIP)
    ]
    return entropy.morton_codes(np.concatenate(cells))

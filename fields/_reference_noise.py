"""Plain twin of the compiled scores of candidates (fields/native/noise.h), in double precision."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .bayes_noise import NORMAL_SHIFT, normals


def scores(
    coefficients: NDArray[np.float32], place: tuple[int, int], first: int, count: int
) -> NDArray[np.float64]:
    """[rows, count]: coefficients [rows, 2 d] of z^2 and z, times those of each candidate."""
    z = normals(np.arange(first, first + count), *place, coefficients.shape[1] // 2)
    z = z / float(1 << NORMAL_SHIFT)
    return coefficients.astype(np.float64) @ np.concatenate([z * z, z])

"""Gaussians in canonical form: axes sorted by size, rotation as one direction and one roll.

The same ellipsoid has 48 descriptions (6 axis orders, signs of the axes, q and -q). Sorting the
scales and coding lines instead of arrows picks one of them, and tells the decoder how much each
angle matters: the roll of a round disc, or of a round needle, is invisible and costs nothing.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant.exact import exact_exp, exact_log, quaternions

Double = NDArray[np.floating]
LEAST_LOG = 9.11e-4  # -ln alpha of logit 7


def rotations(quats: Tensor) -> Tensor:
    """[M, 3, 3] from quaternions [M, 4] wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def is_needle(scales: NDArray) -> NDArray[np.bool_]:
    """[N] whether sorted log scales [N, 3] fall more from the first to the second than after."""
    return (scales[:, 0] - scales[:, 1]) > (scales[:, 1] - scales[:, 2])


def sort_axes(quats: Double, scales: Double) -> tuple[Double, Double]:
    """Unit axes [N, 3 axes, 3] and log scales [N, 3], both by falling scale."""
    w, x, y, z = quats.T
    axes = np.stack(
        [
            np.stack([1 - 2 * (y * y + z * z), 2 * (x * y + w * z), 2 * (x * z - w * y)], 1),
            np.stack([2 * (x * y - w * z), 1 - 2 * (x * x + z * z), 2 * (y * z + w * x)], 1),
            np.stack([2 * (x * z + w * y), 2 * (y * z - w * x), 1 - 2 * (x * x + y * y)], 1),
        ],
        axis=1,
    )
    order = np.argsort(-scales, axis=1, kind="stable")
    rows = np.arange(len(scales))[:, None]
    return axes[rows, order], scales[rows, order]


def to_angles(axes: Double, needle: NDArray[np.bool_]) -> tuple[Double, Double]:
    """Direction [N, 2] of the primary axis on the hemi-octahedral square, and roll [N] in [0, pi).

    The primary axis is the normal of a disc or the long axis of a needle; the roll turns the
    long axis of the disc, or the second axis of the needle, about it.
    """
    primary = np.where(needle[:, None], axes[:, 0], axes[:, 2])
    second = np.where(needle[:, None], axes[:, 1], axes[:, 0])
    primary = np.where(primary[:, 2:] < 0, -primary, primary)
    x, y, z = primary.T
    total = np.abs(x) + np.abs(y) + z
    square = np.stack([(x + y) / total, (x - y) / total], axis=1)
    first, other = _tangents(x, y, z)
    along, across = (second * first).sum(1), (second * other).sum(1)
    return square, np.mod(np.arctan2(across, along), np.pi)


def from_angles(square: Double, roll: Double) -> Double:
    """[N, 4] unit quaternions wxyz whose z axis is the primary and whose x axis the second.

    The same bits on every machine.
    """
    return quaternions(square, roll)


def logit_of_log(log_alpha: Double) -> Double:
    """Opacity logits from ln alpha, at most logit 7; the same bits on every machine."""
    odds = exact_exp(np.maximum(-log_alpha, LEAST_LOG)) - 1.0
    return -exact_log(odds)


def _tangents(x: Double, y: Double, z: Double) -> tuple[Double, Double]:
    """The images of the x and y axes under the shortest turn from z to (x, y, z), z >= 0."""
    f = 1.0 / (1.0 + z)
    first = np.stack([1.0 - x * x * f, -x * y * f, -x], axis=1)
    other = np.stack([-x * y * f, 1.0 - y * y * f, -y], axis=1)
    return first, other

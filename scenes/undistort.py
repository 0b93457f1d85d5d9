"""Lens distortion of the radial-tangential kind, taken out of photographs.

A photograph becomes that of a pinhole of the same focal length and pixel grid: pixel (u, v) of the
result is sampled where the lens put its ray. What remains is the largest upright rectangle that
the photograph covers entirely, as in COLMAP's undistorter without blank pixels. A mask of
invalid pixels would keep a little more of a corner, but every loss and every metric downstream
would then have to look at it. With several lenses in one scene the rectangle is what they share,
so that one image size remains.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
Lens = tuple[float, float, float, float, float]  # k1, k2, k3, p1, p2 as OpenCV defines them.
Rectangle = tuple[int, int, int, int]  # Left, top, right, bottom in pixels; may exceed the photo.

NO_DISTORTION: Lens = (0.0, 0.0, 0.0, 0.0, 0.0)
ITERATIONS = 30
TOLERANCE = 1e-9  # In units of the focal length: far below any pixel.
MAX_GROWTH = 0.5  # Of the photograph's side, beyond each border.
ROWS = 256  # Rows sampled at once, so that the sampling grid stays small.


def distort(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """Where a lens puts the ray (x, y, 1): normalised coordinates of any shape, float64.

    The model of Brown (1966) as OpenCV writes it: radial k1, k2, k3 and tangential p1, p2.
    """
    k1, k2, k3, p1, p2 = lens
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    cross = 2 * x * y
    return (
        x * radial + p1 * cross + p2 * (r2 + 2 * x * x),
        y * radial + p1 * (r2 + 2 * y * y) + p2 * cross,
    )


def _jacobian(x: Array, y: Array, lens: Lens) -> tuple[Array, Array, Array]:
    """The derivatives xx, xy = yx and yy of `distort`: its Jacobian is symmetric."""
    k1, k2, k3, p1, p2 = lens
    r2 = x * x + y * y
    radial = 1 + r2 * (k1 + r2 * (k2 + r2 * k3))
    slope = 2 * (k1 + r2 * (2 * k2 + r2 * 3 * k3))
    xx = radial + x * x * slope + 2 * p1 * y + 6 * p2 * x
    xy = x * y * slope + 2 * p1 * x + 2 * p2 * y
    yy = radial + y * y * slope + 6 * p1 * y + 2 * p2 * x
    return xx, xy, yy


def undistort_points(x: Array, y: Array, lens: Lens) -> tuple[Array, Array]:
    """The inverse of `distort` by Newton's method; NaN where no ray reaches a point.

    Coordinates are normalised, of any shape, float64.
    """
    u, v = x.copy(), y.copy()
    with np.errstate(all="ignore"):  # Points that no ray reaches wander off; they end as NaN.
        for _ in range(ITERATIONS):
            xx, xy, yy = _jacobian(u, v, lens)
            dx, dy = distort(u, v, lens)
            dx, dy = dx - x, dy - y
            determinant = xx * yy - xy * xy
            u -= (yy * dx - xy * dy) / determinant
            v -= (xx * dy - xy * dx) / determinant
        dx, dy = distort(u, v, lens)
        reached = (np.hypot(dx - x, dy - y) < TOLERANCE) & _unfolded(u, v, lens)
    return np.where(reached, u, np.nan), np.where(reached, v, np.nan)


def _unfolded(x: Array, y: Array, lens: Lens) -> NDArray[np.bool_]:
    """Whether the lens keeps order on the whole way from the axis to a ray: no mirrored image."""
    fine = np.ones(x.shape, bool)
    with np.errstate(all="ignore"):
        for part in (0.25, 0.5, 0.75, 1.0):
            xx, xy, yy = _jacobian(part * x, part * y, lens)
            fine &= (xx > 0) & (xx * yy > xy * xy)
    return fine


def valid_rectangle(
    Ks: Sequence[Array], lenses: Sequence[Lens], width: int, height: int
) -> Rectangle:
    """The largest upright rectangle that undistorted photographs of all lenses cover.

    Args:
        Ks: [3, 3] intrinsics of each lens.
        lenses: k1, k2, k3, p1, p2 of each.
        width: columns of the photographs.
        height: their rows.

    Returns:
        Left, top, right and bottom in pixels of the undistorted photograph, whose pixel (0, 0) is
        the photograph's own where there is no distortion.

    Raises:
        ValueError: where a lens leaves nothing, or folds the image inside the rectangle.
    """
    inside = np.array([-MAX_GROWTH * width, -MAX_GROWTH * height])
    outside = np.array([(1 + MAX_GROWTH) * width, (1 + MAX_GROWTH) * height])
    for K, lens in zip(Ks, lenses, strict=True):
        low, high = _straightened_border(K, lens, width, height)
        inside, outside = np.maximum(inside, low), np.minimum(outside, high)
    slack = 1e-6  # Rounding alone is not worth a row of pixels.
    left, top = (int(x) for x in np.ceil(inside - slack))
    right, bottom = (int(x) for x in np.floor(outside + slack))
    kept = left, top, right, bottom
    for K, lens in zip(Ks, lenses, strict=True):
        if right <= left or bottom <= top or not _covers(K, lens, kept, width, height):
            raise ValueError(f"lens distortion {lens}: expected one that has an inverse")
    return kept


def _straightened_border(K: Array, lens: Lens, width: int, height: int) -> tuple[Array, Array]:
    """How far the straightened sides reach inwards: (left, top) and (right, bottom)."""
    along = np.linspace(0, 1, 257)
    ends = np.zeros_like(along), np.ones_like(along)
    u = width * np.stack([ends[0], along, ends[1], along])
    v = height * np.stack([along, ends[0], along, ends[1]])
    x, y = undistort_points((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], lens)
    # A corner that no ray reaches bounds nothing; the photograph's own border does then.
    u = np.where(np.isnan(x), u, x * K[0, 0] + K[0, 2])
    v = np.where(np.isnan(y), v, y * K[1, 1] + K[1, 2])
    return np.array([u[0].max(), v[1].max()]), np.array([u[2].min(), v[3].min()])


def _covers(K: Array, lens: Lens, kept: Rectangle, width: int, height: int) -> bool:
    """Whether the rays of a rectangle land on the photograph, and in order."""
    u, v = np.meshgrid(np.linspace(kept[0], kept[2], 33), np.linspace(kept[1], kept[3], 33))
    x, y = (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]
    with np.errstate(all="ignore"):
        u, v = distort(x, y, lens)
        u, v = u * K[0, 0] + K[0, 2], v * K[1, 1] + K[1, 2]
        outside = np.stack([-u, -v, u - width, v - height])
        return bool((outside < 1).all() and _unfolded(x, y, lens).all())


def undistort(pixels: Tensor, K: Array, lens: Lens, rectangle: Rectangle) -> Tensor:
    """A photograph without its lens's distortion, sampled bilinearly.

    Args:
        pixels: [H, W, C] float32.
        K: [3, 3] its intrinsics.
        lens: k1, k2, k3, p1, p2.
        rectangle: left, top, right, bottom of the result, as `valid_rectangle` gives them.

    Returns:
        [bottom - top, right - left, C] float32; its intrinsics are K with (left, top) taken off
        the principal point.
    """
    left, top, right, bottom = rectangle
    height, width = pixels.shape[:2]
    planes = pixels.permute(2, 0, 1)[None].contiguous()
    result = torch.empty(bottom - top, right - left, pixels.shape[2])
    x = (np.arange(left, right) + 0.5 - K[0, 2])[None, :] / K[0, 0]
    for start in range(top, bottom, ROWS):
        stop = min(start + ROWS, bottom)
        y = (np.arange(start, stop) + 0.5 - K[1, 2])[:, None] / K[1, 1]
        u, v = distort(x + 0 * y, y + 0 * x, lens)
        u, v = u * K[0, 0] + K[0, 2], v * K[1, 1] + K[1, 2]
        grid = np.stack([2 * u / width - 1, 2 * v / height - 1], axis=-1).astype(np.float32)
        rows = torch.nn.functional.grid_sample(
            planes, torch.from_numpy(grid)[None], padding_mode="border", align_corners=False
        )
        result[start - top : stop - top] = rows[0].permute(1, 2, 0)
    return result

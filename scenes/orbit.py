"""Cameras placed by hand: looking at a point, and circling it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from .cameras import Cameras

UP = (0.0, -1.0, 0.0)  # Splat files usually keep COLMAP's axes: y points down.
FIELD_OF_VIEW = 55.0  # Degrees along the shorter side of the picture.


def look_at(positions: ArrayLike, targets: ArrayLike, up: ArrayLike = UP) -> Tensor:
    """World-to-camera matrices [C, 4, 4] float32 of cameras that look from one point to another.

    Args:
        positions: [C, 3] camera centres, world units.
        targets: [C, 3] or [3], points that land in the middle of the picture.
        up: [3], the world direction that points up in the picture.
    """
    eye = np.atleast_2d(np.asarray(positions, np.float64))
    forward = _unit(np.asarray(targets, np.float64) - eye, fallback=(0.0, 0.0, 1.0))
    upward = _unit(np.asarray(up, np.float64), fallback=UP)
    right = np.cross(forward, upward)
    # Looking straight along `up`: any direction across it will do.
    spare = np.eye(3)[np.argmin(np.abs(upward))]
    steep = np.linalg.norm(right, axis=1, keepdims=True) < 1e-6
    right = _unit(np.where(steep, np.cross(forward, spare), right), fallback=(1.0, 0.0, 0.0))
    down = np.cross(forward, right)
    viewmats = np.zeros((len(eye), 4, 4))
    viewmats[:, :3, :3] = np.stack([right, down, forward], axis=1)
    viewmats[:, :3, 3] = -np.einsum("cij,cj->ci", viewmats[:, :3, :3], eye)
    viewmats[:, 3, 3] = 1.0
    return torch.from_numpy(viewmats.astype(np.float32))


def pinhole(count: int, width: int, height: int, fov: float = FIELD_OF_VIEW) -> Tensor:
    """Intrinsics [count, 3, 3] float32 with square pixels; `fov` in degrees, short side."""
    focal = 0.5 * min(width, height) / math.tan(0.5 * math.radians(fov))
    one = [[focal, 0.0, 0.5 * width], [0.0, focal, 0.5 * height], [0.0, 0.0, 1.0]]
    return torch.tensor(one, dtype=torch.float32).expand(count, 3, 3).clone()


def orbit(
    center: Sequence[float] | Tensor,
    radius: float,
    count: int,
    *,
    width: int,
    height: int,
    elevation: float = 20.0,
    fov: float = FIELD_OF_VIEW,
    up: Sequence[float] = UP,
) -> Cameras:
    """One full turn of `count` cameras around a point, all looking at it.

    Args:
        center: [3], world units.
        radius: distance from the centre, world units.
        count: number of cameras, evenly spaced in azimuth.
        width: image columns.
        height: image rows.
        elevation: degrees above the plane through the centre and across `up`.
        fov: degrees along the shorter side of the picture.
        up: [3] world direction.
    """
    if count < 1 or not radius > 0:
        raise ValueError(f"orbit: expected count >= 1 and radius > 0, got {count} and {radius}")
    azimuth = 2 * np.pi * np.arange(count) / count
    middle = np.asarray([float(value) for value in center])
    eye = middle + radius * directions(azimuth, np.full(count, math.radians(elevation)), up)
    return Cameras(look_at(eye, middle, up), pinhole(count, width, height, fov), width, height)


def directions(
    azimuth: NDArray[np.float64], elevation: NDArray[np.float64], up: ArrayLike
) -> NDArray[np.float64]:
    """Unit vectors [C, 3] at angles in radians around and above the plane across `up`."""
    upward = _unit(np.asarray(up, np.float64), fallback=UP)
    across = np.eye(3)[np.argmin(np.abs(upward))]
    first = _unit(np.cross(upward, across).astype(np.float64), fallback=(1.0, 0.0, 0.0))
    second = np.cross(upward, first)
    flat = np.cos(azimuth)[:, None] * first + np.sin(azimuth)[:, None] * second
    return np.cos(elevation)[:, None] * flat + np.sin(elevation)[:, None] * upward


def _unit(vectors: NDArray[np.float64], fallback: ArrayLike) -> NDArray[np.float64]:
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.where(length > 0, vectors / np.where(length > 0, length, 1.0), np.asarray(fallback))

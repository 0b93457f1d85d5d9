"""Cameras for a scene that comes without any: free-space views around its dense core.

Everything in a trained scene was once seen by a camera. So candidate views are ranked by how
much of the weight in front of them they really see (a coarse Monte-Carlo depth buffer), which
keeps cameras out of walls, from behind walls and, where the outside sees little, inside rooms.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Cameras
from .orbit import FIELD_OF_VIEW, UP, directions, look_at, pinhole

Array = NDArray[np.float64]

MAX_SPLATS = 200_000  # Enough for a median; keeps 5M-Gaussian scenes under a second.
SAMPLES = 24_000  # Points of the Monte-Carlo depth buffer.
SAMPLES_EACH = 40  # No more than these for each splat.
GRID = (48, 36)  # Cells of that buffer, columns and rows.
CORE_SHARE = 0.8  # The core's radius holds this share of its weight.
CORE_REACH = 2.5  # Splats beyond this many median distances are not core.
CANDIDATES = 5  # Candidate views for each view asked for, and
MIN_CANDIDATES = 160  # no fewer than these: half of them may turn out to be behind a wall.
GOOD = 0.6  # Views at least this good, in shares of the 90th percentile, may be chosen.
VEILS = 1000  # Largest splats, looked at one by one: a single one can fog a picture.
VEIL_GRID = (12, 9)  # Cells, columns and rows, on which they are looked at.
VEIL_SHARE = 0.35  # More of the picture than this lost behind them: dropped.
NEAR = 0.25  # Core radii in front of the camera that should be free.
NEAR_SHARE = 0.12  # More of the picture than this covered by lens-near splats: dropped.
UPSIDE_DOWN = 1.4  # Views from below are this much better: up was down.
SURROUNDED = 0.12  # Views from within see this much more of the core's weight: stay inside.
FLAT = 0.45  # Spread of the thinnest axis over that of the next: below, it is the up axis.


@dataclass(frozen=True)
class Core:
    """Where the weight of a scene lies: centre [3], radius, and the up direction [3]."""

    center: Array
    radius: float
    up: Array


@dataclass(frozen=True)
class _Samples:
    """Points drawn from the splats, and the splats too large to be points.

    Attributes:
        points: [S, 3] positions.
        area: [S] optical area that each stands for.
        weight: [S] share of the splats that each stands for.
        veils: [V, 5] centre, size and opacity of the largest splats.
    """

    points: Array
    area: Array
    weight: Array
    veils: Array


def synthesise_cameras(
    means: Tensor,
    weights: Tensor,
    sizes: Tensor,
    *,
    count: int = 32,
    width: int,
    height: int,
    seed: int = 0,
) -> tuple[Cameras, Cameras]:
    """Views for statistics, and held-out views that lie between them, of a scene without cameras.

    The core is found by weighted medians, so that outliers do not matter. Up is the core's
    thinnest axis where there clearly is one (the ground, a wall), else -y, and the other way round
    where the scene is clearly seen better from there. The same arguments give the same cameras on
    every machine of one numpy version.

    Args:
        means: [N, 3] centres, world units; N may be 0.
        weights: [N] opacity times sizes^2: how much light a splat stops.
        sizes: [N] typical standard deviation of a splat across its surface, world units.
        count: number of statistics views; a quarter as many (at least 2) are held out.
        width: image columns.
        height: image rows.
        seed: of the random draws.

    Returns:
        Statistics views (`count` of them) and held-out views.
    """
    if count < 1:
        raise ValueError(f"count: expected at least 1, got {count}")
    rng = np.random.default_rng(seed)
    splats = _clean(means, weights, sizes, rng)
    core = _find_core(*splats)
    samples = _draw_samples(*splats, rng)
    held = max(2, count // 4)
    views, scores = _candidates(
        core, samples, max(MIN_CANDIDATES, CANDIDATES * (count + held)), width, height, rng
    )
    chosen = _spread(views, scores, count + held, core)
    order = chosen[np.argsort(_azimuth(views[chosen], core), kind="stable")]
    return _split(views[order], held, width, height)


def _split(views: Array, held: int, width: int, height: int) -> tuple[Cameras, Cameras]:
    """The views without, and those with, every (C / held)-th one."""
    is_held = np.zeros(len(views), bool)
    is_held[((np.arange(held) + 0.5) * len(views) / held).astype(int)] = True
    kept, out = (torch.from_numpy(views[mask].astype(np.float32)) for mask in (~is_held, is_held))
    return (
        Cameras(kept, pinhole(len(kept), width, height), width, height),
        Cameras(out, pinhole(len(out), width, height), width, height),
    )


def find_core(means: Tensor, weights: Tensor, sizes: Tensor) -> Core:
    """The dense core of a scene: arguments as for `synthesise_cameras`; robust to outliers."""
    return _find_core(*_clean(means, weights, sizes, np.random.default_rng(0)))


def _clean(means: Tensor, weights: Tensor, sizes: Tensor, rng: Any) -> tuple[Array, Array, Array]:
    """Finite, visible splats, at most MAX_SPLATS: centres, opacities and sizes.

    Opacity is what they are counted by: background splats are few, but huge.
    """
    shapes = [list(tensor.shape) for tensor in (means, weights, sizes)]
    if shapes != [[len(means), 3], [len(means)], [len(means)]]:
        raise ValueError(f"means, weights, sizes: expected [N, 3], [N], [N], got {shapes}")
    points = means.detach().cpu().numpy().astype(np.float64)
    mass = weights.detach().cpu().numpy().astype(np.float64)
    sigma = sizes.detach().cpu().numpy().astype(np.float64)
    keep = np.isfinite(points).all(1) & np.isfinite(mass) & np.isfinite(sigma)
    keep &= (np.abs(points) < 1e15).all(1) & (mass > 0) & (sigma >= 0) & (sigma < 1e15)
    index = np.flatnonzero(keep)
    if len(index) > MAX_SPLATS:
        index = np.sort(rng.choice(index, MAX_SPLATS, replace=False))
    points, mass, sigma = points[index], mass[index], sigma[index]
    opacity = np.minimum(mass / np.maximum(sigma**2, 1e-30), 1.0)
    return points, opacity, sigma


def _find_core(points: Array, mass: Array, sigma: Array) -> Core:
    if len(points) == 0:
        return Core(np.zeros(3), 1.0, np.asarray(UP))
    inside = np.ones(len(points), bool)
    center, middle = np.zeros(3), 0.0
    for _ in range(6):  # Shrinks onto the densest part; a compact scene stops at once.
        center = np.array([_quantile(points[inside, a], mass[inside], 0.5) for a in range(3)])
        distance = np.linalg.norm(points - center, axis=1)
        middle = _quantile(distance[inside], mass[inside], 0.5)
        inside = distance <= CORE_REACH * middle
    distance = np.linalg.norm(points[inside] - center, axis=1)
    radius = _quantile(distance, mass[inside], CORE_SHARE)
    # A single point, or points on top of each other: as large as the splats themselves.
    smallest = max(3 * _quantile(sigma[inside], mass[inside], 0.5), 1e-5 * np.abs(center).max())
    radius = float(max(radius, smallest))
    return Core(center, radius or 1.0, _up(points[inside] - center, mass[inside]))


def _up(offsets: Array, mass: Array) -> Array:
    """The thinnest axis of the core where it is clearly thinner than the others, else -y."""
    spread, axes = np.linalg.eigh((offsets * mass[:, None]).T @ offsets / mass.sum())
    if spread[1] <= 0 or np.sqrt(max(spread[0], 0.0) / spread[1]) > FLAT:
        return np.asarray(UP)
    axis = axes[:, 0]
    # What stands on a ground, or before a wall, makes the tail on the side of the viewer.
    tail = offsets @ axis
    skew = float((mass * tail**3).sum())
    sign = np.sign(skew) if skew else np.sign(axis @ np.asarray(UP))
    return axis * (sign or 1.0)


def _draw_samples(points: Array, mass: Array, sigma: Array, rng: Any) -> _Samples:
    """Points on the splats, half of them drawn by weight and half by area."""
    if len(points) == 0:
        return _Samples(np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, 5)))
    area = mass * np.minimum(sigma, np.quantile(sigma, 0.995)) ** 2
    by_mass, by_area = mass / mass.sum(), area / area.sum() if area.sum() > 0 else 0.0
    chance = 0.5 * by_mass + 0.5 * by_area
    chance = chance / chance.sum()
    count = min(SAMPLES, SAMPLES_EACH * len(points))
    index = np.sort(rng.choice(len(points), count, p=chance))
    jitter = rng.standard_normal((count, 3)) * sigma[index, None]
    share = 1.0 / (count * chance[index])  # Importance weights: sums over splats stay unbiased.
    optical = 2 * np.pi * mass[index] * sigma[index] ** 2 * share
    largest = np.argsort(-mass * sigma**2, kind="stable")[:VEILS]
    veils = np.column_stack([points, sigma, mass])[largest]
    return _Samples(points[index] + jitter, optical, mass[index] * share, veils)


def _candidates(
    core: Core, samples: _Samples, count: int, width: int, height: int, rng: Any
) -> tuple[Array, Array]:
    """Candidate viewmats [M, 4, 4] and how good each is [M]; the better family only."""
    focal = float(pinhole(1, width, height)[0, 0, 0])
    outside = _outside(core, count, rng)
    scores, seen = _score(outside, core, samples, width, height, focal)
    below = _outside(dataclasses.replace(core, up=-core.up), count, rng)
    scores_below, seen_below = _score(below, core, samples, width, height, focal)
    if _level(scores_below) > UPSIDE_DOWN * _level(scores):
        outside, scores, seen = below, scores_below, seen_below
    inner = np.linalg.norm(samples.points - core.center, axis=1) < 1.2 * core.radius
    weight = samples.weight * inner
    inside = _inside(core, count, rng)
    scores_inside, seen_inside = _score(inside, core, samples, width, height, focal)
    if (weight * (seen_inside - seen)).sum() > SURROUNDED * weight.sum():
        return inside, scores_inside
    return outside, scores


def _level(scores: Array) -> float:
    """How good the better quarter of some views is."""
    return float(np.sort(scores)[-max(1, len(scores) // 4) :].mean())


def _outside(core: Core, count: int, rng: Any) -> Array:
    """Orbits at spiralling azimuth, elevations -5 to 65 degrees, the core filling the picture."""
    golden = np.pi * (3 - np.sqrt(5))
    turn = (golden * np.arange(count) + rng.uniform(0, 2 * np.pi)) % (2 * np.pi)
    low, high = np.sin(np.radians([-5.0, 65.0]))
    tilt = np.arcsin(low + (high - low) * (np.arange(count) + 0.5) / count)
    fitted = core.radius / np.sin(0.5 * np.radians(FIELD_OF_VIEW))
    reach = fitted * np.array([0.62, 0.8, 1.0])[rng.integers(0, 3, count)]
    target = core.center + 0.25 * core.radius * _in_ball(count, rng)
    eye = core.center + reach[:, None] * directions(turn, tilt, core.up)
    return look_at(eye, target, core.up).double().numpy()


def _inside(core: Core, count: int, rng: Any) -> Array:
    """Positions within the core, looking across it or out of it."""
    eye = core.center + 0.7 * core.radius * _in_ball(count, rng)
    turn = rng.uniform(0, 2 * np.pi, count)
    tilt = np.radians(rng.uniform(-25, 15, count))
    ahead = eye + core.radius * directions(turn, tilt, core.up)
    return look_at(eye, ahead, core.up).double().numpy()


def _score(
    viewmats: Array, core: Core, samples: _Samples, width: int, height: int, focal: float
) -> tuple[Array, Array]:
    """How good each view is, and the best transmittance at which any good one saw each sample."""
    scores, seen = np.zeros(len(viewmats)), np.zeros(len(samples.weight))
    if len(samples.weight) == 0:
        return scores, seen
    scale = focal**2 * GRID[0] * GRID[1] / (width * height)
    for i, viewmat in enumerate(viewmats):
        local = samples.points @ viewmat[:3, :3].T + viewmat[:3, 3]
        depth = np.maximum(local[:, 2], 1e-9)
        column = (focal * local[:, 0] / depth / width + 0.5) * GRID[0]
        row = (focal * local[:, 1] / depth / height + 0.5) * GRID[1]
        shown = (local[:, 2] > 0.02 * core.radius) & (column >= 0) & (column < GRID[0])
        index = np.flatnonzero(shown & (row >= 0) & (row < GRID[1]))
        if len(index) == 0:
            continue
        cell = row[index].astype(np.int64) * GRID[0] + column[index].astype(np.int64)
        tau = samples.area[index] * scale / depth[index] ** 2
        close = depth[index] < NEAR * core.radius
        veiled = _veiled(viewmat, core, samples.veils, width / focal, height / focal)
        if veiled > VEIL_SHARE or _covered(cell[close], tau[close]) > NEAR_SHARE:
            continue
        weight, trans = samples.weight[index], _transmittance(cell, depth[index], tau)
        scores[i] = (weight * trans).sum() / weight.sum() * min(_covered(cell, tau), 0.8)
        scores[i] *= 1 - veiled
        seen[index] = np.maximum(seen[index], trans)
    return scores, seen


def _covered(cell: NDArray[np.int64], tau: Array) -> float:
    """Share of the picture that samples of these optical depths cover."""
    return float(1 - np.exp(-np.bincount(cell, tau, GRID[0] * GRID[1])).mean())


def _veiled(viewmat: Array, core: Core, veils: Array, wide: float, high: float) -> float:
    """Share of the picture lost behind large splats that hang between the camera and the core."""
    local = veils[:, :3] @ viewmat[:3, :3].T + viewmat[:3, 3]
    to_core = viewmat[2, :3] @ core.center + viewmat[2, 3]
    depth = local[:, 2]
    # In front of the core's middle part, and blurred over a good part of the picture.
    hangs = (depth > 0.01 * core.radius) & (
        depth < max(to_core - 0.7 * core.radius, 0.3 * core.radius)
    )
    hangs &= veils[:, 3] > 0.08 * wide * depth
    local, depth = local[hangs], depth[hangs]
    if len(depth) == 0:
        return 0.0
    x = (np.arange(VEIL_GRID[0]) + 0.5) / VEIL_GRID[0] - 0.5
    y = (np.arange(VEIL_GRID[1]) + 0.5) / VEIL_GRID[1] - 0.5
    sigma = veils[hangs, 3] / depth
    across = np.exp(-0.5 * ((x * wide - (local[:, 0] / depth)[:, None]) / sigma[:, None]) ** 2)
    down = np.exp(-0.5 * ((y * high - (local[:, 1] / depth)[:, None]) / sigma[:, None]) ** 2)
    alpha = np.minimum(veils[hangs, 4], 0.99)[:, None, None] * down[:, :, None] * across[:, None]
    return float(1 - np.exp(np.log1p(-alpha).sum(0)).mean())


def _transmittance(cell: NDArray[np.int64], depth: Array, tau: Array) -> Array:
    """What is left of the light behind nearer samples of the same cell."""
    order = np.lexsort((depth, cell))
    cell, tau = cell[order], tau[order]
    before = np.cumsum(tau) - tau
    first = np.flatnonzero(np.diff(cell, prepend=-1))
    start = np.repeat(before[first], np.diff(first, append=len(cell)))
    result = np.empty(len(cell))
    # A surface is some cell widths thick where it is seen at a slant: one optical depth of
    # tolerance keeps a splat from hiding itself.
    result[order] = np.exp(-np.maximum(before - start - 1.0, 0.0))
    return result


def _spread(viewmats: Array, scores: Array, count: int, core: Core) -> NDArray[np.int64]:
    """Indices of `count` good views, far apart from each other (farthest point sampling)."""
    good = np.flatnonzero(scores >= GOOD * np.quantile(scores, 0.9))
    if len(good) < count:
        good = np.sort(np.argsort(-scores, kind="stable")[:count])
    rotation = viewmats[good, :3, :3]
    eye = -np.einsum("cji,cj->ci", rotation, viewmats[good, :3, 3])
    place = np.concatenate([(eye - core.center) / core.radius, rotation[:, 2]], axis=1)
    chosen = [int(np.argmax(scores[good]))]
    gap = np.full(len(good), np.inf)
    while len(chosen) < count:
        gap = np.minimum(gap, np.linalg.norm(place - place[chosen[-1]], axis=1))
        gap[chosen] = -1.0
        chosen.append(int(np.argmax(gap)))
    return good[np.array(chosen)]


def _azimuth(viewmats: Array, core: Core) -> Array:
    eye = -np.einsum("cji,cj->ci", viewmats[:, :3, :3], viewmats[:, :3, 3]) - core.center
    axes = directions(np.array([0.0, np.pi / 2]), np.zeros(2), core.up)
    return np.arctan2(eye @ axes[1], eye @ axes[0])


def _in_ball(count: int, rng: Any) -> Array:
    point = rng.standard_normal((count, 3))
    point /= np.linalg.norm(point, axis=1, keepdims=True)
    return point * rng.uniform(0, 1, (count, 1)) ** (1 / 3)


def _quantile(values: Array, mass: Array, share: float) -> float:
    order = np.argsort(values, kind="stable")
    total = np.cumsum(mass[order])
    return float(values[order[np.searchsorted(total, share * total[-1])]])

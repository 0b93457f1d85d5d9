"""Cameras for a scene that comes without any: free-space views around its dense core.

Everything in a trained scene was once seen by a camera. So candidate views are ranked by how
much of the weight in front of them they really see (a coarse Monte-Carlo depth buffer), which
keeps cameras out of walls, from behind walls and, where the outside sees little, inside rooms.
"""

from __future__ import annotations

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
GRID = (48, 36)  # Cells of that buffer, columns and rows.
CORE_SHARE = 0.8  # The core's radius holds this share of its weight.
CORE_REACH = 2.5  # Splats beyond this many median distances are not core.
CANDIDATES = 5  # Candidate views for each view asked for, and
MIN_CANDIDATES = 160  # no fewer than these: half of them may turn out to be behind a wall.
GOOD = 0.6  # Views at least this good, in shares of the 90th percentile, may be chosen.
NEAR_SHARE = 0.12  # More of the picture than this covered by lens-near splats: dropped.
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
    """Points drawn from the splats: positions [S, 3], optical area and weight of each [S]."""

    points: Array
    area: Array
    weight: Array


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
    thinnest axis where there clearly is one (the ground, a wall), else -y. The same arguments
    give the same cameras on every machine of one numpy version.

    Args:
        means: [N, 3] centres, world units; N may be 0.
        weights: [N] how much a splat matters, e.g. its opacity; only ratios count.
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
    """Finite, visible splats, at most MAX_SPLATS, with weights clipped so that none dominates."""
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
    if len(mass):
        mass = np.minimum(mass / np.median(mass), 1.0)
    return points, mass, sigma


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
        return _Samples(np.zeros((0, 3)), np.zeros(0), np.zeros(0))
    area = mass * np.minimum(sigma, np.quantile(sigma, 0.995)) ** 2
    by_mass, by_area = mass / mass.sum(), area / area.sum() if area.sum() > 0 else 0.0
    chance = 0.5 * by_mass + 0.5 * by_area
    chance = chance / chance.sum()
    index = np.sort(rng.choice(len(points), SAMPLES, p=chance))
    jitter = rng.standard_normal((SAMPLES, 3)) * sigma[index, None]
    share = 1.0 / (SAMPLES * chance[index])  # Importance weights: sums over splats stay unbiased.
    optical = 2 * np.pi * mass[index] * sigma[index] ** 2 * share
    return _Samples(points[index] + jitter, optical, mass[index] * share)


def _candidates(
    core: Core, samples: _Samples, count: int, width: int, height: int, rng: Any
) -> tuple[Array, Array]:
    """Candidate viewmats [M, 4, 4] and how good each is [M]; the better family only."""
    focal = float(pinhole(1, width, height)[0, 0, 0])
    outside = _outside(core, count, rng)
    scores, seen = _score(outside, core, samples, width, height, focal)
    inner = np.linalg.norm(samples.points - core.center, axis=1) < 1.2 * core.radius
    weight = samples.weight * inner
    inside = _inside(core, count, rng)
    scores_inside, seen_inside = _score(inside, core, samples, width, height, focal)
    if (weight * (seen_inside - seen)).sum() > SURROUNDED * weight.sum():
        return inside, scores_inside
    return outside, scores


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
    near = 0.25 * core.radius
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
        scale = focal**2 * GRID[0] * GRID[1] / (width * height)
        tau = samples.area[index] * scale / depth[index] ** 2
        trans = _transmittance(cell, depth[index], tau)
        covered = 1 - np.exp(-np.bincount(cell, tau, GRID[0] * GRID[1]))
        close = depth[index] < near
        hidden = 1 - np.exp(-np.bincount(cell[close], tau[close], GRID[0] * GRID[1]))
        if hidden.mean() > NEAR_SHARE:
            continue
        weight = samples.weight[index]
        scores[i] = (weight * trans).sum() / weight.sum() * min(covered.mean(), 0.8)
        seen[index] = np.maximum(seen[index], trans)
    return scores, seen


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

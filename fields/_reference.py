"""The plain torch twin of the native encodings, in the precision of its arguments.

Each lattice is written down from its paper, by another road than the kernels': corners of simplices
by sorting, the permutohedral lattice by lifting to n + 1 coordinates and rounding.
"""

from __future__ import annotations

import itertools
import math

import torch
from torch import Tensor

from ._native import (
    CELL_SIDE,
    LEAST_DIRECTION,
    LEVEL_SHIFT,
    MARCH,
    PERMUTO_FACTOR,
    PRIMES,
    STEP,
)
from .levels import Encoding, Level

WORD = 1 << 32


def encode(encoding: Encoding, points: Tensor, table: Tensor) -> Tensor:
    """[levels * F, N] features of points [N, n]; differentiable in points and table [rows, F]."""
    features = []
    for level, first in zip(encoding.level, encoding.first_rows, strict=False):
        rows, weights = corners(encoding, level, points.clamp(0, 1))
        values = table[first + rows]  # [N, V, F]
        features.append((weights[:, :, None] * values).sum(1).T)
    return torch.cat(features)


def corners(encoding: Encoding, level: Level, points: Tensor) -> tuple[Tensor, Tensor]:
    """Rows [N, V] int64, within the level, and weights [N, V] of each point's corners."""
    u = level.scale * points + LEVEL_SHIFT
    if encoding.lattice == "permuto":
        keys, weights = _permutohedral(u)
        return _permuto_rows(keys, level.rows), weights
    if encoding.lattice == "grid":
        cells, weights = _cube(u)
    else:
        n = encoding.dims
        skew = (math.sqrt(n + 1) - 1) / n if encoding.lattice == "simplex" else 0.0
        cells, weights = _simplex(u + skew * u.sum(1, keepdim=True))
    return _rows(cells, level), weights


def _cube(u: Tensor) -> tuple[Tensor, Tensor]:
    base = u.detach().floor()
    part = u - base
    offsets = list(itertools.product((0, 1), repeat=u.shape[1]))
    weights = [
        torch.stack([part[:, i] if o else 1 - part[:, i] for i, o in enumerate(offset)]).prod(0)
        for offset in offsets
    ]
    cells = base[:, None] + torch.tensor(offsets, dtype=u.dtype)
    return cells.long(), torch.stack(weights, 1)


def _simplex(y: Tensor) -> tuple[Tensor, Tensor]:
    """Kuhn's simplices of the integer cubes: corners are reached along the largest parts first."""
    base = y.detach().floor()
    part, order = (y - base).sort(dim=1, descending=True, stable=True)
    n = y.shape[1]
    steps = torch.nn.functional.one_hot(order, n).cumsum(1)
    cells = base.long()[:, None] + torch.cat([torch.zeros_like(steps[:, :1]), steps], 1)
    ones, zeros = torch.ones_like(part[:, :1]), torch.zeros_like(part[:, :1])
    edges = torch.cat([ones, part, zeros], 1)
    return cells, edges[:, :-1] - edges[:, 1:]


def _permutohedral(u: Tensor) -> tuple[Tensor, Tensor]:
    """Keys [N, n + 1, n] and weights of Adams et al. 2010, vertices 1 / (n + 1) as far apart."""
    n = u.shape[1]
    lift = torch.zeros(n + 1, n, dtype=u.dtype)
    for j in range(n):
        unit = 1 / math.sqrt((j + 1) * (j + 2))
        lift[: j + 1, j], lift[j + 1, j] = unit, -(j + 1) * unit
    high = (n + 1) * (u @ lift.T)  # Its coordinates sum to 0.
    with torch.no_grad():
        nearest = (high / (n + 1)).round() * (n + 1)
        rank = (high - nearest).argsort(dim=1, descending=True, stable=True).argsort(dim=1)
        excess = (nearest.sum(1, keepdim=True) / (n + 1)).long()
        rank = rank + excess
        wrap = (rank < 0).long() - (rank > n).long()
        nearest, rank = nearest + (n + 1) * wrap, rank + (n + 1) * wrap
    delta = (high - nearest) / (n + 1)
    sorted_delta = torch.gather(delta, 1, rank.argsort(dim=1))  # Largest first.
    ends = sorted_delta[:, :-1] - sorted_delta[:, 1:]
    first = 1 + sorted_delta[:, -1:] - sorted_delta[:, :1]
    weights = torch.cat([first, ends.flip(1)], 1)
    k = torch.arange(n + 1)[None, :, None]
    keys = nearest.long()[:, None] + k - (n + 1) * (rank[:, None] > n - k).long()
    return keys[:, :, :n], weights


def _rows(cells: Tensor, level: Level) -> Tensor:
    """tiny-cuda-nn's index: x fastest where the level is dense, the coherent prime hash else."""
    n = cells.shape[-1]
    if level.side**n <= level.rows:
        strides = torch.tensor([level.side**i for i in range(n)])
        return (cells * strides).sum(-1) % level.rows
    index = torch.zeros_like(cells[..., 0])
    for i in range(n):
        index = index ^ (cells[..., i] % WORD * PRIMES[i] % WORD)
    return index % level.rows


def _permuto_rows(keys: Tensor, rows: int) -> Tensor:
    index = torch.zeros_like(keys[..., 0])
    for i in range(keys.shape[-1]):
        index = (index + keys[..., i]) % WORD * PERMUTO_FACTOR % WORD
    return index % rows


def march(origins: Tensor, rays_d: Tensor, cells: Tensor, jitter: Tensor) -> tuple[Tensor, Tensor]:
    """Places [M, 3] and ray numbers [M] of `nerf.march`."""
    least = LEAST_DIRECTION
    inverse = 1 / torch.where(rays_d.abs() < least, least, rays_d)
    a, b = -origins * inverse, (1 - origins) * inverse
    near = torch.minimum(a, b).amax(1).clamp_min(0)
    far = torch.maximum(a, b).amin(1)
    t = near[:, None] + STEP * (torch.arange(MARCH) + jitter[:, None])
    points = origins[:, None] + t[..., None] * rays_d[:, None]
    cell = (points * CELL_SIDE).long().clamp_(0, CELL_SIDE - 1)
    index = cell[..., 0] + CELL_SIDE * (cell[..., 1] + CELL_SIDE * cell[..., 2])
    live = cells[index] & (t < far[:, None])
    return points[live].clamp(0, 1), live.nonzero()[:, 0]

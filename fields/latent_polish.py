"""Whole latents one step away where it pays: rate-distortion optimised quantisation.

Rounding costs more than the noise of the fit foresaw. Each latent is tried one step down the
gradient, its effect on pixels and on the bits of its neighbours measured, and kept where the loss
falls: those that do not reach into each other's places go together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from .latent_engine import Engine
from .latent_ops import Plane

LEVELS = 4  # Of coarser ones there are too few for what trying them costs.
APART = 8  # Places between latents that are tried together.
APART_0 = 4  # The same of rows of the finest level, whose latents reach a pixel far.
UP, LEFT = 1, 4  # Of places, those that come before the latent, where bits depend on it.


def polish(engine: Engine, latents: Tensor, flat: Tensor, lmbda: float) -> int:
    """Changes whole latents [N] in place, and says how many: the loss falls with each.

    Args:
        engine: of the picture.
        latents: whole numbers.
        flat: [P] parameters.
        lmbda: what a bit a pixel is worth in mean squared error.
    """
    planes = engine.painter.grids.planes
    changed = 0
    for level in reversed(range(min(LEVELS, len(planes)))):
        grad = engine.gradients(latents, flat, lmbda, torch.zeros_like(flat))[2]
        step = -_plane(grad, planes[level]).sign()
        changed += _Level(engine, latents, flat, lmbda, level).polish(step)
    return changed


class _Level:
    """The latents of one level, and the two maps of losses that they reach into."""

    def __init__(
        self, engine: Engine, latents: Tensor, flat: Tensor, lmbda: float, level: int
    ) -> None:
        self._engine, self._latents, self._flat = engine, latents, flat
        self._cost, self._level = lmbda / engine.pixels, level
        self._rows = APART if level else APART_0
        self._own = _plane(latents, engine.painter.grids.planes[level])
        self._near = [level, level - 1] if level else [level]
        self._maps = self._measured()

    def polish(self, step: Tensor) -> int:
        """Tries a step [h, w] of all latents; says how many of them were taken."""
        height, width = self._own.shape
        places = [(y, x) for y in range(min(self._rows, height)) for x in range(min(APART, width))]
        return sum(self._try(y, x, step[y :: self._rows, x::APART]) for y, x in places)

    def _try(self, y: int, x: int, step: Tensor) -> int:
        some = self._own[y :: self._rows, x::APART]
        before = some.clone()
        some.add_(step)
        maps = self._measured()
        changes = [new - old for new, old in zip(maps, self._maps, strict=True)]
        good = (self._sums(changes, y, x, step.shape) < 0) & (step != 0)
        some.copy_(torch.where(good, before + step, before))
        taken = int(good.sum())
        if taken:
            self._maps = maps if taken == good.numel() else self._measured()
        return taken

    def _measured(self) -> list[Tensor]:
        """Squared errors of pixels, and bits of this level and the next finer one; in losses."""
        engine = self._engine
        maps = [engine.errors(self._latents, self._flat)]
        for level in self._near:
            bits = engine.bits_of(level, self._latents, self._flat)
            maps.append(_plane(bits, engine.painter.grids.planes[level]).mul(self._cost))
        return maps

    def _sums(self, maps: Sequence[Tensor], y: int, x: int, shape: Sequence[int]) -> Tensor:
        """Of what lies around each latent that was tried."""
        above, left, fine = self._rows // 2, APART // 2, 1 << self._level
        middle = fine // 2
        corner = (y - above) * fine + middle, (x - left) * fine + middle
        found = _tiles(maps[0], corner, (self._rows * fine, APART * fine), shape)
        found += _tiles(maps[1], (y - UP, x - LEFT), (self._rows, APART), shape)
        for finer in maps[2:]:
            corner = 2 * (y - above), 2 * (x - left)
            found += _tiles(finer, corner, (2 * self._rows, 2 * APART), shape)
        return found


def _plane(flat: Tensor, plane: Plane) -> Tensor:
    return flat[plane.first : plane.first + plane.size].view(plane.height, plane.width)


def _tiles(
    values: Tensor, corner: tuple[int, int], size: tuple[int, int], shape: Sequence[int]
) -> Tensor:
    """Sums over `shape` tiles of some rows and columns, from a corner on; zeros outside."""
    (y, x), (rows, columns), (height, width) = corner, size, values.shape
    edges = (-x, columns * shape[1] + x - width, -y, rows * shape[0] + y - height)
    padded = torch.nn.functional.pad(values, edges)
    return padded.view(shape[0], rows, shape[1], columns).sum((1, 3))

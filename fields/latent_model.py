"""What a latent codec is made of: grids, networks, and where their parameters lie.

Grids of latents at 1/1, 1/2, .. of the picture are upsampled and mixed by a synthesis network
(Ladune et al. 2023, Cool-chic; Kim et al. 2024, C3); a context network predicts each latent from
those before it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from . import _native
from .latent_ops import Plane, Shape

NEAR = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1),
        (0, -3), (-3, 0))  # fmt: skip
ABOVE = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # In the grid of half the size.
BEFORE = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # In the same grid of the frame before.
NETWORKS = ("context", "mix", "filter")
SQUARE = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
NOWHERE = (-8, 0)  # Outside of any plane of 8 rows: zero. By an eighth of the rows, of 64.
CUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)  # Keys 1981, a quarter off the samples.


@dataclass(frozen=True)
class Grids:
    """The pyramid of a picture: `levels` sizes, each half the last, the `first` without latents.

    Latents lie in one flat buffer, the coarsest grid first, as they are coded.
    """

    height: int
    width: int
    levels: int = 7
    first: int = 0

    def size(self, level: int) -> tuple[int, int]:
        return -(-self.height // (1 << level)), -(-self.width // (1 << level))

    @cached_property
    def planes(self) -> list[Plane]:
        """Of levels `first` and up."""
        found, at = [], 0
        for level in reversed(range(self.first, self.levels)):
            height, width = self.size(level)
            found.append(Plane(at, height, width))
            at += height * width
        return found[::-1]

    @property
    def count(self) -> int:
        """Latents."""
        return self.planes[0].first + self.planes[0].size


@dataclass(frozen=True)
class Design:
    """Sizes of the networks.

    Attributes:
        near, above, before: taps of the context network, in a grid itself, in that of half the
            size, and in that of the frame before.
        context, synthesis: hidden widths.
        levels, first: of the grids.
        guides: planes beside the grids that the synthesis sees, as of the frame before.
        layers: hidden ones of the synthesis, 1 or 2.
    """

    near: int = 10
    above: int = 4
    before: int = 0
    context: int = 8
    synthesis: int = 16
    levels: int = 7
    first: int = 0
    guides: int = 0
    layers: int = 1

    def grids(self, height: int, width: int) -> Grids:
        return Grids(height, width, self.levels, self.first)

    @cached_property
    def context_shape(self) -> Shape:
        taps = [(0, *t) for t in NEAR[: self.near]] + [(1, *t) for t in ABOVE[: self.above]]
        taps += [(2, *t) for t in BEFORE[: self.before]]
        return Shape(tuple(taps), 2, self.context, 2)

    @cached_property
    def mix_shape(self) -> Shape:
        count = self.levels - self.first + self.guides
        return Shape(tuple((k, 0, 0) for k in range(count)), self.layers, self.synthesis, 3, True)

    @cached_property
    def filter_shape(self) -> Shape:
        return Shape(tuple((k, *t) for k in range(3) for t in SQUARE), 0, 1, 3, True)

    @cached_property
    def parts(self) -> dict[str, int]:
        """Parameters by name, in the order in which they lie in a flat tensor."""
        return {
            "context": self.context_shape.parameters,
            "levels": 2 * (self.levels - self.first),
            "kernels": 4 * (self.levels - 1),
            "mix": self.mix_shape.parameters,
            "filter": self.filter_shape.parameters,
        }

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat parameters by name, as views of them."""
        return dict(zip(self.parts, torch.split(flat, list(self.parts.values())), strict=True))

    @cached_property
    def matrices(self) -> list[Tensor]:
        """Places in the flat parameters of all matrices [rows, columns] of the networks."""
        parts = self.split(torch.arange(self.parameters))
        views = [v for name in NETWORKS for v in self.shape(name).views(parts[name])]
        return [view for view in views if view.shape[1] > 1]

    def shape(self, name: str) -> Shape:
        """Of the network of a part."""
        shapes = {"context": self.context_shape, "mix": self.mix_shape}
        return shapes.get(name, self.filter_shape)

    def new(self, seed: int) -> Tensor:
        """[P] parameters to begin with where there are no others."""
        rng = torch.Generator().manual_seed(seed)
        flat = torch.zeros(self.parameters)
        parts = self.split(flat)
        parts["kernels"].view(-1, 4)[:] = torch.tensor(CUBIC)
        context = self.context_shape.views(parts["context"])
        for matrix, spread in ((context[0], 1), (context[2], 0.1), (context[4], 0.08)):
            matrix.normal_(0, spread / matrix.shape[1] ** 0.5, generator=rng)
        context[4][0].zero_()
        context[6][1] = -1.0
        mix = self.mix_shape.views(parts["mix"])
        mix[0].normal_(0, 0.4, generator=rng)
        for matrix in mix[1:-2]:
            matrix.normal_(0, 0.1, generator=rng)
        own = self.levels - self.first
        mix[-2].zero_()
        mix[-2][:, :own] = 1.0
        mix[-2][:, own : own + self.guides] = torch.eye(3).repeat(1, self.guides // 3)
        mix[-1][:] = 0.0 if self.guides else 0.5
        matrix = self.filter_shape.views(parts["filter"])[0]
        for k in range(3):
            matrix[k, k * len(SQUARE) + len(SQUARE) // 2] = 1.0
        return flat

    def context_nets(self, grids: Grids) -> list[_native.SlidingNet]:
        """Of each level, over a buffer of latents and, with `before`, those of the frame before."""
        planes, nets = grids.planes, []
        for level, own in enumerate(planes):
            taps = self.context_shape.taps
            above = Plane(own.first, own.height, own.width, 3)
            if level + 1 < len(planes):
                p = planes[level + 1]
                above = Plane(p.first, p.height, p.width, 1)
            else:  # Above the coarsest grid there are zeros.
                taps = tuple(t if t[0] != 1 else (1, *NOWHERE) for t in taps)
            before = Plane(own.first + grids.count, own.height, own.width)
            shape = Shape(taps, 2, self.context, 2)
            nets.append(shape.on(own, above, *([before] if self.before else [])))
        return nets

    def context_parameters(self, flat: Tensor) -> list[Tensor]:
        """Of each level: its own biases of the outputs are added to the common ones."""
        parts = self.split(flat)
        common, own = parts["context"], parts["levels"].view(-1, 2)
        return [torch.cat([common[:-2], common[-2:] + biases]) for biases in own]

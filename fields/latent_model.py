"""What a latent codec is made of: grids, networks, and how numbers become pixels.

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
from .latent_ops import Plane, Shape, rate, slide, upsample

FEATURE_SCALE = 1 / 16  # Of what the synthesis sees of latents, so that its weights are about 1.
NEAR = ((0, -1), (-1, 0), (-1, -1), (-1, 1), (0, -2), (-2, 0), (-1, -2), (-1, 2), (-2, -1), (-2, 1),
        (0, -3), (-3, 0))  # fmt: skip
ABOVE = ((0, 0), (0, 1), (1, 0), (0, -1), (-1, 0))  # In the grid of half the size.
SQUARE = tuple((dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1))
CUBIC = (-0.0234375, 0.2265625, 0.8671875, -0.0703125)  # Keys 1981, a quarter off the samples.


@dataclass(frozen=True)
class Grids:
    """The pyramid of a picture: level 0 is the finest, `first_level` the finest that has latents.

    Latents lie in one flat buffer, the coarsest grid first, as they are coded.
    """

    height: int
    width: int
    levels: int = 7
    first_level: int = 0

    def size(self, level: int) -> tuple[int, int]:
        return -(-self.height // (1 << level)), -(-self.width // (1 << level))

    @cached_property
    def planes(self) -> list[Plane]:
        """Of levels `first_level` and up."""
        found, at = [], 0
        for level in reversed(range(self.first_level, self.levels)):
            height, width = self.size(level)
            found.append(Plane(at, height, width))
            at += height * width
        return found[::-1]

    @property
    def count(self) -> int:
        """Latents."""
        return self.planes[0].first + self.planes[0].size

    def views(self, flat: Tensor) -> list[Tensor]:
        """[H, W] of each level."""
        return [flat[p.first : p.first + p.size].view(p.height, p.width) for p in self.planes]


@dataclass(frozen=True)
class Design:
    """Sizes of the networks."""

    near: int = 12
    above: int = 4
    context: int = 16
    synthesis: int = 16
    levels: int = 7

    @cached_property
    def context_shape(self) -> Shape:
        taps = [(0, *t) for t in NEAR[: self.near]] + [(1, *t) for t in ABOVE[: self.above]]
        return Shape(tuple(taps), 2, self.context, 2)

    @cached_property
    def mix_shape(self) -> Shape:
        return Shape(tuple((k, 0, 0) for k in range(self.levels)), 1, self.synthesis, 3, True)

    @cached_property
    def filter_shape(self) -> Shape:
        taps = tuple((k, *t) for k in range(3) for t in SQUARE)
        return Shape(taps, 0, 1, 3, True)

    @cached_property
    def parts(self) -> dict[str, int]:
        """Parameters by name, in the order in which they lie in a flat tensor."""
        return {
            "context": self.context_shape.parameters,
            "levels": 2 * self.levels,
            "kernels": 4 * (self.levels - 1),
            "mix": self.mix_shape.parameters,
            "filter0": self.filter_shape.parameters,
            "filter1": self.filter_shape.parameters,
        }

    @property
    def parameters(self) -> int:
        return sum(self.parts.values())

    def split(self, flat: Tensor) -> dict[str, Tensor]:
        """Flat parameters by name."""
        return dict(zip(self.parts, torch.split(flat, list(self.parts.values())), strict=True))

    def new(self, seed: int) -> Tensor:
        """[P] parameters to begin with where there are no others."""
        rng = torch.Generator().manual_seed(seed)
        flat = torch.zeros(self.parameters)
        parts = self.split(flat)
        parts["kernels"].view(-1, 4)[:] = torch.tensor(CUBIC)
        context = self.context_shape.views(parts["context"])
        for matrix in (context[0], context[2]):
            matrix.normal_(0, (1 / matrix.shape[1]) ** 0.5, generator=rng)
        context[2].mul_(0.1)
        context[-3].normal_(0, 0.02, generator=rng)[0].zero_()
        context[-3][1].normal_(0, 0.02, generator=rng)
        context[-1][1] = -1.0
        mix = self.mix_shape.views(parts["mix"])
        mix[0].normal_(0, 0.4, generator=rng)
        mix[1].normal_(0, 0.1, generator=rng)
        mix[2].normal_(0, 0.1, generator=rng)
        mix[3][:] = 1.0
        mix[4][:] = 0.5
        for name in ("filter0", "filter1"):
            matrix = self.filter_shape.views(parts[name])[0]
            for k in range(3):
                matrix[k, k * 9 + 4] = 1.0
        return flat


@dataclass(frozen=True)
class Codec:
    """The networks of a design on the grids of a picture."""

    design: Design
    grids: Grids

    @cached_property
    def context_nets(self) -> list[_native.SlidingNet]:
        """Of each level; above the coarsest there are zeros only."""
        planes, shape = self.grids.planes, self.design.context_shape
        nets = []
        for level, plane in enumerate(planes):
            if level + 1 < len(planes):
                above = planes[level + 1]
                nets.append(shape.on(plane, Plane(above.first, above.height, above.width, 1)))
            else:
                nets.append(_without_above(shape).on(plane, plane))
        return nets

    def context_parameters(self, parts: dict[str, Tensor]) -> list[Tensor]:
        """Of each level: its own biases of the outputs are added to the common ones."""
        common, own = parts["context"], parts["levels"].view(-1, 2)
        return [
            torch.cat([common[:-2], common[-2:] + own[k]]) for k in range(len(self.grids.planes))
        ]

    def bits(self, latents: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """Of all latents [N]; differentiable."""
        pairs = zip(self.context_nets, self.context_parameters(parts), strict=True)
        return torch.stack([rate(net, latents, p) for net, p in pairs]).sum()

    def picture(self, latents: Tensor, parts: dict[str, Tensor]) -> Tensor:
        """[3, H, W] about 0..1; differentiable, the same bits on every machine."""
        planes = self.grids.views(latents * FEATURE_SCALE)
        kernels = parts["kernels"].view(-1, 4)
        x = planes[-1][None]
        for level in reversed(range(len(planes) - 1)):
            height, width = planes[level].shape
            x = torch.cat([planes[level][None], upsample(x, kernels[level], height, width)])
        x = self._apply(self.design.mix_shape, x, parts["mix"])
        x = self._apply(self.design.filter_shape, x, parts["filter0"]).relu()
        return self._apply(self.design.filter_shape, x, parts["filter1"])

    def _apply(self, shape: Shape, x: Tensor, parameters: Tensor) -> Tensor:
        height, width = x.shape[1:]
        planes = [Plane(k * height * width, height, width) for k in range(len(x))]
        return slide(shape.on(*planes), x, parameters, (shape.outputs, height, width))


def _without_above(shape: Shape) -> Shape:
    """Taps of the second plane far outside of it, where zeros are."""
    taps = tuple(t if t[0] == 0 else (0, -8, 0) for t in shape.taps)
    return Shape(taps, shape.layers, shape.hidden, shape.outputs)

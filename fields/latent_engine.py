"""The loss of latents and networks on one picture, and its gradient: no graph, no allocation."""

from __future__ import annotations

import math
from functools import cached_property
from itertools import pairwise

import torch
from torch import Tensor

from . import _native
from .latent_model import Design
from .latent_ops import Plane, Shape

# Of what the synthesis sees of latents, so that its weights are about 1 at every rate: 1/16 at the
# middle gain, twice that four gains on. Written out, because they are part of the format.
MIDDLE_GAIN = 32
ROOTS = (1.0, 1.189207115, 1.414213562, 1.681792831)


def feature_scale(gain: int) -> float:
    """What latents are multiplied by before the synthesis, for a gain of 0 to 63."""
    return ROOTS[gain % 4] * 2.0 ** ((gain - MIDDLE_GAIN - gain % 4) // 4) / 16


def gain_for(lmbda: float) -> int:
    """The gain whose steps suit a Lagrangian: they grow with its square root."""
    return min(63, max(0, MIDDLE_GAIN + round(2 * math.log2(lmbda / 1e-3))))


class Painter:
    """Latents to pixels, and back: the synthesis on grids of one size, in its own buffers.

    Its values are the same bits on every machine.

    Args:
        design: the networks.
        height, width: of the picture.
        gain: of the latents.
        guides: [G, H, W] planes beside the grids.

    Attributes:
        scale: what latents are multiplied by before the synthesis.
    """

    def __init__(
        self, design: Design, height: int, width: int, gain: int, guides: Tensor | None = None
    ) -> None:
        self.design, self.grids = design, design.grids(height, width)
        self._stacks = []
        for level in range(design.levels):
            count = design.levels - max(level, design.first)
            extra = design.guides if level == 0 else 0
            self._stacks.append(torch.zeros(count + extra, *self.grids.size(level)))
        self.begin(gain, guides)
        self._outs = torch.zeros(3, height, width), torch.zeros(3, height, width)
        self._mix = _on(design.mix_shape, self._stacks[0])
        self._filter = _on(design.filter_shape, self._outs[0])

    def begin(self, gain: int, guides: Tensor | None) -> None:
        """Another picture of the same size, in the same buffers."""
        self.scale = feature_scale(gain)
        if guides is not None:
            self._stacks[0][-self.design.guides :] = guides

    @cached_property
    def _back(self) -> list[Tensor]:
        """Gradients of the stacks."""
        return [torch.zeros_like(stack) for stack in self._stacks]

    @cached_property
    def _out_back(self) -> Tensor:
        return torch.zeros_like(self._outs[0])

    def paint(self, latents: Tensor, flat: Tensor) -> Tensor:
        """[3, H, W] about 0..1 of latents [N] and parameters [P]; overwritten by the next call."""
        design, parts, threads = self.design, self.design.split(flat), torch.get_num_threads()
        kernels = parts["kernels"].view(-1, 4)
        scaled = latents * self.scale
        for level in reversed(range(design.levels)):
            stack = self._stacks[level]
            own = level >= design.first
            if own:
                plane = self.grids.planes[level - design.first]
                stack[0] = scaled[plane.first : plane.first + plane.size].view(stack.shape[1:])
            if level + 1 < design.levels:
                coarse = self._stacks[level + 1]
                to = stack[int(own) : int(own) + len(coarse)]
                _native.upsample(coarse, kernels[level].contiguous(), to, threads)
        mixed, out = self._outs
        _native.slide(self._mix, self._stacks[0].view(-1), parts["mix"], mixed.view(-1), threads)
        _native.slide(self._filter, mixed.view(-1), parts["filter"], out.view(-1), threads)
        return out

    def back(self, flat: Tensor, upstream: Tensor, grad: Tensor, flat_grad: Tensor) -> None:
        """Adds gradients of the last picture to those of latents [N] and parameters [P]."""
        design, parts = self.design, self.design.split(flat)
        to = design.split(flat_grad)
        self._out_back.zero_()
        _native.slide_back(
            self._filter, self._outs[0].view(-1), parts["filter"], upstream.reshape(-1),
            self._out_back.view(-1), to["filter"],
        )  # fmt: skip
        for stack in self._back:
            stack.zero_()
        _native.slide_back(
            self._mix, self._stacks[0].view(-1), parts["mix"], self._out_back.view(-1),
            self._back[0].view(-1), to["mix"],
        )  # fmt: skip
        self._descend(parts["kernels"].view(-1, 4), grad, to["kernels"].view(-1, 4))

    def _descend(self, kernels: Tensor, grad: Tensor, kernel_grad: Tensor) -> None:
        """Gradients of stacks, from the finest to the coarsest."""
        design = self.design
        for level in range(design.levels):
            back, own = self._back[level], level >= design.first
            if own:
                plane = self.grids.planes[level - design.first]
                to = grad[plane.first : plane.first + plane.size]
                to.add_(back[0].view(-1), alpha=self.scale)
            if level + 1 < design.levels:
                coarse = self._stacks[level + 1]
                _native.upsample_back(
                    coarse, kernels[level].contiguous(),
                    back[int(own) : int(own) + len(coarse)], self._back[level + 1],
                    kernel_grad[level],
                )  # fmt: skip


class Engine:
    """Squared error and bits of one picture, with gradients.

    Args:
        painter: the synthesis.
        target: [3, H, W] in 0..1.
        before: [N] latents of the frame before, whole numbers, or None.
    """

    def __init__(self, painter: Painter, target: Tensor, before: Tensor | None = None) -> None:
        self.painter, self.target, self.design = painter, target, painter.design
        self.count = painter.grids.count
        self.pixels = target.shape[1] * target.shape[2]
        self._nets = self.design.context_nets(painter.grids)
        more = [] if before is None else [before]
        self._buffer = torch.cat([torch.zeros(self.count), *more])
        self._grad = torch.zeros_like(self._buffer)
        self._none = torch.empty(0)

    def lean_on(self, before: Tensor) -> None:
        """Other latents [N] of the frame before."""
        self._buffer[self.count :] = before

    def losses(self, latents: Tensor, flat: Tensor) -> tuple[float, float]:
        """Mean squared error and bits, without gradients."""
        return self.error(latents, flat), self.bits(latents, flat)

    def error(self, latents: Tensor, flat: Tensor) -> float:
        """Mean squared error."""
        return float((self.painter.paint(latents, flat) - self.target).square().mean())

    def missing(self, latents: Tensor, flat: Tensor) -> Tensor:
        """[3, H, W] the picture less what is painted."""
        return self.target - self.painter.paint(latents, flat)

    def bits(self, latents: Tensor, flat: Tensor) -> float:
        """Of the latents."""
        self._buffer[: self.count] = latents
        pairs = zip(self._nets, self.design.context_parameters(flat), strict=True)
        return sum(_native.rate(n, self._buffer, p, self._none, self._none) for n, p in pairs)

    def errors(self, latents: Tensor, flat: Tensor) -> Tensor:
        """[H, W] of which the mean squared error is the sum."""
        away = self.painter.paint(latents, flat) - self.target
        return away.square_().sum(0).div_(away.numel())

    def bits_of(self, level: int, latents: Tensor, flat: Tensor) -> Tensor:
        """[N] bits of each latent of one level of the grids, the others are of no meaning."""
        self._buffer[: self.count] = latents
        parameters = self.design.context_parameters(flat)[level]
        each = torch.empty_like(self._buffer)
        _native.rate(self._nets[level], self._buffer, parameters, self._none, self._none, each)
        return each[: self.count]

    def gradients(
        self, latents: Tensor, flat: Tensor, lmbda: float, flat_grad: Tensor
    ) -> tuple[float, float, Tensor]:
        """Mean squared error, bits, and the gradient of latents of the first plus lmbda bits/pixel.

        That of the parameters goes to `flat_grad`; the gradient is overwritten by the next call.
        """
        bits = self._rate(latents, flat, flat_grad)
        grad = self._grad[: self.count]
        grad.mul_(lmbda / self.pixels)
        flat_grad.mul_(lmbda / self.pixels)
        error = self.painter.paint(latents, flat) - self.target
        mean = float(error.square().mean())
        self.painter.back(flat, error.mul_(2 / error.numel()), grad, flat_grad)
        return mean, bits, grad

    def _rate(self, latents: Tensor, flat: Tensor, flat_grad: Tensor) -> float:
        self._buffer[: self.count] = latents
        self._grad.zero_()
        flat_grad.zero_()
        to, bits = self.design.split(flat_grad), 0.0
        own = to["levels"].view(-1, 2)
        pairs = zip(self._nets, self.design.context_parameters(flat), strict=True)
        for level, (net, parameters) in enumerate(pairs):
            part = torch.zeros_like(parameters)
            bits += _native.rate(net, self._buffer, parameters, self._grad, part)
            to["context"].add_(part)
            own[level] += part[-2:]
        return bits


def _on(shape: Shape, stack: Tensor) -> _native.SlidingNet:
    height, width = stack.shape[1:]
    starts = range(0, stack.numel() + 1, height * width)
    return shape.on(*(Plane(first, height, width) for first, _ in pairwise(starts)))

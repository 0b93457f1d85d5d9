"""A first guess of latents: small convolutions of what is missing, so that a fit starts near."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from .latent_engine import Engine

HIDDEN = 8
# Of each level: a band of the missing picture, what is coarser of it, and the gradient.
LAYERS = ((HIDDEN, 7, 5), (HIDDEN, HIDDEN, 3), (1, HIDDEN, 3))  # Outputs, inputs, side.
LEVEL = sum(o * i * k * k + o for o, i, k in LAYERS)  # Parameters of a level.
REACH = sum(k // 2 for _, _, k in LAYERS)
ROWS = 128  # That go through the layers together, so that planes of large pictures do not pile up.
UNIT = 16.0  # Of pixels, in what a latent of one adds.


@lru_cache(maxsize=4)
def shipped(name: str) -> Tensor:
    """[levels, LEVEL] parameters of a file beside this one."""
    stored = np.load(Path(__file__).with_name(f"{name}.npy"), allow_pickle=False)
    return torch.from_numpy(stored.astype(np.float32))


def guess(engine: Engine, flat: Tensor, lmbda: float, weights: Tensor) -> Tensor:
    """[N] latents, not yet whole, of the picture of an engine.

    The last word has the fit that starts from them: what they are matters to no decoder.

    Args:
        engine: of the picture.
        flat: [P] parameters of the networks.
        lmbda: what a bit a pixel is worth in mean squared error.
        weights: [levels, LEVEL] as `shipped`.
    """
    grids, scale = engine.painter.grids, engine.painter.scale
    nothing, unused = torch.zeros(engine.count), torch.zeros_like(flat)
    grad = engine.gradients(nothing, flat, lmbda, unused)[2] * (1.5 * engine.pixels / UNIT**2)
    pictures = [engine.missing(nothing, flat)[None] / (UNIT * scale)]
    for _ in grids.planes:
        pictures.append(F.avg_pool2d(pictures[-1], 2, ceil_mode=True, count_include_pad=False))
    found = []
    for level, plane in enumerate(grids.planes):
        size = plane.height, plane.width
        coarse = F.interpolate(pictures[level + 1], scale_factor=2, mode="bilinear")
        coarse = coarse[..., : size[0], : size[1]]
        own = grad[plane.first : plane.first + plane.size].view(1, 1, *size)
        seen = [pictures[level] - coarse, coarse, own / (scale**2 * 4**level)]
        found.append(_layers(torch.cat(seen, 1), weights[level]).reshape(-1))
    return torch.cat(found[::-1])


def _layers(x: Tensor, weights: Tensor) -> Tensor:
    """[1, 1, H, W] of planes [1, C, H, W] that go on at their borders, some rows at a time."""
    height = x.shape[2]
    around = F.pad(x, (REACH,) * 4, mode="replicate")
    strips = [around[:, :, y : min(y + ROWS, height) + 2 * REACH] for y in range(0, height, ROWS)]
    return torch.cat([_strip(strip, weights) for strip in strips], 2)


def _strip(x: Tensor, weights: Tensor) -> Tensor:
    at = 0
    for outputs, inputs, side in LAYERS:
        size = outputs * inputs * side * side
        kernel = weights[at : at + size].view(outputs, inputs, side, side)
        bias = weights[at + size : at + size + outputs]
        at += size + outputs
        x = F.conv2d(x, kernel, bias)
        x = x if outputs == 1 else x.relu()
    return x

"""Spherical harmonics to colours of one view, strip by strip: for colours on a shelf."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from ..render.sh import sh_bases
from .shelf import STRIP, let_go


def bases_in(means: Tensor, position: Tensor, degree: int) -> Iterator[tuple[slice, Tensor]]:
    """Strips of the centres [N, 3] and their bases [n, K] float32, seen from a position [1, 3]."""
    for start in range(0, len(means), STRIP):
        part = slice(start, start + STRIP)
        directions = torch.nn.functional.normalize(means[part] - position, dim=1)
        yield part, sh_bases(degree, directions).float()


def painted(means: Tensor, colors: Tensor, position: Tensor, channels: int = 3) -> Tensor:
    """[N, channels] colours of SH coefficients [N, K, 3] from a position [1, 3]; others are 0."""
    degree = round(colors.shape[1] ** 0.5) - 1
    shown = torch.zeros(len(means), channels)
    for part, bases in bases_in(means, position, degree):
        rgb = (bases[:, :, None] * colors[part]).sum(1)
        shown[part, :3] = (rgb + 0.5).clamp_min_(0.0)
        let_go(colors)
    return shown

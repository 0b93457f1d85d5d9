"""Errors of pictures as colours."""

from __future__ import annotations

import functools

import torch
from torch import Tensor

ERROR_GAIN = 10.0  # An error of 1/10 of full brightness is the hottest colour.
HEAT = (  # Dark to bright, monotone in lightness, safe for colour-blind readers.
    (0.00, 0.00, 0.02), (0.25, 0.05, 0.40), (0.60, 0.15, 0.42),
    (0.90, 0.36, 0.22), (0.98, 0.68, 0.10), (0.99, 1.00, 0.70),
)  # fmt: skip
LEVELS = 1024  # Of the table; finer than the eight bits of a screen.


def heat_map(image: Tensor, reference: Tensor, gain: float = ERROR_GAIN) -> Tensor:
    """Error of a picture [H, W, 3] as colours: black for none, pale yellow for 1/gain and more."""
    error = (image.float() - reference.float()).abs_().mean(-1).mul_(gain).nan_to_num_(1.0)
    return _table()[error.clamp_(0, 1).mul_(LEVELS - 1).round_().long()]


@functools.lru_cache(maxsize=1)
def _table() -> Tensor:
    """[LEVELS, 3] colours, linear between those of HEAT."""
    place = torch.linspace(0, len(HEAT) - 1, LEVELS)
    colors = torch.tensor(HEAT)
    low = place.floor().long().clamp_max(len(HEAT) - 2)
    share = (place - low)[:, None]
    return colors[low] * (1 - share) + colors[low + 1] * share

"""Parameters of small networks as version 1 of groups has them: whole numbers around a prior."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from .latent_model import Design
from .latent_ops import Ints, decode_numbers
from .latent_weights import MOST_WEIGHT, STEP_BITS, groups

SCALES = 89  # Of `latent_ops.tail_tables`.


def centers(prior: Tensor, bits: int) -> Ints:
    """Of the numbers' distributions, in 1/16: the prior's whole numbers."""
    return (prior * 2.0**bits).round().to(torch.int32).numpy() * 16


def read(design: Design, data: bytes, prior: Tensor) -> Tensor:
    """[P] parameters. Raises ValueError for damage."""
    named = groups(design)
    if len(data) < 2 * len(named):
        raise ValueError(f"weights: expected {2 * len(named)} bytes of steps, got {len(data)}")
    codings = [(data[2 * k], data[2 * k + 1]) for k in range(len(named))]
    for (name, _), (bits, scale) in zip(named, codings, strict=True):
        if bits not in STEP_BITS or scale >= SCALES:
            raise ValueError(f"weights: {name}: no such step or scale, {bits}, {scale}")
    pairs = list(zip(named, codings, strict=True))
    middles = np.concatenate([centers(prior[at], bits) for (_, at), (bits, _) in pairs])
    scales = np.concatenate([np.full(len(at), scale, np.int32) for (_, at), (_, scale) in pairs])
    try:
        numbers = torch.from_numpy(decode_numbers(data[2 * len(named) :], middles, scales))
    except ValueError:
        raise ValueError("weights: damaged stream") from None
    flat, first = torch.zeros(design.parameters), 0
    for (name, at), (bits, _) in pairs:
        part, first = numbers[first : first + len(at)], first + len(at)
        if int(part.abs().max()) > MOST_WEIGHT << bits:
            raise ValueError(f"weights: {name}: expected magnitudes up to {MOST_WEIGHT}")
        flat[at] = part.float() * 2.0**-bits
    return flat

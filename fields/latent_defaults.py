"""The parameters that come with the package, which those of coded pictures are differences to."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .latent_model import Design

UNIT = 1 / 1024  # Of stored parameters.


@lru_cache(maxsize=8)
def shipped(name: str, design: Design) -> Tensor:
    """[P] parameters of a file beside this one."""
    stored = np.load(Path(__file__).with_name(f"{name}.npy"), allow_pickle=False)
    flat = torch.from_numpy(stored.astype(np.float32)) * UNIT
    if len(flat) != design.parameters:
        raise ValueError(f"{name}: expected {design.parameters} parameters, got {len(flat)}")
    return flat

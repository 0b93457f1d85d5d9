"""What photographs show at their borders: a backdrop of one colour, nothing, or a place."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..scenes.cameras import Scene

SHARE = 0.5  # Of the pixels at borders, for all to count as one.
NEARLY = 8 / 255  # Of black, of white, of transparent.

Backdrop = Literal["black", "white", "clear"]


def backdrop(scene: Scene, *, alpha: bool = False) -> Backdrop | None:
    """What at least half of the pixels at the borders of training photographs are.

    Args:
        scene: with training photographs.
        alpha: its masks are their alpha.

    Returns:
        black, white, clear where they are transparent, or None: the cameras stand in a place.
    """
    if scene.train_images is None:
        return None
    if alpha and scene.train_masks is not None and _share(scene.train_masks < NEARLY) >= SHARE:
        return "clear"
    if _share(scene.train_images.amax(3) < NEARLY) >= SHARE:
        return "black"
    return "white" if _share(scene.train_images.amin(3) > 1 - NEARLY) >= SHARE else None


def _share(found: Tensor) -> float:
    """Of the border pixels of [C, H, W] bool."""
    border = torch.zeros(found.shape[1:], dtype=torch.bool)
    border[[0, -1]] = border[:, [0, -1]] = True
    return float(found[:, border].float().mean())

"""From the lattices of the interchange formats back to stored values, and between axis frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from .model import SplatModel

SH_C0 = 0.28209479177387814
# Left/Right, Up/Down, Back/Front: where x, y and z point. SPZ numbers them 1 to 8, in this order.
FRAMES = ("ldb", "rdb", "lub", "rub", "ldf", "rdf", "luf", "ruf")
OUR_FRAME = "rdf"  # COLMAP's and INRIA's.
ALPHA_MARGIN = 1e-6  # A byte of 0 or 255 would be an infinite logit.

# How each SH coefficient changes sign when axes are mirrored: the axes it is odd in.
SH_ODD_AXES = [
    *("y", "z", "x"),
    *("xy", "yz", "", "xz", ""),
    *("y", "xyz", "y", "z", "x", "z", "x"),
    *("xy", "yz", "xy", "yz", "", "xz", "", "xz", ""),
]


def logit(alpha: np.ndarray) -> np.ndarray:
    """Opacity in [0, 1] to a finite float32 logit, clamped to [1e-6, 1 - 1e-6]."""
    clamped = np.clip(alpha.astype(np.float64), ALPHA_MARGIN, 1 - ALPHA_MARGIN)
    return np.log(clamped / (1 - clamped)).astype(np.float32)


def restore_largest(three: np.ndarray, largest: np.ndarray) -> np.ndarray:
    """Unit quaternions [N, 4] from three components [N, 3] and where the largest was [N].

    The three fill the other places in ascending order; the largest is positive.
    """
    n = len(three)
    places = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]])[largest]
    quats = np.empty((n, 4), np.float32)
    rows = np.arange(n)
    quats[rows[:, None], places] = three
    quats[rows, largest] = np.sqrt(np.maximum(0, 1 - np.square(three).sum(1)))
    return quats


def frame_signs(frame: str, base: str = OUR_FRAME) -> tuple[int, int, int]:
    """The signs of the axes between two frames, either way. Raises ValueError for no frame."""
    if frame not in FRAMES:
        raise ValueError(f"frame: expected one of {', '.join(FRAMES)}, got {frame!r}")
    x, y, z = (1 if a == b else -1 for a, b in zip(frame, base, strict=True))
    return x, y, z


def flip_axes(model: SplatModel, signs: tuple[int, int, int]) -> SplatModel:
    """The model with axes mirrored where `signs` is -1: centres, rotations and SH alike.

    Mirroring y and z is the change between RDF (ours) and RUB.
    """
    if signs == (1, 1, 1):
        return model
    x, y, z = signs
    axis = {"x": x, "y": y, "z": z}
    rest = model.shN.shape[1]
    odd = [int(np.prod([axis[a] for a in axes])) for axes in SH_ODD_AXES[:rest]]
    return replace(
        model,
        means=model.means * torch.tensor([x, y, z], device=model.means.device),
        quats=model.quats * torch.tensor([1, y * z, x * z, x * y], device=model.means.device),
        shN=model.shN * torch.tensor(odd, device=model.means.device).view(1, rest, 1),
    )

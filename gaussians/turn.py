"""Models turned, scaled, shifted and joined: centres, rotations and view-dependent colour alike."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..render.sh import sh_bases
from .model import SplatModel

TOLERANCE = 1e-4  # Of a linear part that is a rotation times one scale.
DIRECTIONS = 64  # That the colours of a turned model are fitted in: 9 unknowns at most.


def moved(
    model: SplatModel, linear: NDArray[np.float64], shift: NDArray[np.float64], file: str = "model"
) -> SplatModel:
    """The model under x -> linear x + shift, where `linear` is a rotation times a scale above 0.

    Raises ValueError naming the file for mirrors, shears and scales that differ by axis: a
    Gaussian's axes, or its colours, would not turn with it.
    """
    scale = float(np.cbrt(max(np.linalg.det(linear), 0.0)))
    rotation = linear / (scale or 1)
    if not scale or np.abs(rotation @ rotation.T - np.eye(3)).max() > TOLERANCE:
        raise ValueError(f"{file}: expected a node that turns, shifts and scales all axes alike")
    if np.array_equal(linear, np.eye(3)) and not shift.any():
        return model
    means = model.means.double() @ torch.from_numpy(linear).T + torch.from_numpy(shift)
    quat = _quaternion(rotation)
    return replace(
        model,
        means=means.float(),
        quats=_product(quat, model.quats),
        scales=model.scales + float(np.log(scale)),
        shN=turned_sh(model.shN, torch.from_numpy(rotation)),
    )


def turned_sh(shN: Tensor, rotation: Tensor) -> Tensor:
    """[N, K-1, 3] coefficients of colours that turn with the model, by `rotation` [3, 3].

    Each degree's bases span a space that rotations keep: what the turned ones are in terms of the
    others follows exactly from their values in a few directions.
    """
    if not shN.shape[1]:
        return shN
    degree = round((shN.shape[1] + 1) ** 0.5) - 1
    generator = torch.Generator().manual_seed(0)
    directions = torch.randn(DIRECTIONS, 3, generator=generator, dtype=torch.float64)
    directions = torch.nn.functional.normalize(directions, dim=1)
    bases = sh_bases(degree, directions).double()
    turned = sh_bases(degree, directions @ rotation.double()).double()  # Y(R^-1 d).
    out = torch.empty_like(shN)
    for d in range(1, degree + 1):
        part = slice(d * d, (d + 1) ** 2)
        own = slice(d * d - 1, (d + 1) ** 2 - 1)
        mix = torch.linalg.lstsq(bases[:, part], turned[:, part]).solution
        out[:, own] = torch.einsum("ij,njc->nic", mix.to(shN.dtype), shN[:, own])
    return out


def joined(parts: list[SplatModel], extra: dict[str, Any]) -> SplatModel:
    """One model of many, each padded with zeros to the highest SH degree among them."""
    rest = max(part.shN.shape[1] for part in parts)
    tensors = {
        key: torch.cat([part.tensors()[key] for part in parts])
        for key in ("means", "quats", "scales", "opacities", "sh0")
    }
    padded = [torch.nn.functional.pad(p.shN, (0, 0, 0, rest - p.shN.shape[1])) for p in parts]
    antialiased = any(part.antialiased for part in parts)
    return SplatModel(**tensors, shN=torch.cat(padded), antialiased=antialiased, extra=extra)


def _quaternion(rotation: NDArray[np.float64]) -> Tensor:
    """[4] wxyz of a rotation: the eigenvector of its largest eigenvalue (Bar-Itzhack 2000)."""
    m = rotation
    k = np.array([
        [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
        [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
        [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
        [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
    ])  # fmt: skip
    return torch.from_numpy(np.linalg.eigh(k)[1][:, -1].copy()).float()


def _product(first: Tensor, quats: Tensor) -> Tensor:
    """The turn by `quats` [N, 4] followed by the one of `first` [4], wxyz."""
    a, b, c, d = first
    w, x, y, z = quats.unbind(1)
    return torch.stack(
        [
            a * w - b * x - c * y - d * z,
            a * x + b * w + c * z - d * y,
            a * y - b * z + c * w + d * x,
            a * z + b * y - c * x + d * w,
        ],
        dim=1,
    )

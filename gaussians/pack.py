"""From stored values onto the lattices of the interchange formats: the way back from `unpack`."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..quant import entropy
from .model import SplatModel
from .unpack import restore_largest

FLOAT32_LIMIT = 3.4e38  # The readers' too: what is beyond stands for infinity.
HIGHEST_DEGREE = 3
# The largest of four is at least 1/2; decoded, a little less. Smaller ones the norm does not tell.
LEAST_DROPPED = 0.49


def stored_values(model: SplatModel, file_format: str) -> dict[str, NDArray[np.float32]]:
    """The model's tensors as arrays, checked for what a format without degree 4 can hold.

    Opacities may be infinite. Raises ValueError naming the format and the tensor.
    """
    if model.sh_degree > HIGHEST_DEGREE:
        raise ValueError(
            f"{file_format} SH degree: expected 0 to {HIGHEST_DEGREE}, got {model.sh_degree}"
        )
    values = {
        name: tensor.detach().cpu().float().numpy() for name, tensor in model.tensors().items()
    }
    for name, value in values.items():
        if name == "opacities":
            if np.isnan(value).any():
                raise ValueError(f"{file_format} {name}: expected numbers, got NaN")
        elif not (np.abs(value) < FLOAT32_LIMIT).all():
            raise ValueError(
                f"{file_format} {name}: expected finite values; sanitize the model first"
            )
    return values


def alpha_bytes(opacities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Opacity logits [N] as the nearest of 256 even steps from 0 to 1."""
    with np.errstate(over="ignore"):  # A logit of -1000 is an opacity of exactly 0.
        alpha = 1 / (1 + np.exp(-opacities.astype(np.float64)))
    return np.rint(255 * alpha).astype(np.uint8)


def morton_order(cells: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The order [N] of integer cells [N, 3] below 2^21 along the Morton curve, ties as given."""
    return np.argsort(entropy.morton_codes(cells), kind="stable")


def drop_one(quats: NDArray[np.float32], steps: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Steps [N, 3] of three components of rotations [N, 4], and which one was dropped [N].

    A component c becomes the nearest of (c / sqrt(2) + 1/2) `steps`; the dropped one is positive
    and follows from the norm. Of the largest and those near half of the norm it is the one that
    leaves the least error: so values that were decoded are encoded to the same steps.
    """
    norm = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    unit = np.where(norm > 0, quats / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
    codes, dropped = np.zeros((len(quats), 3), np.int64), np.zeros(len(quats), np.int64)
    least = np.full(len(quats), np.inf)
    for i in range(4):
        turned = unit * np.where(unit[:, i : i + 1] < 0, -1, 1)
        three = np.delete(turned, i, axis=1)
        found = np.rint((three * np.sqrt(0.5) + 0.5) * steps).clip(0, steps).astype(np.int64)
        back = ((found / steps - 0.5) * np.sqrt(2)).astype(np.float32)
        decoded = restore_largest(back, np.full(len(quats), i))
        error = np.square(decoded - turned).sum(1)
        error[decoded[:, i] < LEAST_DROPPED] = np.inf
        better = error < least
        codes[better], dropped[better], least[better] = found[better], i, error[better]
    return codes, dropped

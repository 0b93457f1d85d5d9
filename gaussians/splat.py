"""antimatter15's .splat: 32 bytes a Gaussian, no header, no view-dependent colour."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray

from .limits import BYTE_OPACITY, Limits
from .model import SplatModel, check_room
from .pack import alpha_bytes, stored_values
from .unpack import SH_C0, logit

RECORD = np.dtype(
    [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)]
)
BLOCK_ROWS = 1 << 16
LIMITS = Limits(
    sh_degree=0,
    ranges={
        "sh0": (-0.5 / SH_C0, 0.5 / SH_C0),
        "opacities": BYTE_OPACITY,
        "scales": (-87.0, 88.0),  # Linear and float32 in the file.
    },
)


def read_splat(data: bytes, *, name: str = "splat") -> SplatModel:
    """Read .splat bytes. Raises ValueError in one line where they are no whole records."""
    if not data or len(data) % RECORD.itemsize:
        raise ValueError(
            f"{name}: .splat: expected a positive multiple of {RECORD.itemsize} bytes, "
            f"got {len(data)}"
        )
    check_room(len(data) // RECORD.itemsize, 0, name)
    rows = np.frombuffer(data, RECORD)
    with np.errstate(all="ignore"):  # A scale of 0 or less is sanitize's task.
        scales = np.log(rows["scales"])
    colors = (rows["rgba"][:, :3] / np.float32(255) - np.float32(0.5)) / np.float32(SH_C0)
    quats = (rows["quats"].astype(np.float32) - 128) / 128
    quats[~quats.any(1)] = (1, 0, 0, 0)
    return SplatModel(
        means=torch.from_numpy(rows["means"].copy()),
        quats=torch.from_numpy(quats),
        scales=torch.from_numpy(scales),
        opacities=torch.from_numpy(logit(rows["rgba"][:, 3] / 255)),
        sh0=torch.from_numpy(colors[:, None].astype(np.float32)),
        shN=torch.zeros(len(rows), 0, 3),
        extra={"source_format": "splat"},
    )


def write_splat(model: SplatModel) -> Iterator[bytes]:
    """The model's bytes in blocks, the largest and most opaque Gaussians first, as viewers expect.

    SH beyond DC are left out. Raises ValueError for values that are not finite.
    """
    values = stored_values(LIMITS.cut(model), ".splat")
    if not len(model):
        raise ValueError(".splat count: expected at least 1 Gaussian, got 0")
    order = by_size(values)
    for start in range(0, len(order), BLOCK_ROWS):
        part = order[start : start + BLOCK_ROWS]
        rows = np.empty(len(part), RECORD)
        rows["means"] = values["means"][part]
        rows["scales"] = np.exp(values["scales"][part])
        rows["rgba"] = rgba_bytes(values["sh0"][part, 0], values["opacities"][part])
        rows["quats"] = _quat_bytes(values["quats"][part])
        yield rows.tobytes()


def by_size(values: dict[str, NDArray[np.float32]]) -> NDArray[np.int64]:
    """[N] the order by falling volume times opacity, ties as given."""
    log_alpha = -np.logaddexp(0, -values["opacities"].astype(np.float64))
    return np.argsort(-(values["scales"].sum(1, dtype=np.float64) + log_alpha), kind="stable")


def rgba_bytes(sh0: NDArray[np.float32], opacities: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, 4]: the colour seen from nowhere in particular, and the opacity, each nearest byte."""
    rgb = np.rint(255 * (0.5 + SH_C0 * sh0.astype(np.float64))).clip(0, 255)
    return np.concatenate([rgb, alpha_bytes(opacities)[:, None]], axis=1).astype(np.uint8)


def _quat_bytes(quats: NDArray[np.float32]) -> NDArray[np.uint8]:
    """[N, 4] bytes 128 q + 128: of q and -q the one whose largest part is below 0, as 1 is not."""
    norm = np.linalg.norm(quats.astype(np.float64), axis=1, keepdims=True)
    unit = np.where(norm > 0, quats / np.where(norm > 0, norm, 1), [1.0, 0, 0, 0])
    largest = np.take_along_axis(unit, np.abs(unit).argmax(1)[:, None], 1)
    return np.rint(128 * np.where(largest > 0, -unit, unit) + 128).clip(0, 255).astype(np.uint8)

"""Radiance fields in checkpoints of `ns-train fieldpress-nerf` (studio/radiance.py)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..quant.torch_archive import Stored, TorchArchive
from ..scenes.cameras import Cameras
from .levels import LATTICES, Encoding
from .nerf import NerfField
from .network import MAX_LAYERS, Network

PREFIXES = ("_model.radiance.", "_model.module.radiance.")
OTYPES = tuple(LATTICES)  # By the number that a checkpoint has for each.


def encoding_numbers(encoding: Encoding) -> Tensor:
    """[6] float64: otype, levels, F, log2 of the rows, base resolution, growth."""
    e = encoding
    numbers = (OTYPES.index(e.otype), e.levels, e.features, e.log2_hashmap_size, e.base_resolution)
    return torch.tensor([*numbers, e.per_level_scale], dtype=torch.float64)


def prefix_of(archive: TorchArchive) -> str | None:
    """What names of a field's tensors begin with; None for a checkpoint of another method."""
    pipeline = archive.root.get("pipeline") if isinstance(archive.root, dict) else None
    if not isinstance(pipeline, dict):
        return None
    return next((prefix for prefix in PREFIXES if prefix + "layout" in pipeline), None)


def field_of(archive: TorchArchive) -> NerfField | None:
    """The radiance field of a checkpoint, in nerfstudio's frame; None where it holds none.

    Raises ValueError in one line naming the file and the tensor at fault.
    """
    prefix = prefix_of(archive)
    if prefix is None:
        return None
    tensors: Mapping[str, Any] = archive.root["pipeline"]

    def read(key: str) -> Tensor:
        value = tensors.get(prefix + key)
        found = archive.array(value, key)
        if found.dtype.kind not in "fb" or not np.isfinite(found).all():
            raise ValueError(f"{archive.name}: {key}: expected finite numbers")
        return torch.from_numpy(found if found.dtype == np.bool_ else found.astype(np.float32))

    def matrices(key: str) -> tuple[Tensor, ...]:
        names = (f"{key}.{i}" for i in range(MAX_LAYERS))
        return tuple(read(name) for name in names if isinstance(tensors.get(prefix + name), Stored))

    try:
        encoding = _encoding(archive.array(tensors[prefix + "layout"], "layout"))
        cube, behind = read("cube"), read("background")
        if cube.shape != (4,) or behind.shape != (3,) or not cube[3] > 0:
            raise ValueError(f"cube, background: expected 4 and 3 numbers, got {list(cube.shape)}")
        x, y, z, edge = cube.tolist()
        r, g, b = behind.clamp(0, 1).tolist()
        cells = read("cells")
        if cells.dtype != torch.bool or tuple(cells.shape) != (NerfField.side**3,):
            raise ValueError(f"cells: expected {NerfField.side**3} flags, got {list(cells.shape)}")
        network = Network(encoding, read("table"), matrices("weights"))
        extra = {"source_format": "fieldpress-nerf checkpoint"}
        return NerfField(network, matrices("head"), cells, (x, y, z), edge, extra, (r, g, b))
    except (ValueError, IndexError, KeyError) as error:
        reason = str(error).removeprefix(f"{archive.name}: ")
        raise ValueError(f"{archive.name}: {reason}") from None


def _encoding(numbers: np.ndarray) -> Encoding:
    if numbers.shape != (6,) or not np.isfinite(numbers).all():
        raise ValueError("layout: expected 6 numbers")
    otype, levels, features, rows, base, growth = numbers.tolist()
    if not (0 <= otype < len(OTYPES) and all(n == int(n) for n in (otype, levels, features, rows))):
        raise ValueError("layout: expected whole numbers")
    return Encoding(3, OTYPES[int(otype)], int(levels), int(features), int(rows), base, growth)


def in_frame(cameras: Cameras, frame: Any) -> Cameras:
    """The cameras where a field lies that was trained at x' = linear x + shift.

    Args:
        cameras: of the capture.
        frame: [3, 4] numbers, `linear` a rotation times a scale, and `shift`; None: the same place.

    Raises ValueError for another frame: files carry it as they like.
    """
    if frame is None:
        return cameras
    try:
        matrix = torch.tensor(frame, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        matrix = torch.zeros(0)
    if tuple(matrix.shape) != (3, 4) or not matrix.isfinite().all():
        raise ValueError(f"frame: expected 3x4 finite numbers, got {frame!r:.40}")
    linear, shift = matrix[:, :3], matrix[:, 3]
    if not 1e-30 < float(linear.det()) < 1e30:
        raise ValueError("frame: expected a rotation times a scale")
    turn = linear / linear.det().pow(1 / 3)
    rotation = cameras.viewmats[:, :3, :3].double() @ turn.T
    eyes = cameras.positions.double() @ linear.T + shift
    viewmats = cameras.viewmats.double().clone()
    viewmats[:, :3, :3] = rotation
    viewmats[:, :3, 3:] = -rotation @ eyes[:, :, None]
    return Cameras(viewmats.float(), cameras.Ks, cameras.width, cameras.height, cameras.times)

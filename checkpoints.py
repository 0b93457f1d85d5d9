"""Training checkpoints of other programs, whatever they hold; nothing in them is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .fields.checkpoint import field_of, prefix_of
from .fields.ingp import read_ingp
from .fields.nerfacto import TABLE, nerfacto_of
from .gaussians.checkpoint import gaussians_of, in_capture, read_frame, transforms_beside
from .quant import budget
from .quant.torch_archive import TorchArchive

SUFFIXES = (".ckpt", ".pt", ".pth")
SNAPSHOTS = (".ingp", ".msgpack")  # Of instant-ngp: always of a field.
ZIP = b"PK"
KNOWN = (
    "splatfacto, nerfacto or instant-ngp by torch, fieldpress-splats, fieldpress-nerf "
    "(nerfstudio), gsplat, or INRIA's Gaussians"
)


def read_checkpoint(source: Path | bytes, *, name: str) -> Any:
    """The model in a checkpoint: .ckpt of nerfstudio, .pt of gsplat, .pth of INRIA's code.

    Also that of a snapshot of instant-ngp (.ingp, .msgpack).

    nerfstudio moves and scales what it trains on. Where its dataparser_transforms.json lies beside
    a checkpoint, or beside its folder, that is undone for Gaussians; a field has it as `frame`.
    Raises ValueError in one line.
    """
    if Path(name).suffix.lower() in SNAPSHOTS or _head(source) != ZIP:
        return read_ingp(_bytes(source, name), name=name)
    archive = TorchArchive(source, name=name)
    model: Any = gaussians_of(archive)
    model = field_of(archive) if model is None else model
    model = nerfacto_of(archive) if model is None else model
    if model is None:
        raise ValueError(f"{name}: expected a checkpoint of {KNOWN}; got another")
    transforms = transforms_beside(source) if isinstance(source, Path) else None
    if transforms is None:
        return model
    if model.kind in ("nerf", "nerfacto"):
        frame = np.column_stack(read_frame(transforms)).tolist()
        return replace(model, extra={**model.extra, "frame": frame})
    return in_capture(model, transforms) if "splatfacto" in model.extra["source_format"] else model


def holds_field(source: str) -> bool:
    """Whether a path is of a checkpoint with a radiance field; of nothing else it says no."""
    path = Path(source)
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES + SNAPSHOTS or not path.is_file():
        return False
    if suffix in SNAPSHOTS:
        return True
    archive = TorchArchive(path, name=source)
    return prefix_of(archive) is not None or _has_tables(archive)


def _has_tables(archive: TorchArchive) -> bool:
    pipeline = archive.root.get("pipeline") if isinstance(archive.root, dict) else None
    return isinstance(pipeline, dict) and any(str(name).endswith(TABLE) for name in pipeline)


def _head(source: Path | bytes) -> bytes:
    if isinstance(source, bytes):
        return source[: len(ZIP)]
    with source.open("rb") as file:
        return file.read(len(ZIP))


def _bytes(source: Path | bytes, name: str) -> bytes:
    if isinstance(source, bytes):
        return source
    budget.check(source.stat().st_size, name)
    return source.read_bytes()

"""Training checkpoints of other programs, whatever they hold; nothing in them is run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .fields.checkpoint import field_of, prefix_of
from .gaussians.checkpoint import gaussians_of, in_capture, read_frame, transforms_beside
from .quant.torch_archive import TorchArchive

SUFFIXES = (".ckpt", ".pt", ".pth")
KNOWN = "splatfacto, fieldpress-splats, fieldpress-nerf (nerfstudio), gsplat, or INRIA's Gaussians"


def read_checkpoint(source: Path | bytes, *, name: str) -> Any:
    """The model in a checkpoint: .ckpt of nerfstudio, .pt of gsplat, .pth of INRIA's code.

    nerfstudio moves and scales what it trains on. Where its dataparser_transforms.json lies beside
    a checkpoint, or beside its folder, that is undone for Gaussians; a field has it as `frame`.
    Raises ValueError in one line.
    """
    archive = TorchArchive(source, name=name)
    model: Any = gaussians_of(archive)
    model = field_of(archive) if model is None else model
    if model is None:
        raise ValueError(f"{name}: expected a checkpoint of {KNOWN}; got another")
    transforms = transforms_beside(source) if isinstance(source, Path) else None
    if transforms is None:
        return model
    if model.kind == "nerf":
        frame = np.column_stack(read_frame(transforms)).tolist()
        return replace(model, extra={**model.extra, "frame": frame})
    return in_capture(model, transforms) if "splatfacto" in model.extra["source_format"] else model


def holds_field(source: str) -> bool:
    """Whether a path is of a checkpoint with a radiance field; of nothing else it says no."""
    path = Path(source)
    if path.suffix.lower() not in SUFFIXES or not path.is_file():
        return False
    return prefix_of(TorchArchive(path, name=source)) is not None

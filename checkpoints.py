"""Training checkpoints of other programs, whatever they hold; nothing in them is run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .gaussians.checkpoint import gaussians_of, in_capture, transforms_beside
from .quant.torch_archive import TorchArchive

KNOWN = "splatfacto's or fieldpress-splats' (nerfstudio), gsplat's, or INRIA's Gaussians"


def read_checkpoint(source: Path | bytes, *, name: str) -> Any:
    """The model in a checkpoint: .ckpt of nerfstudio, .pt of gsplat, .pth of INRIA's code.

    nerfstudio moves and scales what it trains on: where its dataparser_transforms.json lies beside
    a checkpoint, or beside its folder, that is undone. Raises ValueError in one line.
    """
    archive = TorchArchive(source, name=name)
    model = gaussians_of(archive)
    if model is None:
        raise ValueError(f"{name}: expected a checkpoint of {KNOWN}, got another")
    transforms = transforms_beside(source) if isinstance(source, Path) else None
    if transforms is not None and "splatfacto" in model.extra["source_format"]:
        return in_capture(model, transforms)
    return model

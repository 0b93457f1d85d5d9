"""Cameras alone, of a dataset whose photographs need not exist."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from .cameras import Cameras
from .colmap import colmap_views, model_folder
from .llff import llff_views
from .photos import View, as_cameras
from .transforms_json import parse, view_of

MAX_SIDE = 16384  # Pixels; a picture of more is a mistake or an attack.


def read_cameras(path: str | Path) -> Cameras:
    """The C cameras of a transforms.json, a poses_bounds.npy or a COLMAP model.

    They come in the file's order, at the size that it names, as pinholes.

    Raises:
        ValueError: one line that names the file and what is wrong with it.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    views = _views(path)
    sizes = {view.size for view in views}
    if len(sizes) != 1:
        raise ValueError(f"{path}: expected one image size for all cameras, got {len(sizes)}")
    width, height = (int(side) for side in sizes.pop())
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"{path}: expected images of 1..{MAX_SIDE} pixels, got {width}x{height}")
    viewmats = np.stack([view.viewmat for view in views])
    return as_cameras(path, viewmats, np.stack([view.K for view in views]), width, height)


def _views(path: Path) -> list[View]:
    if path.is_dir() and not (path / "transforms.json").exists():
        folder = model_folder(path)
        if folder is not None:
            return colmap_views(folder)
        if (path / "poses_bounds.npy").exists():
            return llff_views(path / "poses_bounds.npy")
    file = path / "transforms.json" if path.is_dir() else path
    if file.suffix == ".npy":
        return llff_views(file)
    return [view_of(file, i, frame) for i, frame in enumerate(parse(file)[1])]

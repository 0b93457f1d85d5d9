"""Posed photographs with the poses_bounds.npy of LLFF."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray

from .cameras import Scene
from .photos import (
    READY_SCALES,
    ReadOptions,
    View,
    find_photos,
    list_photos,
    load_scene,
    named_mask,
)

Array = NDArray[np.float64]

MOST_HEADER = 512  # Bytes; NumPy writes some hundred, and parses thousands for seconds.
COLUMNS = 17  # A pose of 3x5 (rotation, position, size and focal length), then near and far.


def read_llff(path: str | Path, options: ReadOptions | None = None) -> Scene:
    """Read a poses_bounds.npy and the photographs in `images` beside it, taken in sorted order.

    Args:
        path: the file, or its folder.
        options: scale, split, background and masks; masks are `masks/NAME.png`.

    Raises:
        ValueError: one line naming the file and what is wrong with it.
        FileNotFoundError: if there is no such file.
    """
    options = options or ReadOptions()
    path = Path(path)
    file = path / "poses_bounds.npy" if path.is_dir() else path
    views = llff_views(file)
    names = _names(file, len(views))
    found, scale = find_photos(file.parent, names, options.downscale, str(file))
    views = [replace(views[i], name=names[i].name, photo=photo) for i, photo in found.items()]
    if options.masks:
        views = [replace(view, mask=named_mask(file.parent, view.name)) for view in views]
    options = replace(options, downscale=scale)
    return load_scene(file.parent, file, views, options)


def _names(file: Path, count: int) -> list[PurePosixPath]:
    """The photographs that the N poses belong to, of the whole size or else of a smaller one."""
    folders = ("images", *(f"images_{scale}" for scale in READY_SCALES))
    listings = [list_photos(file.parent / folder) for folder in folders]
    photos = next((listing for listing in listings if listing), [])
    if len(photos) != count:
        raise ValueError(
            f"{file}: expected a photograph in {file.parent / 'images'} for each of its {count} "
            f"poses, got {len(photos)}"
        )
    return [PurePosixPath("images") / photo.name for photo in photos]


def llff_views(file: Path) -> list[View]:
    """The N views of a poses_bounds.npy, without their photographs."""
    views = []
    for i, row in enumerate(_rows(file)):
        matrix = row[:15].reshape(3, 5)
        height, width, focal = matrix[:, 4]
        down, right, back = matrix[:, 0], matrix[:, 1], matrix[:, 2]
        pose = np.eye(4)
        pose[:3] = np.stack([right, down, -back, matrix[:, 3]], axis=1)
        rotation = pose[:3, :3].clip(-2, 2)  # What is larger is none, and would overflow.
        if np.abs(rotation.T @ rotation - np.eye(3)).max() > 0.05 or np.linalg.det(rotation) < 0:
            raise ValueError(f"{file}: pose {i}: expected a rotation, got {matrix[:, :3].tolist()}")
        if not (height >= 1 and width >= 1 and focal > 0):
            raise ValueError(
                f"{file}: pose {i}: expected a size and a focal length > 0, got {matrix[:, 4]}"
            )
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1.0]])
        viewmat = np.linalg.inv(pose).astype(np.float64)
        views.append(View("", file, viewmat, K, (float(width), float(height))))
    return views


def _rows(file: Path) -> Array:
    """[N, 17] finite numbers."""
    _check_head(file)
    try:
        rows = np.load(file, mmap_mode="r", allow_pickle=False)  # Mapped: no claim is allocated.
    except Exception as error:  # NumPy parses the header as Python, with all of that's errors.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(f"{file}: not a NumPy array ({reason:.120})") from None
    if rows.ndim != 2 or rows.shape[1] != COLUMNS or len(rows) == 0 or rows.dtype.kind not in "fiu":
        raise ValueError(
            f"{file}: expected [N, {COLUMNS}] numbers, got {list(rows.shape)} {rows.dtype}"
        )
    rows = np.array(rows, np.float64)
    if not np.isfinite(rows).all():
        raise ValueError(f"{file}: expected finite numbers")
    return rows


def _check_head(file: Path) -> None:
    """Refuse archives of arrays, and a header that is longer than the file: NumPy would read it."""
    with file.open("rb") as opened:
        head = opened.read(12)
    width = 2 if head[6:7] == b"\x01" else 4
    size = int.from_bytes(head[8 : 8 + width], "little")
    if head[:6] != b"\x93NUMPY":
        raise ValueError(f"{file}: not a NumPy array (it begins with {head[:6]!r})")
    most = min(file.stat().st_size, MOST_HEADER)
    if size > most:
        raise ValueError(f"{file}: expected a header of at most {most} bytes, got {size}")

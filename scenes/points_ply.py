"""Points and colors of a point cloud in a PLY file."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

MAX_HEADER_BYTES = 1 << 16


def read_points_ply(file: Path) -> tuple[Tensor, Tensor | None]:
    """Positions [P, 3] float32, and colors [P, 3] in [0, 1] if the vertices have any.

    Raises:
        ValueError: one line naming the file and what is wrong with it.
    """
    from plyfile import PlyData, PlyParseError

    _check_counts(file)
    try:
        vertices = PlyData.read(str(file), mmap="c")["vertex"].data
        points = np.stack([vertices[axis].astype(np.float32) for axis in "xyz"], axis=1)
    except (PlyParseError, ValueError, KeyError, IndexError, TypeError, OSError) as error:
        raise ValueError(f"{file}: expected a PLY of vertices x, y, z ({error})") from None
    if len(points) == 0 or not np.isfinite(points).all():
        raise ValueError(f"{file}: expected finite vertices, at least one")
    names = ("red", "green", "blue")
    if not set(names) <= set(vertices.dtype.names or ()):
        return torch.from_numpy(points), None
    whole = vertices.dtype["red"].kind in "iu"  # Bytes, else numbers of 0..1.
    colors = np.stack([vertices[name].astype(np.float32) for name in names], axis=1)
    colors = np.nan_to_num(colors / 255 if whole else colors).clip(0, 1)
    return torch.from_numpy(points), torch.from_numpy(colors)


def _check_counts(file: Path) -> None:
    """No more elements than the file has bytes: plyfile allocates what the header claims."""
    with file.open("rb") as opened:
        head = opened.read(MAX_HEADER_BYTES).partition(b"end_header")[0]
    size = file.stat().st_size
    for line in re.findall(rb"^\s*element[^\r\n]*", head, re.MULTILINE):
        words = line.split()
        count = int(words[2]) if len(words) == 3 and words[2].isdigit() else -1
        if not 0 <= count <= size:
            raise ValueError(
                f"{file}: {line[:60].decode(errors='replace')}: more than its {size} bytes hold"
            )

"""Cameras alone, from a transforms.json whose photographs need not exist."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch

from .cameras import Cameras
from .transforms_json import MAX_JSON_BYTES, OPENGL_FROM_OPENCV, _intrinsics, _number, _pose

MAX_SIDE = 16384  # Pixels; a picture of more is a mistake or an attack.


def read_cameras(path: str | Path) -> Cameras:
    """The C cameras of a transforms.json in the file's order, at the size that it names (w, h).

    Raises FileNotFoundError, or ValueError in one line that names the file and what is wrong.
    """
    path = Path(path)
    file = path / "transforms.json" if path.is_dir() else path
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file}: expected at most {MAX_JSON_BYTES} bytes")
    try:
        meta = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not frames or not all(isinstance(f, dict) for f in frames):
        raise ValueError(f"{file}: frames: expected a list of at least one object")
    merged = [{**meta, **frame} for frame in frames]
    sizes = {tuple(_number(file, side, frame.get(side)) for side in "wh") for frame in merged}
    if len(sizes) != 1:
        raise ValueError(f"{file}: w, h: expected one size for all frames, got {len(sizes)}")
    width, height = (int(side) for side in sizes.pop())
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"{file}: w, h: expected 1..{MAX_SIDE}, got {width}, {height}")
    poses = [_pose(file, i, frame.get("transform_matrix")) for i, frame in enumerate(merged)]
    viewmats = np.linalg.inv(np.stack(poses) @ OPENGL_FROM_OPENCV).astype(np.float32)
    Ks = np.stack([_intrinsics(file, frame, (width, height)) for frame in merged])
    return Cameras(
        torch.from_numpy(viewmats), torch.from_numpy(Ks.astype(np.float32)), width, height
    )

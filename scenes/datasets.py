"""Any dataset of posed photographs, known by what lies in its folder."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from .cameras import Scene
from .colmap import model_folder, read_colmap
from .llff import read_llff
from .photos import ReadOptions
from .transforms_json import read_transforms


def read_scene(
    path: str | Path,
    *,
    downscale: float = 1,
    test_every: int = 8,
    background: float = 0.0,
    masks: bool | Literal["alpha"] = True,
    most_bytes: int | None = None,
) -> Scene:
    """Read posed photographs, their split, and points if there are any.

    A folder is, in this order: a COLMAP model (cameras.bin or .txt in sparse/0, sparse or itself),
    a transforms.json or transforms_train.json (nerfstudio, instant-ngp, Blender), or a
    poses_bounds.npy (LLFF). Where several are there, COLMAP's cameras and points are taken, since
    both are then in one frame; name the file itself (DIR/transforms.json) to take the other.

    Args:
        path: a folder, a transforms.json or a poses_bounds.npy.
        downscale: photographs are made this many times smaller each way, by area averaging;
            sizes are rounded down. A ready images_2, images_4 or images_8 is taken instead of
            averaging where it holds that scale. Intrinsics follow the size of the photographs.
        test_every: of the photographs sorted by name, index % test_every == 0 are test views; 0
            makes all of them training views. Blender's own split stays as it is.
        background: grey in [0, 1] that transparent photographs are laid over.
        masks: read masks/NAME.png (COLMAP) or mask_path (transforms.json) where there are any;
            "alpha" takes the photographs' alpha instead.
        most_bytes: of memory that the photographs may take; None asks nothing.

    Raises:
        ValueError: one line naming the file and what is wrong with it.
        FileNotFoundError: if there is no such path.
    """
    options = ReadOptions(downscale, test_every, background, masks, most_bytes)
    path = Path(path)
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if path.is_file():
        return (read_llff if path.suffix == ".npy" else read_transforms)(path, options)
    if model_folder(path) is not None:
        return read_colmap(path, options)
    if any((path / name).exists() for name in ("transforms.json", "transforms_train.json")):
        return read_transforms(path, options)
    if (path / "poses_bounds.npy").exists():
        return read_llff(path, options)
    raise ValueError(
        f"{path}: expected sparse/0, transforms.json, transforms_train.json or poses_bounds.npy"
    )

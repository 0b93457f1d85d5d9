"""Posed photographs in the transforms.json of NeRF, instant-ngp and nerfstudio."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Cameras, Scene

Array = NDArray[np.float64]

TEST_EVERY = 8  # Every eighth photograph by name is a test view, as in Mip-NeRF 360.
MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL")  # If undistorted.
DISTORTION = ("k1", "k2", "k3", "k4", "k5", "k6", "p1", "p2")
SUFFIXES = ("", ".png", ".jpg", ".jpeg")  # Blender's files leave the suffix out.
MAX_JSON_BYTES = 256 * 10**6
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])


def read_transforms(path: str | Path, *, downscale: int = 1, background: float = 0.0) -> Scene:
    """Read the photographs and poses that a transforms.json names.

    Photographs are sorted by name; every eighth (index % 8 == 0) is a test view. A folder with
    transforms_train.json (Blender) instead keeps its own split. Named files that are not there
    are left out with one warning. Intrinsics follow the size of the photographs.

    Args:
        path: the file, or its folder.
        downscale: photographs are made this many times smaller, each way, by area averaging.
        background: grey in [0, 1] that transparent photographs are laid over.

    Raises:
        ValueError: one line naming the file and what is wrong with it; lens distortion other than
            zero, file paths that leave the folder, and photographs of several sizes are refused.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    if downscale < 1:
        raise ValueError(f"downscale: expected at least 1, got {downscale}")
    if path.is_dir() and not (path / "transforms.json").exists():
        train_file, test_file = path / "transforms_train.json", path / "transforms_test.json"
        if train_file.exists():
            train = _read_split(train_file, downscale, background)
            test = train
            if test_file.exists():
                test = _read_split(test_file, downscale, background)
            return Scene(path.name, train[0], test[0], train[1], test[1])
    file = path / "transforms.json" if path.is_dir() else path
    meta, frames = _parse(file)
    is_test = np.arange(len(frames)) % TEST_EVERY == 0
    cameras, images = _load(file, meta, frames, downscale, background)
    pick = torch.from_numpy(is_test)
    name = file.resolve().parent.name
    return Scene(name, cameras[~pick], cameras[pick], images[~pick], images[pick])


def write_transforms(path: str | Path, cameras: Cameras, names: list[str]) -> None:
    """Write poses and intrinsics of C pinhole cameras, with the file name of each photograph.

    Args:
        path: the transforms.json to write; replaced if it exists.
        cameras: C views.
        names: C paths relative to the file's folder.
    """
    if len(names) != len(cameras):
        raise ValueError(f"names: expected {len(cameras)}, got {len(names)}")
    camtoworlds = np.linalg.inv(cameras.viewmats.double().numpy()) @ OPENGL_FROM_OPENCV
    frames = [
        {"file_path": name, **_intrinsics_json(K), "transform_matrix": pose.tolist()}
        for name, K, pose in zip(names, cameras.Ks.double(), camtoworlds, strict=True)
    ]
    meta = {"camera_model": "PINHOLE", "w": cameras.width, "h": cameras.height, "frames": frames}
    Path(path).write_text(json.dumps(meta, indent=1) + "\n")


def _intrinsics_json(K: Tensor) -> dict[str, float]:
    values = (K[0, 0], K[1, 1], K[0, 2], K[1, 2])
    return dict(zip(("fl_x", "fl_y", "cx", "cy"), map(float, values), strict=True))


def _read_split(file: Path, downscale: int, background: float) -> tuple[Cameras, Tensor]:
    meta, frames = _parse(file)
    return _load(file, meta, frames, downscale, background)


def _parse(file: Path) -> tuple[dict[str, Any], list[tuple[Path, dict[str, Any]]]]:
    """The file's content, and its frames whose photographs are there, sorted by name."""
    if file.stat().st_size > MAX_JSON_BYTES:
        raise ValueError(f"{file}: expected at most {MAX_JSON_BYTES} bytes")
    try:
        meta = json.loads(file.read_bytes())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{file}: not JSON ({error})") from None
    frames = meta.get("frames") if isinstance(meta, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{file}: frames: expected a list of objects")
    if not frames:
        raise ValueError(f"{file}: frames: expected at least one")
    _check_lens(file, meta)
    found = []
    for index, frame in enumerate(frames):
        _check_lens(file, frame)
        photo = _photo(file, index, frame.get("file_path"))
        if photo is not None:
            found.append((photo, frame))
    if not found:
        raise ValueError(f"{file}: none of its {len(frames)} photographs is there")
    if len(found) < len(frames):
        missing = len(frames) - len(found)
        warnings.warn(f"{file}: {missing} of {len(frames)} photographs are missing", stacklevel=4)
    return meta, sorted(found, key=lambda pair: str(pair[0]))


def _check_lens(file: Path, meta: dict[str, Any]) -> None:
    model = meta.get("camera_model", "PINHOLE")
    if model not in MODELS:
        raise ValueError(f"{file}: camera_model: expected PINHOLE, got {model!r:.40}")
    for name in DISTORTION:
        if _number(file, name, meta.get(name, 0.0)) != 0:
            raise ValueError(
                f"{file}: {name}: expected undistorted photographs (0), got {meta[name]}"
            )


def _photo(file: Path, index: int, name: Any) -> Path | None:
    """The photograph that a frame names, or None if it is not there."""
    where = f"{file}: frame {index}: file_path"
    if not isinstance(name, str) or not name or "\0" in name:
        raise ValueError(f"{where}: expected a file name, got {name!r:.40}")
    relative = PurePosixPath(name.replace("\\", "/"))
    if relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts:
        raise ValueError(f"{where}: expected a path below the file's folder, got {name!r:.80}")
    for suffix in SUFFIXES:
        photo = file.parent / (str(relative) + suffix)
        if photo.is_file():
            return photo
    return None


def _load(
    file: Path,
    meta: dict[str, Any],
    frames: list[tuple[Path, dict[str, Any]]],
    downscale: int,
    background: float,
) -> tuple[Cameras, Tensor]:
    poses = [_pose(file, i, frame.get("transform_matrix")) for i, (_, frame) in enumerate(frames)]
    images, size = None, (0, 0)
    for i, (photo, _) in enumerate(frames):
        image, whole = _read_photo(photo, downscale, background)
        if images is None:
            images, size = torch.empty(len(frames), *image.shape), whole
        if whole != size:
            raise ValueError(
                f"{photo}: expected {size[0]}x{size[1]} pixels as the others, "
                f"got {whole[0]}x{whole[1]}"
            )
        images[i] = image
    assert images is not None
    Ks = np.stack([_intrinsics(file, {**meta, **frame}, size) for _, frame in frames])
    cameras = Cameras(
        torch.from_numpy(np.linalg.inv(np.stack(poses) @ OPENGL_FROM_OPENCV).astype(np.float32)),
        torch.from_numpy(Ks.astype(np.float32)),
        *size,
    )
    return cameras.resized(images.shape[2], images.shape[1]), images


def _read_photo(photo: Path, downscale: int, background: float) -> tuple[Tensor, tuple[int, int]]:
    """A photograph [H, W, 3] float32, and its size before it was made smaller."""
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(f"{photo}: reading photographs needs Pillow: fieldpress[images]") from None
    try:
        with Image.open(photo) as opened:
            size = opened.size
            mode = "RGBA" if "A" in opened.getbands() or "transparency" in opened.info else "RGB"
            image = np.asarray(opened.convert(mode), np.float32) / 255
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{photo}: not a readable photograph ({error})") from None
    if mode == "RGBA":
        alpha = image[..., 3:]
        image = image[..., :3] * alpha + background * (1 - alpha)
    pixels = torch.from_numpy(np.ascontiguousarray(image))
    if downscale > 1:
        height, width = (max(1, length // downscale) for length in pixels.shape[:2])
        planes = pixels.permute(2, 0, 1)[None]
        pixels = torch.nn.functional.interpolate(planes, (height, width), mode="area")
        pixels = pixels[0].permute(1, 2, 0)
    return pixels, size


def _pose(file: Path, index: int, matrix: Any) -> Array:
    """A camera-to-world matrix [4, 4] with an orthonormal rotation."""
    where = f"{file}: frame {index}: transform_matrix"
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.zeros(0)
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        raise ValueError(f"{where}: expected 4x4 finite numbers, got {matrix!r:.60}")
    u, stretch, vt = np.linalg.svd(pose[:3, :3])
    rotation = u @ vt
    if np.abs(stretch - 1).max() > 0.05 or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}: expected a rotation, got singular values {stretch.round(3)}")
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, pose[:3, 3]
    return result


def _intrinsics(file: Path, meta: dict[str, Any], size: tuple[int, int]) -> Array:
    """K [3, 3] for photographs of `size` columns and rows, whatever size the file speaks of."""

    def number(name: str, default: float) -> float:
        return _number(file, name, meta.get(name, default))

    width, height = number("w", size[0]), number("h", size[1])
    angle = number("camera_angle_x", 0.0)
    focal = 0.5 * width / np.tan(0.5 * angle) if 0 < angle < np.pi else 0.0
    fl_x = number("fl_x", focal)
    fl_y = number("fl_y", fl_x)
    if not (width > 0 and height > 0 and fl_x > 0 and fl_y > 0):
        raise ValueError(
            f"{file}: expected w, h and fl_x (or camera_angle_x) > 0, got w {width}, h {height}, "
            f"fl_x {fl_x}, fl_y {fl_y}"
        )
    x, y = size[0] / width, size[1] / height
    cx, cy = number("cx", width / 2), number("cy", height / 2)
    return np.array([[fl_x * x, 0, cx * x], [0, fl_y * y, cy * y], [0, 0, 1.0]])


def _number(file: Path, name: str, value: Any) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{file}: {name}: expected a finite number, got {value!r:.40}")
    return number

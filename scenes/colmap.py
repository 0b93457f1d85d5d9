"""Sparse models of COLMAP, binary and text: cameras, poses and points of a reconstruction."""

from __future__ import annotations

import math
import struct
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Scene
from .photos import READY_SCALES, ReadOptions, View, find_photos, load_scene, named_mask, safe_path
from .undistort import NO_DISTORTION, Lens

Array = NDArray[np.float64]

# Name and count of parameters of COLMAP's models, by number.
MODELS = {
    0: ("SIMPLE_PINHOLE", 3),
    1: ("PINHOLE", 4),
    2: ("SIMPLE_RADIAL", 4),
    3: ("RADIAL", 5),
    4: ("OPENCV", 8),
}
UNREAD = {
    5: "OPENCV_FISHEYE",
    6: "FULL_OPENCV",
    7: "FOV",
    8: "SIMPLE_RADIAL_FISHEYE",
    9: "RADIAL_FISHEYE",
    10: "THIN_PRISM_FISHEYE",
    11: "RAD_TAN_THIN_PRISM_FISHEYE",
}
MODEL_FOLDERS = ("sparse/0", "sparse", ".")
POINT = struct.Struct("<Q3d3BdQ")  # Id, position, color, error, length of its track.
IMAGE = struct.Struct("<i4d3di")  # Id, rotation (wxyz), translation, camera.


@dataclass(frozen=True)
class Lensed:
    """A camera of a model: image size, K [3, 3] and distortion."""

    size: tuple[float, float]
    K: Array
    lens: Lens


@dataclass(frozen=True)
class Posed:
    """An image of a model: its name, its camera's id and world to camera [4, 4]."""

    name: str
    camera: int
    viewmat: Array


def model_folder(path: Path) -> Path | None:
    """Where below a dataset's folder its sparse model lies, or None."""
    folders = (path / name for name in MODEL_FOLDERS)
    return next((folder for folder in folders if _suffix(folder)), None)


def _suffix(folder: Path) -> str | None:
    found = (s for s in (".bin", ".txt") if (folder / f"cameras{s}").is_file())
    return next(found, None)


def read_colmap(path: str | Path, options: ReadOptions | None = None) -> Scene:
    """Read a COLMAP reconstruction and its photographs.

    The model lies in `sparse/0`, `sparse` or the folder itself, as .bin or .txt; photographs in
    `images` beside it, masks as `masks/NAME.png`. Lenses up to OPENCV are undistorted.

    Raises:
        ValueError: one line naming the file and what is wrong with it.
        FileNotFoundError: if there is no model.
    """
    options = options or ReadOptions()
    path = Path(path)
    folder = model_folder(path)
    if folder is None:
        raise FileNotFoundError(f"{path}: no cameras.bin or cameras.txt in it, sparse or sparse/0")
    root = _photo_root(folder)
    views = colmap_views(folder)
    inside = "images" if _has_images(root) else "."
    names = [PurePosixPath(inside) / view.name for view in views]
    file = folder / f"images{_suffix(folder)}"
    found, scale = find_photos(root, names, options.downscale, str(file))
    views = [replace(views[i], photo=photo) for i, photo in found.items()]
    if options.masks:
        views = [replace(view, mask=named_mask(root, view.name)) for view in views]
    points, colors = read_points(folder) or (None, None)
    options = replace(options, downscale=scale)
    return load_scene(root, file, views, options, points=points, colors=colors)


def colmap_views(folder: Path) -> list[View]:
    """The views of the model in a folder, in its order, without their photographs."""
    suffix = _suffix(folder)
    lenses = read_lenses(folder)
    views = []
    for pose in read_images(folder):
        if pose.camera not in lenses:
            raise ValueError(
                f"{folder / f'images{suffix}'}: image {pose.name!r:.80}: no camera {pose.camera}"
            )
        lens = lenses[pose.camera]
        views.append(View(pose.name, folder, pose.viewmat, lens.K, lens.size, lens.lens))
    return views


def _photo_root(folder: Path) -> Path:
    """The dataset's folder, from that of its model."""
    real = folder.resolve()
    for parent in (folder, *real.parents[:2]):
        if _has_images(parent):
            return parent
    if "sparse" in (real.name, real.parent.name):
        return real.parent if real.name == "sparse" else real.parents[1]
    return folder


def _has_images(folder: Path) -> bool:
    ready = (f"images_{scale}" for scale in READY_SCALES)
    return any((folder / name).is_dir() for name in ("images", *ready))


# Cameras


def read_lenses(folder: Path) -> dict[int, Lensed]:
    """The cameras of a model, by id. Raises ValueError for models that cannot be undistorted."""
    suffix = _suffix(folder)
    file = folder / f"cameras{suffix}"
    found = _lenses_text(file) if suffix == ".txt" else _lenses_binary(file)
    return dict(found)


def _lenses_binary(file: Path) -> Iterator[tuple[int, Lensed]]:
    data = _Bytes(file)
    for _ in range(data.count("cameras", 24 + 3 * 8)):
        index, model, width, height = data.take("<iiQQ")
        if model not in MODELS:
            raise ValueError(_unread(str(file), UNREAD.get(model, f"number {model}")))
        name, count = MODELS[model]
        parameters = list(data.take(f"<{count}d"))
        yield index, _lensed(f"{file}: camera {index}", name, (width, height), parameters)


def _lenses_text(file: Path) -> Iterator[tuple[int, Lensed]]:
    counts = dict(MODELS.values())
    for number, line in _lines(file):
        words = line.split()
        where = f"{file}: line {number}"
        if not words:
            continue
        name = words[1] if len(words) > 1 else ""
        if name not in counts:
            raise ValueError(_unread(where, name[:40]))
        if len(words) != 4 + counts[name]:
            raise ValueError(f"{where}: expected {4 + counts[name]} words, got {len(words)}")
        index, width, height = _numbers(where, [words[0], *words[2:4]], int)
        yield index, _lensed(where, name, (width, height), _numbers(where, words[4:], float))


def _unread(where: str, name: str) -> str:
    names = ", ".join(name for name, _ in MODELS.values())
    return f"{where}: camera model: expected one of {names}, got {name} (undistort it in COLMAP)"


def _lensed(where: str, model: str, size: tuple[int, int], parameters: list[float]) -> Lensed:
    focals = 1 if model in ("SIMPLE_PINHOLE", "SIMPLE_RADIAL", "RADIAL") else 2
    fx, fy = parameters[0], parameters[focals - 1]
    cx, cy, *bends = parameters[focals:]
    if not (np.isfinite(parameters).all() and fx > 0 and fy > 0 and min(size) > 0):
        raise ValueError(
            f"{where}: expected a size and focal lengths > 0, got {size}, {parameters}"
        )
    k1, k2, p1, p2 = (*bends, 0.0, 0.0, 0.0, 0.0)[:4]
    lens = (k1, k2, 0.0, p1, p2) if bends else NO_DISTORTION
    return Lensed(size, np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1.0]]), lens)


# Images


def read_images(folder: Path) -> list[Posed]:
    """The posed images of a model in the file's order, at least one."""
    suffix = _suffix(folder)
    file = folder / f"images{suffix}"
    poses = list(_images_text(file) if suffix == ".txt" else _images_binary(file))
    if not poses:
        raise ValueError(f"{file}: expected at least one image")
    return poses


def _images_binary(file: Path) -> Iterator[Posed]:
    data = _Bytes(file)
    for number in range(data.count("images", IMAGE.size + 1 + 8)):
        _, *pose, camera = data.take(IMAGE)
        name = data.text()
        data.skip(data.take("<Q")[0], 24)
        yield _posed(f"{file}: image {number}", pose, camera, name)


def _images_text(file: Path) -> Iterator[Posed]:
    lines = _lines(file)
    for number, line in lines:
        if not line.strip():
            continue
        where = f"{file}: line {number}"
        words = line.split(maxsplit=9)
        if len(words) != 10:
            raise ValueError(f"{where}: expected 10 words, got {len(words)}")
        camera = _numbers(where, words[8:9], int)[0]
        yield _posed(where, _numbers(where, words[1:8], float), camera, words[9].rstrip())
        next(lines, None)  # Its observations; this line may be empty.


def _posed(where: str, pose: list[float], camera: int, name: str) -> Posed:
    w, x, y, z = pose[:4]
    length = math.hypot(*pose[:4])
    if not (np.isfinite(pose).all() and abs(length - 1) < 0.05):
        raise ValueError(f"{where}: expected a unit quaternion and finite numbers, got {pose}")
    w, x, y, z = (value / length for value in (w, x, y, z))
    viewmat = np.eye(4)
    viewmat[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    viewmat[:3, 3] = pose[4:]
    return Posed(str(safe_path(where, name)), camera, viewmat)


# Points


def read_points(folder: Path) -> tuple[Tensor, Tensor] | None:
    """Positions [P, 3] and colors [P, 3] in [0, 1], float32; None if the model has no points."""
    suffix = _suffix(folder)
    file = folder / f"points3D{suffix}"
    if not file.is_file():
        return None
    positions, colors = _points_text(file) if suffix == ".txt" else _points_binary(file)
    if len(positions) == 0:
        return None
    with np.errstate(over="ignore"):
        positions = positions.astype(np.float32)
    if not np.isfinite(positions).all():
        raise ValueError(f"{file}: expected finite positions, got NaN or infinity")
    return torch.from_numpy(positions), torch.from_numpy(colors.astype(np.float32) / 255)


def _points_binary(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    data = _Bytes(file)
    starts = np.empty(data.count("points", POINT.size), np.int64)
    for i in range(len(starts)):
        starts[i] = data.at
        data.skip(data.take(POINT)[-1], 8)
    content = np.frombuffer(data.content, np.uint8)
    positions = content[starts[:, None] + np.arange(8, 32)].view("<f8")
    return positions, content[starts[:, None] + np.arange(32, 35)]


def _points_text(file: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    positions, colors = [], []
    for number, line in _lines(file):
        words = line.split(maxsplit=7)
        where = f"{file}: line {number}"
        if not words:
            continue
        if len(words) < 8:
            raise ValueError(f"{where}: expected at least 8 words, got {len(words)}")
        positions.append(_numbers(where, words[1:4], float))
        colors.append(_numbers(where, words[4:7], int))
        if not all(0 <= value <= 255 for value in colors[-1]):
            raise ValueError(f"{where}: expected a color of 0..255, got {colors[-1]}")
    return np.array(positions).reshape(-1, 3), np.array(colors).reshape(-1, 3)


# Files


class _Bytes:
    """A binary file, read in order; every read is checked against the size of the file."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.content = file.read_bytes()
        self.at = 0

    def skip(self, count: int, size: int) -> None:
        left = len(self.content) - self.at
        if count * size > left:
            raise ValueError(
                f"{self.file}: at byte {self.at}: expected {count * size} more bytes, got {left}"
            )
        self.at += count * size

    def take(self, layout: str | struct.Struct) -> tuple[Any, ...]:
        layout = struct.Struct(layout) if isinstance(layout, str) else layout
        start = self.at
        self.skip(1, layout.size)
        return layout.unpack_from(self.content, start)

    def count(self, what: str, smallest: int) -> int:
        """A count of records of at least `smallest` bytes that the file is long enough for."""
        count = self.take("<Q")[0]
        left = len(self.content) - self.at
        if count * smallest > left:
            raise ValueError(
                f"{self.file}: claims {count} {what}: expected at least {count * smallest} more "
                f"bytes, got {left}"
            )
        return count

    def text(self) -> str:
        end = self.content.find(b"\0", self.at)
        if end < 0:
            raise ValueError(f"{self.file}: at byte {self.at}: expected a name that ends")
        raw, self.at = self.content[self.at : end], end + 1
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise ValueError(f"{self.file}: expected a name in UTF-8, got {raw!r:.80}") from None


def _lines(file: Path) -> Iterator[tuple[int, str]]:
    """Lines and their numbers, without comments."""
    try:
        text = file.read_bytes().decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"{file}: expected text in UTF-8 ({error})") from None
    lines = enumerate(text.split("\n"), start=1)
    return ((number, line) for number, line in lines if not line.startswith("#"))


def _numbers(where: str, words: list[str], kind: type) -> list[Any]:
    try:
        return [kind(word) for word in words]
    except (ValueError, OverflowError):
        raise ValueError(f"{where}: expected numbers, got {' '.join(words)!r:.80}") from None

"""Posed photographs in the transforms.json of NeRF, instant-ngp and nerfstudio."""

from __future__ import annotations

import contextlib
import json
import math
import warnings
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Cameras, Scene
from .colmap import model_folder, read_images, read_points
from .photos import ReadOptions, View, find_photos, load_scene, photo_size, safe_path
from .points_ply import read_points_ply
from .undistort import Lens

Array = NDArray[np.float64]

MODELS = ("PINHOLE", "SIMPLE_PINHOLE", "OPENCV", "SIMPLE_RADIAL", "RADIAL")
HIGHER = ("k4", "k5", "k6")  # Tools disagree on what these mean.
MAX_JSON_BYTES = 256 * 10**6
OPENGL_FROM_OPENCV = np.diag([1.0, -1.0, -1.0, 1.0])
SAME_POSE = 1e-3  # Largest difference between two descriptions of one camera.


def read_transforms(path: str | Path, options: ReadOptions | None = None) -> Scene:
    """Read the photographs and poses that a transforms.json names.

    A folder with transforms_train.json (Blender) and no transforms.json keeps its own split.
    Lens distortion (k1, k2, k3, p1, p2; of the file or of a frame) is taken out. Points come from
    `ply_file_path`, or from a COLMAP model beside the file whose poses are the file's.

    Args:
        path: the file, or its folder.
        options: scale, split, background and masks; masks are those of `mask_path`.

    Raises:
        ValueError: one line naming the file and what is wrong with it; fisheye lenses, paths that
            leave the folder, and photographs of several sizes are refused.
        FileNotFoundError: if there is no such file.
    """
    options = options or ReadOptions()
    path = Path(path)
    if not path.is_dir() or (path / "transforms.json").exists():
        return _read_file(path / "transforms.json" if path.is_dir() else path, options)
    train_file, test_file = path / "transforms_train.json", path / "transforms_test.json"
    if not train_file.exists():
        return _read_file(path / "transforms.json", options)
    whole = replace(options, test_every=0)
    train = _read_file(train_file, whole)
    test = _read_file(test_file, whole) if test_file.exists() else train
    return replace(
        train,
        test=test.train,
        test_images=test.train_images,
        test_masks=test.train_masks,
        test_names=test.train_names,
    )


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


def _read_file(file: Path, options: ReadOptions) -> Scene:
    meta, frames = parse(file)
    names = [
        safe_path(f"{file}: frame {i}: file_path", frame.get("file_path"))
        for i, frame in enumerate(frames)
    ]
    found, scale = find_photos(file.parent, names, options.downscale, str(file))
    views = []
    for i, photo in found.items():
        size = photo_size(photo) if {"w", "h"} - frames[i].keys() else None
        view = replace(view_of(file, i, frames[i], size), name=_short(names[i]), photo=photo)
        mask = _mask(file, i, frames[i]) if options.masks else None
        views.append(replace(view, mask=mask))
    points = _points(file, meta, views)
    options = replace(options, downscale=scale)
    return load_scene(file.parent, file, views, options, points=points[0], colors=points[1])


def _short(name: PurePosixPath) -> str:
    """The name below `images`, as COLMAP has it."""
    return str(name.relative_to("images") if name.parts[0] == "images" else name)


def parse(file: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The file's content, and its N >= 1 frames with what the file says of all of them."""
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
    shared = {key: value for key, value in meta.items() if key != "frames"}
    return shared, [{**shared, **frame} for frame in frames]


def view_of(
    file: Path, index: int, frame: dict[str, Any], size: tuple[int, int] | None = None
) -> View:
    """The view of a frame, without its photograph; `size` stands in for a missing w or h."""
    width, height = size or (None, None)
    w = _number(file, "w", frame.get("w", width))
    h = _number(file, "h", frame.get("h", height))
    pose = _pose(file, index, frame.get("transform_matrix"))
    viewmat = np.linalg.inv(pose @ OPENGL_FROM_OPENCV).astype(np.float64)
    return View("", file, viewmat, _intrinsics(file, frame, w, h), (w, h), _lens(file, frame))


def _lens(file: Path, frame: dict[str, Any]) -> Lens:
    model = frame.get("camera_model", "OPENCV")
    if model not in MODELS or frame.get("is_fisheye"):
        model = "a fisheye" if model in MODELS else f"{model!r:.40}"
        raise ValueError(f"{file}: camera_model: expected one of {', '.join(MODELS)}, got {model}")
    for name in HIGHER:
        if _number(file, name, frame.get(name, 0.0)) != 0:
            raise ValueError(f"{file}: {name}: expected 0, got {frame[name]}")
    k1, k2, k3, p1, p2 = (
        _number(file, name, frame.get(name, 0.0)) for name in ("k1", "k2", "k3", "p1", "p2")
    )
    return k1, k2, k3, p1, p2


def _mask(file: Path, index: int, frame: dict[str, Any]) -> Path | None:
    if frame.get("mask_path") is None:
        return None
    where = f"{file}: frame {index}: mask_path"
    mask = file.parent / safe_path(where, frame["mask_path"])
    if not mask.is_file():
        raise ValueError(f"{where}: {mask} is not there")
    return mask


def _pose(file: Path, what: int | str, matrix: Any) -> Array:
    """A rigid matrix [4, 4]: that of a frame, or that of a name in the file."""
    where = (
        f"{file}: {what}" if isinstance(what, str) else f"{file}: frame {what}: transform_matrix"
    )
    try:
        pose = np.array(matrix, np.float64)
    except (TypeError, ValueError, OverflowError):
        pose = np.zeros(0)
    if pose.shape not in ((3, 4), (4, 4)) or not np.isfinite(pose).all():
        raise ValueError(f"{where}: expected 4x4 finite numbers, got {matrix!r:.60}")
    u, stretch, vt = np.linalg.svd(pose[:3, :3].clip(-2, 2))  # What is larger is no rotation.
    rotation = u @ vt
    if np.abs(stretch - 1).max() > 0.05 or np.linalg.det(rotation) < 0:
        raise ValueError(f"{where}: expected a rotation, got singular values {stretch.round(3)}")
    result = np.eye(4)
    result[:3, :3], result[:3, 3] = rotation, pose[:3, 3]
    return result


def _intrinsics(file: Path, frame: dict[str, Any], width: float, height: float) -> Array:
    """K [3, 3] for photographs of `width` x `height` pixels."""

    def focal(axis: str, side: float, default: float) -> float:
        angle = _number(file, f"camera_angle_{axis}", frame.get(f"camera_angle_{axis}", 0.0))
        if 0 < angle < np.pi:
            default = 0.5 * side / np.tan(0.5 * angle)
        return _number(file, f"fl_{axis}", frame.get(f"fl_{axis}", default))

    fl_x = focal("x", width, 0.0)
    fl_y = focal("y", height, fl_x)
    if not (width > 0 and height > 0 and fl_x > 0 and fl_y > 0):
        raise ValueError(
            f"{file}: expected w, h and fl_x (or camera_angle_x) > 0, got w {width}, h {height}, "
            f"fl_x {fl_x}, fl_y {fl_y}"
        )
    cx = _number(file, "cx", frame.get("cx", width / 2))
    cy = _number(file, "cy", frame.get("cy", height / 2))
    return np.array([[fl_x, 0, cx], [0, fl_y, cy], [0, 0, 1.0]])


def _number(file: Path, name: str, value: Any) -> float:
    number = math.nan
    if isinstance(value, int | float) and not isinstance(value, bool):
        with contextlib.suppress(OverflowError):
            number = float(value)
    if not math.isfinite(number):
        raise ValueError(f"{file}: {name}: expected a finite number, got {value!r:.40}")
    return number


# Points


def _points(
    file: Path, meta: dict[str, Any], views: list[View]
) -> tuple[Tensor | None, Tensor | None]:
    if meta.get("ply_file_path") is not None:
        where = f"{file}: ply_file_path"
        ply = file.parent / safe_path(where, meta["ply_file_path"])
        if not ply.is_file():
            raise ValueError(f"{where}: {ply} is not there")
        return read_points_ply(ply)
    folder = model_folder(file.parent)
    if folder is None:
        return None, None
    try:
        return _sparse_points(file, folder, _applied(file, meta), views)
    except ValueError as error:  # What lies beside the file does not make the file unreadable.
        warnings.warn(f"{error}: its points are not used", stacklevel=5)
        return None, None


def _applied(file: Path, meta: dict[str, Any]) -> Array:
    """[4, 4] of nerfstudio: from COLMAP's world to that of the file."""
    if meta.get("applied_transform") is None:
        return np.eye(4)
    return _pose(file, "applied_transform", meta["applied_transform"])


def _sparse_points(
    file: Path, folder: Path, applied: Array, views: list[View]
) -> tuple[Tensor | None, Tensor | None]:
    """COLMAP's points in the frame of the file, if its poses say that they are of one world."""
    poses = {pose.name: pose.viewmat for pose in read_images(folder)}
    pairs = [(view.viewmat @ applied, poses[view.name]) for view in views if view.name in poses]
    if not pairs or any(np.abs(ours - theirs).max() > SAME_POSE for ours, theirs in pairs):
        raise ValueError(f"{folder}: expected the poses of {file}")
    points, colors = read_points(folder) or (None, None)
    if points is not None and colors is not None:
        rotation, shift = points.new_tensor(applied[:3, :3]), points.new_tensor(applied[:3, 3])
        points = points @ rotation.T + shift
    return points, colors

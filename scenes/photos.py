"""Photographs of a scene: found, checked, straightened, made smaller, split. Shared by readers."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .cameras import Cameras, Scene
from .picture_file import open_picture
from .undistort import NO_DISTORTION, Lens, Rectangle, undistort, valid_rectangle

Array = NDArray[np.float64]

TEST_EVERY = 8  # Every eighth photograph by name is a test view, as in Mip-NeRF 360.
READY_SCALES = (2, 4, 8)  # Mip-NeRF 360 and LLFF come with images_2, images_4, images_8.
MAX_NAME_BYTES = 240  # Of one name; file systems end at 255 and a suffix may be appended.
MAX_DEPTH = 16  # Folders in a name; with MAX_NAME_BYTES, below what a system call takes.
PHOTO_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")


@dataclass(frozen=True)
class ReadOptions:
    """How photographs are read.

    Attributes:
        downscale: photographs are made this many times smaller, each way; may be fractional.
        test_every: of the photographs sorted by name, index % test_every == 0 are test views; 0
            makes all of them training views.
        background: grey in [0, 1] that transparent photographs are laid over.
        masks: read masks where there are any; "alpha" takes the photographs' alpha as masks.
        most_bytes: of memory that all photographs may take together, or None.
    """

    downscale: float = 1
    test_every: int = TEST_EVERY
    background: float = 0.0
    masks: bool | Literal["alpha"] = True
    most_bytes: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.downscale < math.inf:
            raise ValueError(f"downscale: expected at least 1, got {self.downscale}")
        if self.test_every < 0:
            raise ValueError(f"test_every: expected at least 0, got {self.test_every}")
        if not 0 <= self.background <= 1:
            raise ValueError(f"background: expected 0..1, got {self.background}")
        if self.masks not in (True, False, "alpha"):
            raise ValueError(f"masks: expected True, False or 'alpha', got {self.masks!r}")


@dataclass(frozen=True)
class View:
    """One posed photograph as a dataset describes it, before it is read.

    Attributes:
        name: path below the folder of photographs; views are sorted by it.
        photo: the file.
        viewmat: [4, 4] float64, world to camera, OpenCV axes.
        K: [3, 3] float64, intrinsics in pixels of a photograph of `size`.
        size: columns and rows that K speaks of; the file's own may differ.
        lens: k1, k2, k3, p1, p2.
        mask: file of its mask, or None.
    """

    name: str
    photo: Path
    viewmat: Array
    K: Array
    size: tuple[float, float]
    lens: Lens = NO_DISTORTION
    mask: Path | None = None


@dataclass(frozen=True)
class _Plan:
    """What all photographs of a scene share: their size, what is kept of it, the final size."""

    size: tuple[int, int]
    kept: Rectangle
    width: int
    height: int


def load_scene(
    root: Path,
    file: Path,
    views: Sequence[View],
    options: ReadOptions,
    *,
    points: Tensor | None = None,
    colors: Tensor | None = None,
) -> Scene:
    """The scene of N >= 1 views, split into training and test views by sorted name.

    Photographs are read, undistorted and made smaller one at a time.

    Args:
        root: the dataset's folder, which names the scene.
        file: what described the views, for messages.
        views: their photographs are there.
        options: the scale left to shrink by, the split, background and masks.
        points: [P, 3] or None.
        colors: [P, 3] or None.

    Raises:
        ValueError: one line naming the photograph that is unreadable or of another size, the mask
            that does not fit, or the lens that cannot be undone.
    """
    views = sorted(views, key=lambda view: view.name)
    every = options.test_every
    test_views = [view for i, view in enumerate(views) if every and i % every == 0]
    train_views = [view for i, view in enumerate(views) if not every or i % every]
    plan = _plan(file, views, options.downscale)
    _check_room(file, len(views), plan, options.most_bytes)
    train, test = _cameras(file, train_views, plan), _cameras(file, test_views, plan)
    train_images, train_masks = _load(train_views, plan, options)
    test_images, test_masks = _load(test_views, plan, options)
    return Scene(
        root.resolve().name,
        train,
        test,
        train_images,
        test_images,
        points,
        colors,
        train_masks,
        test_masks,
        tuple(view.name for view in train_views),
        tuple(view.name for view in test_views),
    )


def _plan(file: Path, views: Sequence[View], downscale: float) -> _Plan:
    size = photo_size(views[0].photo)
    for view in views:
        other = photo_size(view.photo)
        if other != size:
            raise ValueError(
                f"{view.photo}: photographs of different size: expected {size[0]}x{size[1]} "
                f"pixels as the others, got {other[0]}x{other[1]}"
            )
    kept = (0, 0, *size)
    bent = {(view.lens, _K_of_photo(view, size).tobytes()): view for view in views}
    if any(view.lens != NO_DISTORTION for view in views):
        Ks = [_K_of_photo(view, size) for view in bent.values()]
        try:
            kept = valid_rectangle(Ks, [view.lens for view in bent.values()], *size)
        except ValueError as error:
            raise ValueError(f"{file}: {error}") from None
    # The hair keeps a whole number whole: 990 / 2.2 is 449.99999999999994 in floating point.
    width, height = (
        max(1, math.floor(side / downscale + 1e-6))
        for side in (kept[2] - kept[0], kept[3] - kept[1])
    )
    return _Plan(size, kept, width, height)


def _check_room(file: Path, count: int, plan: _Plan, most: int | None) -> None:
    """All of them as floats, masks too, and one as it is read."""
    pixels = count * plan.width * plan.height + 2 * plan.size[0] * plan.size[1]
    if most is not None and 16 * pixels > most:
        raise ValueError(
            f"{file}: its photographs need {16e-6 * pixels:,.0f} MB of memory, more than the limit "
            f"of {1e-6 * most:,.0f} MB (--max-memory); --downscale makes them smaller"
        )


def _K_of_photo(view: View, size: tuple[int, int]) -> Array:
    """Intrinsics in the pixels that the photograph really has."""
    return view.K * np.array([[size[0] / view.size[0]], [size[1] / view.size[1]], [1.0]])


def _cameras(file: Path, views: Sequence[View], plan: _Plan) -> Cameras:
    viewmats = np.array([view.viewmat for view in views]).reshape(-1, 4, 4)
    left, top, right, bottom = plan.kept
    Ks = np.array([_K_of_photo(view, plan.size) for view in views]).reshape(-1, 3, 3)
    Ks[:, 0, 2] -= left
    Ks[:, 1, 2] -= top
    Ks *= np.array([[plan.width / (right - left)], [plan.height / (bottom - top)], [1.0]])
    return as_cameras(file, viewmats, Ks, plan.width, plan.height)


def as_cameras(file: Path, viewmats: Array, Ks: Array, width: int, height: int) -> Cameras:
    """Cameras of [C, 4, 4] and [C, 3, 3]. Raises ValueError for what float32 cannot hold."""
    with np.errstate(over="ignore"):
        poses, intrinsics = viewmats.astype(np.float32), Ks.astype(np.float32)
    focal = intrinsics[:, [0, 1], [0, 1]]
    if not (np.isfinite(poses).all() and np.isfinite(intrinsics).all() and (focal > 0).all()):
        raise ValueError(f"{file}: poses and intrinsics: expected numbers that float32 holds")
    return Cameras(torch.from_numpy(poses), torch.from_numpy(intrinsics), width, height)


def _load(views: Sequence[View], plan: _Plan, options: ReadOptions) -> tuple[Tensor, Tensor | None]:
    """Photographs [C, H, W, 3] and masks [C, H, W]; masks are None where no view has any."""
    images = torch.empty(len(views), plan.height, plan.width, 3)
    from_alpha = options.masks == "alpha"
    masked = from_alpha or any(view.mask is not None for view in views)
    masks = torch.ones(len(views), plan.height, plan.width) if masked else None
    for i, view in enumerate(views):
        K = _K_of_photo(view, plan.size)
        image, mask = _read_photo(view.photo, options.background)
        images[i] = _fit(image, K, view.lens, plan)
        if not from_alpha:
            mask = None if view.mask is None else _read_mask(view.mask, plan.size)
        if masks is not None and mask is not None:
            masks[i] = _fit(mask, K, view.lens, plan)[..., 0]
    return images, masks


def _fit(pixels: Tensor, K: Array, lens: Lens, plan: _Plan) -> Tensor:
    if plan.kept != (0, 0, *plan.size) or lens != NO_DISTORTION:
        pixels = undistort(pixels, K, lens, plan.kept)
    return area_average(pixels, plan.height, plan.width)


def area_average(pixels: Tensor, height: int, width: int) -> Tensor:
    """An image [H, W, C] at another size, [height, width, C] float32.

    Every result is the mean over the area that it covers, pixels cut by its edge counting in
    part: exact for any ratio of sizes, where `interpolate(mode="area")` takes cut pixels whole.
    """
    return _average_along(_average_along(pixels, height, 0), width, 1)


def _average_along(pixels: Tensor, length: int, axis: int) -> Tensor:
    count = pixels.shape[axis]
    if count == length:
        return pixels.float()
    step = count / length
    start = torch.arange(length, dtype=torch.float64) * step
    first = start.floor()
    shape = [-1 if dim == axis else 1 for dim in range(3)]
    total = None
    for tap in range(math.ceil(step) + 1):
        edge = first + tap
        weight = (torch.minimum(start + step, edge + 1) - torch.maximum(start, edge)).clamp(min=0)
        if not weight.any():
            continue
        part = pixels.index_select(axis, edge.long().clamp(max=count - 1)).float()
        part = part * (weight / step).float().view(shape)
        total = part if total is None else total.add_(part)
    assert total is not None
    return total


# Files


def safe_path(where: str, name: Any) -> PurePosixPath:
    """A path below a folder, from text in a file. Raises ValueError, which begins with `where`."""
    if not isinstance(name, str) or "\0" in name or any("\ud800" <= c <= "\udfff" for c in name):
        raise ValueError(f"{where}: expected a file name, got {name!r:.40}")
    relative = PurePosixPath(name.replace("\\", "/"))
    longest = max((len(part.encode()) for part in relative.parts), default=0)
    if not 0 < longest <= MAX_NAME_BYTES or len(relative.parts) > MAX_DEPTH:
        raise ValueError(f"{where}: expected a file name, got {name!r:.40}")
    if relative.is_absolute() or PureWindowsPath(name).drive or ".." in relative.parts:
        raise ValueError(f"{where}: expected a path below the file's folder, got {name!r:.80}")
    return relative


def find_photos(
    root: Path, names: Sequence[PurePosixPath], downscale: float, where: str
) -> tuple[dict[int, Path], float]:
    """The photographs that are there, and how many times smaller they are still to be made.

    Names below `images/` are looked up in `images_2`, `images_4` or `images_8` instead where that
    folder has all of them at the wanted scale, or where there is no `images`.

    Args:
        root: the folder that the N names are relative to.
        names: N paths, with or without suffix.
        downscale: how many times smaller photographs are wanted.
        where: what messages begin with.

    Returns:
        Index -> file for those found, with one warning if some are missing, and the scale left.

    Raises:
        ValueError: one line if none is there.
    """
    found, scale = _indexed([_existing(root / name) for name in names]), downscale
    for ready in reversed(READY_SCALES):
        if downscale != ready and (found or ready > downscale):
            continue
        smaller = _indexed(_ready_photos(root, names, ready))
        if smaller and smaller.keys() >= found.keys() and _hold_scale(found, smaller, ready):
            found, scale = smaller, downscale / ready
            break
    if not found:
        raise ValueError(f"{where}: none of its {len(names)} photographs is there")
    if len(found) < len(names):
        missing = len(names) - len(found)
        warnings.warn(f"{where}: {missing} of {len(names)} photographs are missing", stacklevel=4)
    return found, scale


def _indexed(photos: Sequence[Path | None]) -> dict[int, Path]:
    return {i: photo for i, photo in enumerate(photos) if photo is not None}


def _existing(path: Path) -> Path | None:
    """The file of this name, with a suffix if it has none: Blender's files leave it out."""
    if path.is_file():
        return path
    named = (path.with_name(path.name + suffix) for suffix in PHOTO_SUFFIXES)
    return next((file for file in named if file.is_file()), None)


def _ready_photos(root: Path, names: Sequence[PurePosixPath], scale: int) -> list[Path | None]:
    """Each name's file in images_N: of that name, of that stem, or at its place in the listing."""
    folder = root / f"images_{scale}"
    if not folder.is_dir() or any(name.parts[0] != "images" for name in names):
        return []
    whole, small = list_photos(root / "images"), list_photos(folder)
    places = dict(zip(whole, small, strict=True)) if len(whole) == len(small) else {}
    stems = {file.with_suffix(""): file for file in small}
    result = []
    for name in names:
        file = folder.joinpath(*name.parts[1:])
        by_stem = stems.get(file.with_suffix("")) or stems.get(file)
        other = by_stem or places.get(root / name)
        result.append(file if file.is_file() else other)
    return result


def _hold_scale(found: dict[int, Path], smaller: dict[int, Path], scale: int) -> bool:
    if not found:
        return True
    index = next(iter(found))
    whole, small = photo_size(found[index]), photo_size(smaller[index])
    return all(abs(a / scale - b) <= 1 for a, b in zip(whole, small, strict=True))


def list_photos(folder: Path) -> list[Path]:
    """The photographs in a folder, sorted by name; none if there is no such folder."""
    if not folder.is_dir():
        return []
    files = (file for file in folder.iterdir() if not file.name.startswith("."))
    return sorted(file for file in files if file.suffix.lower() in PHOTO_SUFFIXES)


def named_mask(root: Path, name: str) -> Path | None:
    """The mask of a photograph where COLMAP looks for it, or None."""
    mask = root / "masks" / f"{name}.png"
    return mask if mask.is_file() else None


def photo_size(photo: Path) -> tuple[int, int]:
    """Columns and rows of a photograph, from its header."""
    return _opened(photo, lambda image: image.size)


def _read_photo(photo: Path, background: float) -> tuple[Tensor, Tensor | None]:
    """[H, W, 3] float32 over the background, and alpha [H, W, 1] if there is any; in [0, 1]."""

    def read(image: Any) -> NDArray[np.uint8]:
        transparent = "A" in image.getbands() or "transparency" in image.info
        return np.array(image.convert("RGBA" if transparent else "RGB"))

    pixels = torch.from_numpy(_opened(photo, read)).float() / 255
    if pixels.shape[2] == 3:
        return pixels, None
    alpha = pixels[..., 3:]
    return pixels[..., :3] * alpha + background * (1 - alpha), alpha


def _read_mask(mask: Path, size: tuple[int, int]) -> Tensor:
    """[H, W, 1] float32 in [0, 1] at the photograph's size, from a mask of that size or larger."""
    pixels = torch.from_numpy(_opened(mask, lambda image: np.array(image.convert("L"))))
    rows, columns = pixels.shape
    if columns < size[0] or rows < size[1] or abs(columns / size[0] - rows / size[1]) > 0.05:
        raise ValueError(
            f"{mask}: expected a mask of {size[0]}x{size[1]} pixels, got {columns}x{rows}"
        )
    return area_average(pixels[..., None], size[1], size[0]) / 255


def _opened(photo: Path, read: Any) -> Any:
    """What `read` takes from a picture. Raises ValueError in one line if it is none."""
    try:
        with open_picture(photo) as image:
            return read(image)
    except OSError as error:
        raise ValueError(f"{photo}: not readable: {error.strerror}") from None

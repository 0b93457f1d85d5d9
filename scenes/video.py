"""Video clips in and out: files by PyAV, Y4M, folders of pictures, raw .npy."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import y4m
from .picture_file import open_picture
from .yuv import frames_of, planes_of, usual_matrix

MAX_SIDE = 1 << 14
MAX_CLIP_BYTES = 1 << 33  # Of a clip in memory.
DEFAULT_FPS = Fraction(25)  # Of what has none: pictures and arrays.
PICTURES = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"}
FRAME_NAME = "frame_{:05d}.png"
CRF = "8"  # Of an mp4 that is written: hardly a difference to be seen.
PLANAR = {"yuv420p": False, "yuv444p": False, "yuvj420p": True, "yuvj444p": True}  # Full range?
RED_709 = 1  # FFmpeg's number of the matrix of BT.709; 2 is "unspecified".
UNSPECIFIED = 2


@dataclass(frozen=True)
class Clip:
    """Frames of one size.

    Attributes:
        frames: [T, H, W, 3] uint8, RGB, full range, T at least 1.
        fps: frames a second, positive.
        name: what messages and reports call it.
        matrix: of its YUV form: "bt601" or "bt709".
    """

    frames: NDArray[np.uint8]
    fps: Fraction
    name: str
    matrix: str = "bt601"

    def __post_init__(self) -> None:
        shape = self.frames.shape
        if self.frames.dtype != np.uint8 or len(shape) != 4 or shape[3] != 3 or 0 in shape:
            raise ValueError(
                f"{self.name}: expected frames [T, H, W, 3] uint8, got {list(shape)} "
                f"{self.frames.dtype}"
            )
        check_size(self.width, self.height, self.name)
        if self.fps <= 0:
            raise ValueError(f"{self.name}: expected fps above 0, got {self.fps}")

    @property
    def height(self) -> int:
        return self.frames.shape[1]

    @property
    def width(self) -> int:
        return self.frames.shape[2]

    def __len__(self) -> int:
        return len(self.frames)


def check_size(width: int, height: int, name: str) -> None:
    """Raises ValueError for a picture that no clip here has."""
    if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
        raise ValueError(f"{name}: expected sides of 1 to {MAX_SIDE}, got {width}x{height}")


def read_clip(path: str | Path, frames: slice | None = None) -> Clip:
    """Read a clip: a file that PyAV knows, .y4m, a folder of pictures sorted by name, or .npy.

    Args:
        path: what to read.
        frames: which frames, start and stop not negative, step positive; None: all of them.

    Raises:
        FileNotFoundError: no such file.
        ValueError: in one line that names the file: not readable, no such frames, too large.
    """
    path, wanted = Path(path), frames or slice(None)
    for value, least in ((wanted.start, 0), (wanted.stop, 0), (wanted.step, 1)):
        if value is not None and value < least:
            raise ValueError(f"frames: expected at least {least}, got {value}")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        if path.is_dir():
            return _read_folder(path, wanted)
        if path.suffix.lower() == ".npy":
            return _read_array(path, wanted)
        if path.suffix.lower() == ".y4m":
            return _read_y4m(path, wanted)
        return _read_container(path, wanted)
    except OSError as error:
        raise ValueError(f"{path}: not readable: {error.strerror or error}") from None


def _joined(pictures: Iterable[NDArray[np.uint8]], name: str, wanted: slice) -> NDArray[np.uint8]:
    """Pictures [H, W, 3] as one array; refuses none, another size, and too many bytes."""
    found: list[NDArray[np.uint8]] = []
    size = 0
    for picture in pictures:
        if found and picture.shape != found[0].shape:
            was, now = ("x".join(map(str, p.shape[1::-1])) for p in (found[0], picture))
            raise ValueError(f"{name}: frame {len(found)}: expected {was} as before, got {now}")
        size += picture.nbytes
        if size > MAX_CLIP_BYTES:
            raise ValueError(f"{name}: expected at most {MAX_CLIP_BYTES} bytes of frames: ask for "
                             "fewer")  # fmt: skip
        found.append(picture)
    if not found:
        raise ValueError(f"{name}: no frame in {wanted.start or 0}:{wanted.stop or ''}")
    return np.stack(found)


def _read_folder(path: Path, wanted: slice) -> Clip:
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in PICTURES)
    if not files:
        raise ValueError(f"{path}: expected pictures in it, got none")

    def pictures() -> Iterator[NDArray[np.uint8]]:
        for file in files[wanted]:
            with open_picture(file) as picture:
                width, height = picture.size
                check_size(width, height, str(file))
                pixels = np.array(picture.convert("RGB"))
            yield pixels

    frames = _joined(pictures(), str(path), wanted)
    return Clip(frames, DEFAULT_FPS, str(path), usual_matrix(frames.shape[1]))


def _read_array(path: Path, wanted: slice) -> Clip:
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not an array: {error}") from None
    if array.ndim != 4 or array.shape[3] != 3 or array.dtype != np.uint8:
        raise ValueError(
            f"{path}: expected [T, H, W, 3] uint8, got {list(array.shape)} {array.dtype}"
        )
    frames = _joined((np.array(frame) for frame in array[wanted]), str(path), wanted)
    return Clip(frames, DEFAULT_FPS, str(path), usual_matrix(frames.shape[1]))


def _read_y4m(path: Path, wanted: slice) -> Clip:
    data = np.memmap(path, np.uint8, mode="r") if path.stat().st_size else np.zeros(0, np.uint8)
    stream = y4m.parse(data, str(path))
    check_size(stream.width, stream.height, str(path))
    matrix = usual_matrix(stream.height)
    pictures = (stream.frame(i, matrix) for i in range(len(stream))[wanted])
    return Clip(_joined(pictures, str(path), wanted), stream.fps, str(path), matrix)


def _read_container(path: Path, wanted: slice) -> Clip:
    av = _av(str(path))
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: no video in it")
            stream = container.streams.video[0]
            context = stream.codec_context
            check_size(context.width, context.height, str(path))
            matrix = _matrix(context.colorspace, context.height)
            decoded = itertools.islice(
                container.decode(stream), wanted.start or 0, wanted.stop, wanted.step
            )
            frames = _joined((_picture(frame, matrix) for frame in decoded), str(path), wanted)
            fps = Fraction(stream.average_rate or stream.guessed_rate or DEFAULT_FPS)
    except av.FFmpegError as error:
        raise ValueError(f"{path}: not readable as video: {error.strerror or error}") from None
    return Clip(frames, fps, str(path), matrix)


def _matrix(colorspace: int, height: int) -> str:
    if colorspace == UNSPECIFIED:
        return usual_matrix(height)
    return "bt709" if colorspace == RED_709 else "bt601"


def _picture(frame: Any, matrix: str) -> NDArray[np.uint8]:
    """A decoded frame [H, W, 3] uint8, by its own matrix and range."""
    if frame.format.name not in PLANAR:
        return frame.to_ndarray(format="rgb24")
    planes = [
        torch.from_numpy(
            np.frombuffer(plane, np.uint8)
            .reshape(plane.height, plane.line_size)[:, : plane.width].copy()
        )[None]
        for plane in frame.planes
    ]  # fmt: skip
    full = PLANAR[frame.format.name] or frame.color_range == 2
    return frames_of(planes[0], planes[1], planes[2], matrix, full=full)[0]


def _av(name: str) -> Any:
    try:
        import av
    except ImportError:
        raise ValueError(f"{name}: video needs PyAV: pip install 'fieldpress[video]'") from None
    return av


# Writing


def write_clip(pictures: Iterable[NDArray[np.uint8]], path: Path, about: Clip, name: str) -> int:
    """Write frames [H, W, 3] uint8 one after the other: .mp4, .y4m, else a folder of PNG files.

    Args:
        pictures: all of one size.
        path: the file, or the folder to make.
        about: a clip of the same size, rate and matrix.
        name: what messages call the output.

    Returns:
        How many frames there were.

    Raises:
        ValueError: where the package that writes the format is not installed.
    """
    suffix = path.suffix.lower()
    if suffix == ".mp4":
        return _write_mp4(pictures, path, about, name)
    if suffix == ".y4m":
        return _write_y4m(pictures, path, about)
    return _write_folder(pictures, path, name)


def _write_mp4(pictures: Iterable[NDArray[np.uint8]], path: Path, about: Clip, name: str) -> int:
    av, count = _av(name), 0
    even = about.width % 2 == 0 and about.height % 2 == 0
    with av.open(str(path), "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=about.fps)
        stream.width, stream.height = about.width, about.height
        stream.pix_fmt = "yuv420p" if even else "yuv444p"
        stream.options = {"crf": CRF, "preset": "medium"}
        context = stream.codec_context
        context.color_range, context.colorspace = 1, RED_709 if about.matrix == "bt709" else 6
        for picture in pictures:
            planes = planes_of(picture[None], about.matrix, full=False, subsample=even)
            container.mux(stream.encode(av_frame(av, planes, stream.pix_fmt)))
            count += 1
        container.mux(stream.encode())
    return count


def av_frame(av: Any, planes: tuple[torch.Tensor, ...], pix_fmt: str) -> Any:
    """A PyAV frame of planes [1, H, W] uint8."""
    frame = av.VideoFrame(planes[0].shape[-1], planes[0].shape[-2], pix_fmt)
    for plane, values in zip(frame.planes, planes, strict=True):
        rows = np.zeros((plane.height, plane.line_size), np.uint8)
        rows[:, : plane.width] = values[0].numpy()
        plane.update(rows)
    return frame


def _write_y4m(pictures: Iterable[NDArray[np.uint8]], path: Path, about: Clip) -> int:
    count = 0
    with path.open("wb") as file:
        file.write(y4m.head(about.width, about.height, about.fps))
        for picture in pictures:
            file.write(y4m.frame_bytes(picture, usual_matrix(about.height)))
            count += 1
    return count


def _write_folder(pictures: Iterable[NDArray[np.uint8]], path: Path, name: str) -> int:
    try:
        from PIL import Image
    except ImportError:
        raise ValueError(f"{name}: PNG needs Pillow: pip install 'fieldpress[images]'") from None
    path.mkdir(exist_ok=True)
    count = 0
    for picture in pictures:
        Image.fromarray(picture).save(path / FRAME_NAME.format(count), "PNG")
        count += 1
    return count

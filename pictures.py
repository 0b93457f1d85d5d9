"""Rendered views as files: PNG frames in a folder, or one mp4."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from . import __version__
from .console import whole
from .scenes.cameras import Cameras
from .viewer.mp4 import write_mp4
from .viewer.png import encode_png

FRAMES_PER_SECOND = 30
FRAME_NAME = "frame_{:05d}.png"

Progress = Callable[[str, float], None]


def is_video(output: str | Path) -> bool:
    """Whether an output of this name is one video rather than a folder of frames."""
    return Path(output).suffix.lower() == ".mp4"


def render_file(model: Any, cameras: Cameras, output: Path, progress: Progress) -> dict[str, Any]:
    """Render every camera into `output`: an .mp4 file or else a folder of PNG frames.

    Frames of an earlier, longer run do not stay in the folder; other files do. Raises ValueError
    naming the output where the package that writes it is not installed.
    """
    start = time.perf_counter()
    frames = _frames(model, cameras, progress)
    with whole(output) as new:
        if is_video(output):
            write_mp4(frames, new, FRAMES_PER_SECOND, str(output))
        else:
            _write_frames(frames, new)
    for stale in output.glob("frame_*.png") if output.is_dir() else ():
        if stale.stem[6:].isdecimal() and int(stale.stem[6:]) >= len(cameras):
            stale.unlink()
    return {
        "views": len(cameras),
        "render_size": [cameras.width, cameras.height],
        "seconds": time.perf_counter() - start,
        "version": __version__,
    }


def _frames(model: Any, cameras: Cameras, progress: Progress) -> Iterator[Tensor]:
    """Each view [H, W, 3] uint8."""
    for i in range(len(cameras)):
        progress("rendering", i / len(cameras))
        image = model.render(cameras[i : i + 1])[0].clamp(0, 1)
        yield (255 * image).round().byte().cpu()


def _write_frames(frames: Iterator[Tensor], folder: Path) -> None:
    folder.mkdir()
    for i, frame in enumerate(frames):
        (folder / FRAME_NAME.format(i)).write_bytes(encode_png(frame))

"""Rendered views as files: PNG frames in a folder, or one mp4."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from . import __version__
from .console import whole
from .press import Evaluated
from .scenes.cameras import Cameras
from .scenes.evaluate import Report
from .viewer.mp4 import write_mp4
from .viewer.png import encode_png
from .viewer.report import ViewPictures, html_report

FRAMES_PER_SECOND = 30
WORST_VIEWS = 3  # That a report shows.
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


def worst_views(
    measured: Report,
    cameras: Cameras,
    model: Any,
    reference: Any | None,
    photos: Tensor | None,
) -> list[ViewPictures]:
    """The views that lost most: the model's picture beside the reference's and the photograph.

    Without a reference the photograph takes its place; without either there is nothing to see.
    """
    shown = []
    for index in measured.worst(WORST_VIEWS) if reference is not None or photos is not None else ():
        camera, view = cameras[index : index + 1], measured.per_view[index]
        score = view.psnr if view.psnr_self is None else view.psnr_self
        name = f"view {index}" if score is None else f"view {index}, {score:.1f} dB"
        photo = None if photos is None else photos[index]
        photo = photo / 255 if photo is not None and photo.dtype == torch.uint8 else photo
        picture = model.render(camera)[0]
        if reference is not None:
            shown.append(ViewPictures(name, reference.render(camera)[0], picture, photo))
        elif photo is not None:
            shown.append(ViewPictures(name, photo, picture, basis="photograph"))
    return shown


def report_page(found: Evaluated) -> str:
    """The page of an evaluation: figures, the worst views with swipe, bytes, a table of views."""
    from .demo import SECTION_NAMES

    views = worst_views(found.measured, found.cameras, found.model, found.reference, found.photos)
    title = Path(str(found.report["input"])).name
    return html_report(title, found.report, views, SECTION_NAMES)

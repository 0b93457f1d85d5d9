"""The job behind `view` of videos: what is shown, and for how long."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from . import video_jobs
from .fields.video import VideoField
from .scenes.metrics import PSNR_CAP
from .scenes.video import Clip, read_clip
from .viewer.clips import ClipServer, ShownClip


def gather(sources: Sequence[str]) -> list[ShownClip] | None:
    """The clips of files of which at least one is a .fpz video; None where none is one.

    A clip that is not compressed comes first, as what the others are measured against. Raises
    ValueError or OSError for one that is not readable, or of another size.
    """
    videos = [video_jobs.opened(source) for source in sources]
    if not any(videos):
        return None
    length = max(len(video) for video in videos if video is not None)
    pairs = sorted(zip(sources, videos, strict=True), key=lambda pair: pair[1] is not None)
    clips = [
        read_clip(source, slice(0, length)) if video is None else _spooled(video)
        for source, video in pairs
    ]
    first, original = clips[0], pairs[0][1] is None
    for (source, _), clip in zip(pairs, clips, strict=True):
        if clip.frames.shape != first.frames.shape:
            raise ValueError(
                f"{source}: expected {len(first)} frames of {first.width}x{first.height} as in "
                f"{pairs[0][0]}, got {len(clip)} of {clip.width}x{clip.height}"
            )
    return [
        ShownClip(
            Path(source).name, clip, _psnr(clip, first) if original and clip is not first else None
        )
        for (source, _), clip in zip(pairs, clips, strict=True)
    ]


def _spooled(video: VideoField) -> Clip:
    """A decoded clip whose frames lie in a file without a name: a long one takes no memory."""
    with tempfile.TemporaryFile() as file:
        for picture in video.pictures():
            file.write(np.ascontiguousarray(picture).data)
        file.flush()
        frames = np.memmap(file, np.uint8, "r", shape=(len(video), video.height, video.width, 3))
    return Clip(frames, video.fps, video.name, video.matrix)


def _psnr(found: Clip, truth: Clip) -> tuple[float, ...]:
    """Of each frame, in dB."""
    pairs = zip(found.frames, truth.frames, strict=True)
    errors = [np.square(a.astype(np.float32) - b).mean() / 255**2 for a, b in pairs]
    return tuple(-10 * float(np.log10(max(e, 10 ** (-PSNR_CAP / 10)))) for e in errors)


def view(shown: Sequence[ShownClip], *, host: str, port: int, ready: Callable[[str], None]) -> None:
    """Serve the page until an interruption; `ready` is told its address."""
    with ClipServer(shown, host=host, port=port) as server:
        ready(server.url)
        server.serve_forever()

"""The jobs of videos: fit, decode, measure and describe them."""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from . import __version__, remote
from .console import Progress, check_output, sink, whole
from .fields import video
from .fields.group_codec import GroupCodec
from .fields.video import GROUP, KEY_EVERY, Group, Layout, VideoField
from .fitting import checkpoint_path, load_checkpoint, save_checkpoint
from .models import read_bytes
from .quant import container
from .scenes.video import Clip, read_clip, write_clip
from .scenes.video_metrics import compare

PRESETS = ("ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower",
           "veryslow", "placebo")  # fmt: skip
FIT_SHARE = 0.95  # Of the time; the rest is decoding and measuring.
LAMBDA_RANGE = (1e-6, 1.0)
TRIALS, TRIAL_GROUPS = 7, 2  # Of the search for lambda: how many, and groups of each.
CLOSE = 0.02  # Of a wanted rate, or of a dB times ten: near enough to end the search.
FILES = (".mp4", ".y4m")
_ANY_RATE = Fraction(1)


@dataclass(frozen=True)
class VideoJob:
    """What `fit video` was asked for. Raises ValueError naming the option.

    Attributes:
        lmbda: what a bit a pixel costs, as squared error of RGB in [0, 1].
        target_bpp, target_psnr: instead of it, what the first groups should come to.
        group: frames of a group, or None for the method's usual number.
    """

    method: str = "nirvana"
    preset: str = "medium"
    lmbda: float = 1e-3
    target_bpp: float | None = None
    target_psnr: float | None = None
    group: int | None = None
    key_every: int = KEY_EVERY
    seed: int = 0
    layout: Layout = field(init=False)

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise ValueError(f"preset: expected one of {', '.join(PRESETS)}, got {self.preset!r}")
        if not LAMBDA_RANGE[0] <= self.lmbda <= LAMBDA_RANGE[1]:
            raise ValueError(f"lambda: expected 1e-6 to 1, got {self.lmbda:g}")
        for key, value in (("bpp", self.target_bpp), ("psnr", self.target_psnr)):
            if value is not None and not 0 < value <= 100:
                raise ValueError(f"target-{key}: expected above 0, up to 100, got {value:g}")
        group = self.group if self.group is not None else GROUP.get(self.method, 1)
        object.__setattr__(self, "layout", Layout(group, self.key_every))
        self.codec(self.lmbda)

    def codec(self, lmbda: float) -> GroupCodec:
        return video.codec_of(self.method, self.preset, lmbda, self.seed)


def parse_frames(text: str | None) -> slice | None:
    """The frames A:B, A:B:STEP, :B or A: of a command line. Raises ValueError."""
    if text is None:
        return None
    parts = text.split(":")
    if not 2 <= len(parts) <= 3 or not all(p == "" or p.isdecimal() for p in parts):
        raise ValueError(f"frames: expected A:B, got {text!r:.40}")
    numbers = [int(p) if p else None for p in parts]
    if numbers[2:] == [0]:
        raise ValueError(f"frames: expected a step of at least 1, got {text!r:.40}")
    return slice(*numbers)


def fit_video_file(
    source: str,
    output: str,
    job: VideoJob,
    *,
    frames: slice | None = None,
    resume: bool = False,
    progress: Progress,
) -> dict[str, Any]:
    """Code a clip to a .fpz file; the written bytes are decoded again and measured.

    Until the output stands, finished groups are kept beside it; `resume` goes on from there.
    Raises ValueError or OSError, one line, for what is wrong with the clip, the output or those.
    """
    if Path(output).suffix.lower() != ".fpz":
        raise ValueError(f"{output}: expected a name ending in .fpz")
    clip = read_clip(source, frames)
    share = progress.part(0, FIT_SHARE)
    start, spent = time.perf_counter(), time.process_time()
    groups, lmbda = _encoded(clip, output, job, resume, share)
    seconds, spent = time.perf_counter() - start, time.process_time() - spent
    made = VideoField(job.method, clip.width, clip.height, clip.fps, clip.matrix, tuple(groups))
    settings = {"preset": job.preset, "lambda": lmbda, "seed": job.seed, "version": __version__}
    with sink(output) as write:
        data = write(video.write(made, {"settings": settings}))
        report = _measured(data, output, clip)
    checkpoint_path(output).unlink(missing_ok=True)
    return {
        "input_bytes": _size(source),
        "output_bytes": len(data),
        **report,
        "groups": len(groups),
        "key_groups": sum(group.key for group in groups),
        "method": job.method,
        **settings,
        "encode_seconds": seconds,
        "encode_cpu_seconds": spent,
        "device": "cpu",
        "input": source,
        "output": output,
    }


def _encoded(
    clip: Clip, output: str, job: VideoJob, resume: bool, progress: Callable[[str, float], None]
) -> tuple[list[Group], float]:
    """The groups of a clip, those of a checkpoint first, and the lambda that they are coded at."""
    checkpoint, about = checkpoint_path(output), _about(clip, job)
    state = load_checkpoint(checkpoint, about) if resume else None
    payloads = [] if state is None else [bytes(p.numpy()) for p in state["payloads"]]
    lmbda = _lambda(clip, job, progress) if state is None else float(state["lambda"])
    spans = job.layout.spans(len(clip))
    done = [
        Group(span.stop - span.start, key, payload)
        for (span, key), payload in zip(spans, payloads, strict=False)
    ]

    def keep(groups: list[Group]) -> None:
        coded = [torch.from_numpy(np.frombuffer(g.payload, np.uint8).copy()) for g in groups]
        save_checkpoint(checkpoint, {"payloads": coded, "lambda": lmbda}, about)

    groups = video.encode_groups(
        clip.frames, job.codec(lmbda), job.layout, done=done, keep=keep, progress=progress
    )
    return groups, lmbda


def _about(clip: Clip, job: VideoJob) -> dict[str, Any]:
    """What a checkpoint must agree with."""
    return {
        "clip": hashlib.sha256(clip.frames.tobytes()).hexdigest(),
        "size": [len(clip), clip.height, clip.width],
        "method": job.method,
        "preset": job.preset,
        "lambda": job.lmbda,
        "target_bpp": job.target_bpp,
        "target_psnr": job.target_psnr,
        "group": job.layout.group,
        "key_every": job.layout.key_every,
        "seed": job.seed,
    }


def _lambda(clip: Clip, job: VideoJob, progress: Callable[[str, float], None]) -> float:
    """The lambda asked for, or that at which the first groups meet the target, by bisection."""
    if job.target_bpp is None and job.target_psnr is None:
        return job.lmbda
    layout = Layout(job.layout.group, max(job.key_every, TRIAL_GROUPS))
    sample = clip.frames[: TRIAL_GROUPS * layout.group]
    low, high = (math.log(value) for value in LAMBDA_RANGE)
    middle = math.log(job.lmbda)
    for trial in range(TRIALS):
        progress("searching lambda", 0.0)
        lmbda = math.exp(middle)
        miss = _miss(sample, lmbda, job, layout)
        if abs(miss) < CLOSE or trial == TRIALS - 1:
            return lmbda
        low, high = (middle, high) if miss > 0 else (low, middle)
        middle = (low + high) / 2
    raise AssertionError


def _miss(sample: NDArray[np.uint8], lmbda: float, job: VideoJob, layout: Layout) -> float:
    """Above 0 where frames coded at a lambda take too many bits, or are better than they need."""
    groups = video.encode_groups(sample, job.codec(lmbda), layout)
    height, width = sample.shape[1:3]
    if job.target_bpp is not None:
        bits = 8 * sum(len(group.payload) for group in groups)
        return math.log(bits / (len(sample) * height * width) / job.target_bpp)
    assert job.target_psnr is not None
    made = VideoField(job.method, width, height, _ANY_RATE, "bt601", tuple(groups))
    error = np.square(made.clip().frames.astype(np.float32) / 255 - sample / np.float32(255))
    found = -10 * np.log10(np.maximum(error.mean((1, 2, 3)), 1e-10)).mean()
    return (float(found) - job.target_psnr) / 10


def _measured(data: bytes, name: str, clip: Clip) -> dict[str, Any]:
    """Decode a file's bytes and compare, a group at a time: rate, quality, speed."""
    pixels, seconds = len(clip) * clip.width * clip.height, 0.0

    def pictures() -> Iterator[NDArray[np.uint8]]:
        nonlocal seconds
        start = time.perf_counter()
        for picture in video.read(data, name=name).pictures():
            seconds += time.perf_counter() - start
            yield picture
            start = time.perf_counter()

    quality = compare(pictures(), clip.frames, clip.matrix)
    return {
        "ratio": 3 * pixels / len(data),
        "bits_per_pixel": 8 * len(data) / pixels,
        **quality,
        "frames": len(clip),
        "render_size": [clip.width, clip.height],
        "video_fps": float(clip.fps),
        "fps": len(clip) / seconds,
        "decode_seconds": seconds,
        "bytes_by_section": container.by_attribute(container.sizes(data)),
    }


def _size(source: str) -> int:
    """Bytes on disk of a file, or of the files in a folder."""
    path = Path(source)
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file())


# Files of videos


def opened(source: str) -> VideoField | None:
    """The video in a .fpz file; None for whatever else a name stands for, stdin included.

    Raises ValueError for one that is damaged.
    """
    if source == "-" or remote.is_url(source) or not Path(source).is_file():
        return None
    with Path(source).open("rb") as file:
        if file.read(len(container.MAGIC)) != container.MAGIC:
            return None
    data = read_bytes(source)
    if container.kind_of(data, name=source) != video.KIND:
        return None
    return video.read(data, name=source)


def export(found: VideoField, source: str, output: str, *, overwrite: bool) -> dict[str, Any]:
    """Write a video as .mp4, .y4m, or PNG frames into a folder, whole or not at all."""
    suffix = Path(output).suffix.lower()
    if output == "-" or remote.is_url(output) or (suffix and suffix not in FILES):
        raise ValueError(f"{output}: expected a name ending in .mp4 or .y4m, or a folder's")
    check_output(output, overwrite=overwrite, folder=not suffix)
    start = time.perf_counter()
    blank = np.zeros((1, found.height, found.width, 3), np.uint8)
    about = Clip(blank, found.fps, found.name, found.matrix)
    with whole(Path(output)) as new:
        frames = write_clip(found.pictures(), new, about, output)
    return {
        "input": source,
        "output": output,
        "input_bytes": Path(source).stat().st_size,
        "output_bytes": _size(output),
        "kind": found.kind,
        "frames": frames,
        "seconds": time.perf_counter() - start,
        "version": __version__,
    }


def evaluate_video(found: VideoField, source: str, reference: str | None) -> dict[str, Any]:
    """Quality of a file against a clip. Raises ValueError where there is none or it differs."""
    if reference is None:
        raise ValueError("eval: expected --reference with the clip of a video")
    clip = read_clip(reference, slice(0, len(found)))
    if clip.frames.shape != (len(found), found.height, found.width, 3):
        raise ValueError(
            f"{reference}: expected {len(found)} frames of {found.width}x{found.height}, got "
            f"{len(clip)} of {clip.width}x{clip.height}"
        )
    data = read_bytes(source)
    return {
        **_measured(data, source, clip),
        "input_bytes": _size(reference),
        "output_bytes": len(data),
        "device": "cpu",
        "version": __version__,
        "input": source,
        "reference": reference,
    }


def describe(found: VideoField, source: str) -> dict[str, Any]:
    """What `info` says of a video."""
    sizes = container.sizes(read_bytes(source), name=source)
    total = sum(sizes.values())
    return {
        "kind": found.kind,
        "method": found.method,
        "width": found.width,
        "height": found.height,
        "frames": len(found),
        "video_fps": float(found.fps),
        "bits_per_pixel": 24 * total / found.float_bytes,
        "groups": len(found.groups),
        "key_frames": [at for at, g in zip(found.starts, found.groups, strict=True) if g.key],
        "bytes_by_attribute": container.by_attribute(sizes),
        "sections": {name: {"bytes": size} for name, size in sizes.items()},
        "ratio": found.float_bytes / total,
        "provenance": dict(found.extra),
        "input_bytes": total,
        "version": __version__,
    }

"""Videos as groups of frames in a .fpz file (docs/format.md, chapter 6).

Each group is a section of its own with its own checksum; a key group decodes by itself, so that
any frame is reached from the key group at or before it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from importlib import import_module
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..quant import budget, container
from ..quant.container import Section
from ..scenes.video import MAX_SIDE, Clip
from ..scenes.yuv import WEIGHTS
from .group_codec import Frames, GroupCodec, Progress, State

KIND = "video"
CODECS = {  # Method -> its module and class: only what is asked for is imported.
    "nirvana": ("nirvana", "NirvanaCodec"),
    "nervpp": ("nervpp", "NervppCodec"),
    "latent": ("latent_codec", "LatentCodec"),
}
GROUP = {"nirvana": 3, "nervpp": 16, "latent": 8}  # Frames, where nobody says.
KEY_EVERY = 8  # Groups.
MAX_GROUPS, MAX_COUNT = 1 << 20, 1 << 10  # Groups of a file, frames of a group.
FREE_PIXELS, PIXELS_A_BYTE = 1 << 22, 1 << 16  # Of a group, at most, by the bytes that it has.
MAX_RATE = 1 << 31
WORK_BYTES = 128  # Of a pixel of the frame at work: planes of floats, and symbols of the next ones.


@dataclass(frozen=True)
class Group:
    """Some frames, coded.

    Attributes:
        count: frames. key: whether it decodes by itself. payload: of its method.
    """

    count: int
    key: bool
    payload: bytes


@dataclass(frozen=True)
class VideoField:
    """A coded video; frames are decoded as they are asked for.

    Attributes:
        method: one of CODECS. width, height: pixels. fps: frames a second.
        matrix: of its YUV form, "bt601" or "bt709".
        groups: in order; the first is a key group.
        extra: settings and provenance.
        name: what errors call the file.
    """

    method: str
    width: int
    height: int
    fps: Fraction
    matrix: str
    groups: tuple[Group, ...]
    extra: dict[str, Any] = field(default_factory=dict)
    name: str = "<bytes>"

    kind = KIND

    def __len__(self) -> int:
        return sum(group.count for group in self.groups)

    @property
    def float_bytes(self) -> int:
        """Of the pictures, a byte a sample: what the file stands for."""
        return 3 * self.width * self.height * len(self)

    @property
    def starts(self) -> list[int]:
        """Of each group, its first frame."""
        return [0, *np.cumsum([group.count for group in self.groups])[:-1].tolist()]

    def clip(self, frames: slice | None = None) -> Clip:
        """The decoded clip, or some of its frames, all in memory.

        Raises ValueError naming a damaged group, or where that is more memory than there may be.
        """
        count = len(range(len(self))[frames or slice(None)])
        if not count:
            raise ValueError(
                f"{self.name}: frames: expected some of 0 to {len(self) - 1}, got none"
            )
        shape = (count, self.height, self.width, 3)
        budget.check(math.prod(shape), self.name)
        found = np.empty(shape, np.uint8)
        for to, picture in zip(found, self.pictures(frames), strict=True):
            to[:] = picture
        return Clip(found, self.fps, self.name, self.matrix)

    def tensors(self) -> dict[str, Tensor]:
        """All frames [T, H, W, 3] uint8: `pictures` takes less memory."""
        return {"frames": torch.from_numpy(self.clip().frames)}

    def pictures(self, frames: slice | None = None) -> Iterator[Frames]:
        """Frames [H, W, 3] uint8 one after the other, of those in a slice (step above 0).

        No more than two groups are in memory: the one at hand, and that of the last frame given.
        Only groups with such frames are decoded, and those before them from their key group on.
        """
        wanted = range(len(self))[frames or slice(None)]
        if wanted.step < 1:
            raise ValueError(f"frames: expected a step of at least 1, got {wanted.step}")
        if not len(wanted):
            return
        codec, state = codec_of(self.method, "medium", 1.0, 0), None
        numbered = list(zip(range(len(self.groups)), self.starts, self.groups, strict=True))
        first = max(i for i, at, group in numbered if group.key and at <= wanted[0])
        for index, at, group in numbered[first:]:
            if at > wanted[-1]:
                return
            decoded, state = self._decode(codec, index, group, None if group.key else state)
            for frame in range(at, at + group.count):
                if frame in wanted:
                    yield decoded[frame - at]
            del decoded  # Before the next one is made.

    def _decode(
        self, codec: GroupCodec, index: int, group: Group, state: State
    ) -> tuple[Frames, State]:
        where = f"{self.name}: section {section_name(index)!r}"
        budget.check((WORK_BYTES + 3 * group.count) * self.height * self.width, where)
        try:
            return codec.decode(group.payload, (group.count, self.height, self.width), state)
        except ValueError as error:
            raise ValueError(f"{where}: {error}") from None


def section_name(index: int) -> str:
    """Of a group."""
    return f"group/{index}"


def codec_of(method: str, preset: str, lmbda: float, seed: int) -> GroupCodec:
    """A method at a setting. Raises ValueError for one that there is not, or not here."""
    if method not in CODECS:
        raise ValueError(f"method: expected one of {', '.join(CODECS)}, got {method!r:.40}")
    module, name = CODECS[method]
    try:
        found = import_module(f".{module}", __package__)
    except ModuleNotFoundError as error:
        if error.name != f"{__package__}.{module}":
            raise
        raise ValueError(f"method: {method} is not part of this build") from None
    return getattr(found, name)(preset, lmbda, seed)


@dataclass(frozen=True)
class Layout:
    """How a clip is cut. Raises ValueError.

    Attributes:
        group: frames of a group. key_every: groups from one key group to the next.
    """

    group: int
    key_every: int = KEY_EVERY

    def __post_init__(self) -> None:
        if not 1 <= self.group <= MAX_COUNT:
            raise ValueError(f"group: expected 1 to {MAX_COUNT} frames, got {self.group}")
        if self.key_every < 1:
            raise ValueError(f"key-every: expected at least 1 group, got {self.key_every}")

    def spans(self, frames: int) -> list[tuple[slice, bool]]:
        """The frames of each group, and whether it is a key group."""
        starts = range(0, frames, self.group)
        return [
            (slice(at, min(at + self.group, frames)), i % self.key_every == 0)
            for i, at in enumerate(starts)
        ]


def encode_groups(
    frames: Frames,
    codec: GroupCodec,
    layout: Layout,
    *,
    done: Sequence[Group] = (),
    keep: Callable[[list[Group]], None] | None = None,
    progress: Progress | None = None,
) -> list[Group]:
    """The groups of frames [T, H, W, 3] uint8.

    Args:
        frames: all of them.
        codec: what codes a group.
        layout: where groups begin.
        done: groups of an encoding that was interrupted; it goes on to the same bytes.
        keep: told all groups whenever one more is done.
        progress: told a stage and the share done.
    """
    spans, found, state = layout.spans(len(frames)), list(done), None
    for index in range(_last_key(spans, len(found)), len(found)):
        span, key = spans[index]
        shape = frames[span].shape[:3]
        state = codec.decode(found[index].payload, shape, None if key else state)[1]
    for index in range(len(found), len(spans)):
        span, key = spans[index]
        share = _part(progress, index, len(spans))
        payload, state = codec.encode(frames[span], None if key else state, progress=share)
        found.append(Group(span.stop - span.start, key, payload))
        if keep is not None:
            keep(found)
    return found


def _last_key(spans: list[tuple[slice, bool]], before: int) -> int:
    """The key group from which on states are needed for group number `before`."""
    return max((i for i, (_, key) in enumerate(spans[:before]) if key), default=before)


def _part(progress: Progress | None, index: int, count: int) -> Progress | None:
    if progress is None:
        return None
    return lambda stage, done: progress(
        f"{stage} group {index + 1}/{count}", (index + done) / count
    )


def write(video: VideoField, header: Mapping[str, Any] | None = None) -> bytes:
    """The .fpz file of a coded video; `header` is provenance to store beside the layout.

    Raises ValueError for groups that a reader would refuse.
    """
    layout = {
        "method": video.method,
        "size": [video.width, video.height],
        "frames": len(video),
        "fps": [video.fps.numerator, video.fps.denominator],
        "matrix": video.matrix,
        "counts": [group.count for group in video.groups],
        "keys": [int(group.key) for group in video.groups],
    }
    for index, group in enumerate(video.groups):
        _check_pixels(group, video.width, video.height, section_name(index))
    sections = [
        Section(section_name(i), "raw", group.payload, len(group.payload))
        for i, group in enumerate(video.groups)
    ]
    return container.write({"kind": KIND, "layout": layout, **(header or {})}, sections)


def read(data: bytes, *, name: str = "<bytes>") -> VideoField:
    """The video of a .fpz file, its groups not yet decoded.

    Raises ValueError, in one line that names the file and the group or the key at fault.
    """
    found = container.read(data, name=name)
    where = f"{name}: header"
    if found.header.get("kind") != KIND:
        raise ValueError(f"{where}: expected kind video, got {found.header.get('kind')!r:.40}")
    layout: Any = found.header.get("layout")
    if not isinstance(layout, dict):
        raise ValueError(f"{where}: layout: expected an object, got {layout!r:.40}")
    try:
        method, (width, height), fps, matrix, counts, keys = _read_layout(layout)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    expected = [section_name(i) for i in range(len(counts))]
    if [(s.name, s.codec) for s in found.sections] != [(name, "raw") for name in expected]:
        got = [section.name for section in found.sections][:3]
        raise ValueError(f"{name}: expected sections {expected[:3]} and so on, got {got}")
    groups = tuple(
        Group(count, bool(key), section.payload)
        for count, key, section in zip(counts, keys, found.sections, strict=True)
    )
    for i, group in enumerate(groups):
        _check_pixels(group, width, height, f"{name}: section {section_name(i)!r}")
    extra = {key: v for key, v in found.header.items() if key not in ("kind", "layout")}
    return VideoField(method, width, height, fps, matrix, groups, extra, name)


def decode(data: bytes, frames: slice | None = None, *, name: str = "<bytes>") -> Clip:
    """The clip of a .fpz file, or those of its frames that a slice names. Raises ValueError."""
    return read(data, name=name).clip(frames)


def _check_pixels(group: Group, width: int, height: int, where: str) -> None:
    """Refuse pictures that are out of proportion to the bytes that they are to come from."""
    most = FREE_PIXELS + PIXELS_A_BYTE * len(group.payload)
    if group.count * width * height > most:
        raise ValueError(
            f"{where}: expected at most {most} pixels from {len(group.payload)} bytes, "
            f"got {group.count}x{width}x{height}"
        )


def _read_layout(
    layout: dict[str, Any],
) -> tuple[str, list[int], Fraction, str, list[int], list[int]]:
    """Method, size, rate, matrix, counts and key flags. Raises ValueError naming the key."""
    if layout.get("method") not in list(CODECS):  # A list is not hashable.
        raise ValueError(
            f"method: expected one of {', '.join(CODECS)}, got {layout.get('method')!r:.40}"
        )
    if layout.get("matrix") not in list(WEIGHTS):
        raise ValueError(
            f"matrix: expected one of {', '.join(WEIGHTS)}, got {layout.get('matrix')!r:.40}"
        )
    size = _numbers(layout, "size", 1, MAX_SIDE, 2)
    fps = _numbers(layout, "fps", 1, MAX_RATE, 2)
    counts = _numbers(layout, "counts", 1, MAX_COUNT)
    keys = _numbers(layout, "keys", 0, 1, len(counts))
    if not keys[0]:
        raise ValueError("keys: expected a key group first, got another")
    if layout.get("frames") != sum(counts):
        raise ValueError(f"frames: expected {sum(counts)}, got {layout.get('frames')!r:.40}")
    return layout["method"], size, Fraction(fps[0], fps[1]), layout["matrix"], counts, keys


def _numbers(
    layout: dict[str, Any], key: str, low: int, high: int, count: int | None = None
) -> list[int]:
    values = layout.get(key)
    if not (
        isinstance(values, list)
        and 1 <= len(values) <= MAX_GROUPS
        and (count is None or len(values) == count)
        and all(type(v) is int and low <= v <= high for v in values)
    ):
        many = "some" if count is None else str(count)
        raise ValueError(
            f"{key}: expected {many} whole numbers of {low} to {high}, got {values!r:.40}"
        )
    return values

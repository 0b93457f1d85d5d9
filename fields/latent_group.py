"""Groups of frames of the latent codec: what leans on what, bytes to symbols, symbols to pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import latent_motion, latent_parts
from .latent_engine import MIDDLE_GAIN, Painter
from .latent_frame import Given, Symbols, paint, piece, read_frame
from .latent_model import Design
from .latent_motion import Motion
from .latent_ops import Ints
from .latent_version import Version

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Known:
    """What is known of anchors, or of the pictures between them.

    Attributes:
        flat: [P] parameters of the last one, or the shipped ones.
        latents: [N] its latents, or zeros.
        first: whether there was none.
    """

    flat: Tensor
    latents: Ints
    first: bool = False


@dataclass(frozen=True)
class State:
    """What the next group needs of the one before.

    Attributes:
        version: of that group.
        anchors: [H, W, 3] of the last anchors by their numbers, that of the last frame is -1.
        known: of anchors that lean, and of pictures between them.
    """

    version: Version
    anchors: dict[int, Pixels]
    known: tuple[Known, Known]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width."""
        return self.anchors[-1].shape[0], self.anchors[-1].shape[1]


@dataclass(frozen=True)
class Place:
    """A frame in coded order: its number, the depth of the pyramid, and what it leans on."""

    number: int
    depth: int
    references: tuple[int, ...]

    @property
    def kind(self) -> int:
        """0: stands alone, 1: an anchor that leans on others, 2: between two."""
        return (1 if self.depth == 0 else 2) if self.references else 0

    @property
    def away(self) -> list[int]:
        """How many frames on each of those it leans on lies."""
        return [number - self.number for number in self.references]


def order(count: int, span: int, most: int, before: Sequence[int]) -> list[Place]:
    """Of a group's frames.

    Every `span`-th is an anchor, and leans on the last ones before it; between them each leans on
    the two around it, halfway where there are more.

    Args:
        count: of the frames.
        span: from an anchor to the next.
        most: anchors that one leans on.
        before: numbers of anchors of the groups before, the last is -1; none for a group that
            stands alone.
    """
    found = [] if before else [Place(0, 0, ())]
    anchors = list(before) or [0]
    while anchors[-1] < count - 1:
        low, high = anchors[-1], min(anchors[-1] + span, count - 1)
        found.append(Place(high, 0, tuple(anchors[-most:][::-1])))
        found += _between(low, high, 1)
        anchors.append(high)
    return found


def last_anchors(places: Sequence[Place], before: Sequence[int], most: int) -> list[int]:
    """Numbers of the last ones behind a group, in order of time."""
    return [*before, *(place.number for place in places if place.depth == 0)][-most:]


def _between(low: int, high: int, depth: int) -> list[Place]:
    if high - low < 2:
        return []
    middle = (low + high) // 2
    sides = _between(low, middle, depth + 1) + _between(middle, high, depth + 1)
    return [Place(middle, depth, (low, high)), *sides]


@dataclass(frozen=True)
class Coded:
    """What stands in a frame's bytes: symbols, and motion where it leans on others."""

    place: Place
    symbols: Symbols
    motion: Motion | Ints | None


class Reader:
    """Bytes of frames to what stands in them: that takes what stands in others, not their pixels.

    Attributes:
        known: of anchors that lean, and of pictures between them.
    """

    def __init__(self, version: Version, height: int, width: int, state: State | None) -> None:
        self._version, self._size = version, (height, width)
        if state is None:
            zeros = np.zeros(version.moving.grids(height, width).count, np.int32)
            self.known = [Known(version.prior(kind), zeros, first=True) for kind in (1, 2)]
        else:
            self.known = list(state.known)

    def read(self, data: bytes, place: Place) -> Coded:
        """Of one frame. Raises ValueError that names it."""
        try:
            return self._read(data, place)
        except ValueError as error:
            raise ValueError(f"frame {place.number}: {error}") from None

    def read_all(self, pieces: Sequence[bytes], places: Sequence[Place]) -> Iterator[Coded]:
        """Of frames in coded order."""
        for data, place in zip(pieces, places, strict=True):
            yield self.read(data, place)

    def _read(self, data: bytes, place: Place) -> Coded:
        kind = place.kind
        if not kind:
            given = Given(self._version.prior(0))
            found = read_frame(self._version.still, data, *self._size, given)
            return Coded(place, found, None)
        known = self.known[kind - 1]
        coded, at = piece(data, 0, "motion")
        given = Given(known.flat, known.latents)
        motion = self._motion(coded, place)
        found = read_frame(self._version.moving, data[at:], *self._size, given)
        self.known[kind - 1] = Known(found.flat, found.latents)
        return Coded(place, found, motion)

    def _motion(self, data: bytes, place: Place) -> Motion | Ints:
        count = len(place.references)
        if self._version.parts:
            return latent_parts.read(data, *self._size, place.away)
        return latent_motion.read_modes(data, *self._size, count)


class Easel:
    """Frames of a group, painted in coded order, in the same buffers.

    Attributes:
        frames: by number; those below 0 are anchors of the groups before.
    """

    def __init__(self, version: Version, height: int, width: int, state: State | None) -> None:
        self._version, self._size = version, (height, width)
        self._threads = torch.get_num_threads()
        self._painters: dict[Design, Painter] = {}
        self.frames: dict[int, Pixels] = {} if state is None else dict(state.anchors)

    def paint(self, coded: Coded) -> None:
        """Add a frame."""
        design, guides = self._version.still, None
        if coded.motion is not None:
            references = [self.frames[n] for n in coded.place.references]
            design = self._version.moving
            guides = _guide(references, coded.motion, self._threads)
        if design not in self._painters:
            self._painters[design] = Painter(design, *self._size, MIDDLE_GAIN)
        pixels = paint(self._painters[design], coded.symbols, guides).pixels
        self.frames[coded.place.number] = pixels


def _guide(references: list[Pixels], motion: Motion | Ints, threads: int) -> Tensor:
    if isinstance(motion, Motion):
        return latent_motion.guide(references, motion, threads)
    return latent_parts.guide(references, motion, threads)

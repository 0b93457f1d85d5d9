"""Groups of frames of the latent codec: what leans on what, bytes to symbols, symbols to pixels."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import latent_motion
from .latent_engine import MIDDLE_GAIN, Painter
from .latent_frame import Given, Symbols, paint, piece, read_frame
from .latent_model import Design
from .latent_motion import Motion
from .latent_ops import Ints
from .latent_version import Version

Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class Known:
    """What is known of pictures that lean on one, or of those that lean on two.

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
        pixels: [H, W, 3] the last frame.
        known: of pictures that lean on one, and of those that lean on two.
    """

    version: Version
    pixels: Pixels
    known: tuple[Known, Known]


@dataclass(frozen=True)
class Place:
    """A frame in coded order: its number, the depth of the pyramid, and what it leans on."""

    number: int
    depth: int
    references: tuple[int, ...]


def order(count: int, span: int, key: bool) -> list[Place]:
    """Of a group's frames; number -1 is the last one of the group before.

    Every `span`-th leans on the last such one; between them each leans on the two around it,
    halfway where there are more.
    """
    found, low = ([Place(0, 0, ())], 0) if key else ([], -1)
    while low < count - 1:
        high = min(low + span, count - 1)
        found.append(Place(high, 0, (low,)))
        found += _between(low, high, 1)
        low = high
    return found


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
    motion: Motion | None


class Reader:
    """Bytes of frames to what stands in them: that takes what stands in others, not their pixels.

    Attributes:
        known: of pictures that lean on one, and of those that lean on two.
    """

    def __init__(self, version: Version, height: int, width: int, state: State | None) -> None:
        self._version, self._size = version, (height, width)
        if state is None:
            zeros = np.zeros(version.moving.grids(height, width).count, np.int32)
            self.known = [Known(version.prior(count), zeros, first=True) for count in (1, 2)]
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
        count = len(place.references)
        if not count:
            given = Given(self._version.prior(0))
            found = read_frame(self._version.still, data, *self._size, given)
            return Coded(place, found, None)
        known = self.known[count - 1]
        coded, at = piece(data, 0, "motion")
        motion = latent_motion.read_modes(coded, *self._size, count)
        given = Given(known.flat, known.latents)
        found = read_frame(self._version.moving, data[at:], *self._size, given)
        self.known[count - 1] = Known(found.flat, found.latents)
        return Coded(place, found, motion)


class Easel:
    """Frames of a group, painted in coded order, in the same buffers.

    Attributes:
        frames: by number; -1 is the last one of the group before.
    """

    def __init__(self, version: Version, height: int, width: int, state: State | None) -> None:
        self._version, self._size = version, (height, width)
        self._threads = torch.get_num_threads()
        self._painters: dict[Design, Painter] = {}
        self.frames: dict[int, Pixels] = {} if state is None else {-1: state.pixels}

    def paint(self, coded: Coded) -> None:
        """Add a frame."""
        design, guides = self._version.still, None
        if coded.motion is not None:
            references = [self.frames[n] for n in coded.place.references]
            design = self._version.moving
            guides = latent_motion.guide(references, coded.motion, self._threads)
        if design not in self._painters:
            self._painters[design] = Painter(design, *self._size, MIDDLE_GAIN)
        pixels = paint(self._painters[design], coded.symbols, guides).pixels
        self.frames[coded.place.number] = pixels

"""The codec of groups of frames by latent grids: a picture, then pictures that lean on others."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import latent_codec_1, latent_motion
from .group_codec import steps_of
from .latent_defaults import shipped
from .latent_fit import Schedule
from .latent_frame import Frame, Given, decode_frame, encode_frame, piece, sized
from .latent_model import Design
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
Progress = Callable[[str, float], None]  # A stage, and the share that is done.
VERSION = 2
STEPS = {  # Of a picture alone.
    "ultrafast": 60, "superfast": 120, "veryfast": 250, "faster": 500, "fast": 1000,
    "medium": 2000, "slow": 4000, "slower": 8000, "veryslow": 16000, "placebo": 40000,
}  # fmt: skip
FIRST_SHARE, INTER_SHARE = 0.5, 0.25  # Of a picture's steps: the first that leans, and others.
INTER_NET_RATE = 5e-3  # Networks of such a frame are good ones for the next, and changes cost bits.
KEY_SHARE = 0.5  # Lagrangian of a picture that others lean on, of theirs.
SHARES = (0.85, 1.15, 1.4, 1.7)  # The same of pictures by their depth, which fewer lean on.
MOST_SPAN = 64
SPAN = 4  # Frames from one that leans on one to the next; those between lean on two.
MOTION_PRICE = 3000.0  # Absolute differences a bit, at a Lagrangian of 1 for the squared error.

STILL = Design(near=12, above=5, context=16)
MOVING = Design(near=10, above=5, before=5, context=16, guides=3)


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
        pixels: [H, W, 3] the last frame.
        known: of pictures that lean on one, and of those that lean on two.
    """

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


class LatentCodec:
    """Groups of frames as bytes, and back: the same pixels on every machine.

    Args:
        preset: one of STEPS.
        lmbda: what a bit a pixel is worth in mean squared error of 0..1: 1e-4 is good, 1e-2 small.
        seed: of the noise.
    """

    name = "latent"

    def __init__(self, preset: str = "medium", lmbda: float = 1e-3, seed: int = 0) -> None:
        steps_of(preset, STEPS)
        if not 1e-6 <= lmbda <= 1:
            raise ValueError(f"lmbda: expected 1e-6 to 1, got {lmbda}")
        self.preset, self.lmbda, self.seed = preset, lmbda, seed

    def encode(
        self,
        frames: Pixels,
        state: State | None = None,
        *,
        progress: Progress | None = None,
    ) -> tuple[bytes, State]:
        """Bytes of a group [G, H, W, 3], and what decoding them leaves for the next group.

        Without a state, the first frame stands alone. `progress` is told the stage and the share
        that is done.
        """
        _check_frames(frames)
        count, height, width = frames.shape[:3]
        places = order(count, SPAN, state is None)
        seen = Seen(height, width, state)
        parts = [bytes([VERSION, SPAN])]
        for index, place in enumerate(places):
            told = None if progress is None else _part(progress, index, count)
            frame = np.ascontiguousarray(frames[place.number])
            parts.append(sized(self._encode(frame, place, seen, count > 1, told)))
            seen.decode(parts[-1], 0, place)
        return b"".join(parts), seen.state(count)

    def _encode(
        self,
        frame: Pixels,
        place: Place,
        seen: Seen,
        leant_on: bool,
        progress: Callable[[float], None] | None,
    ) -> bytes:
        known = seen.known[len(place.references) - 1] if place.references else None
        schedule = _schedule(STEPS[self.preset], known)
        total = schedule.steps + schedule.tail

        def watch(step: int, error: float, bits: float) -> None:
            if progress is not None:
                progress((step + 1) / total)

        if known is None:
            lmbda = self.lmbda * (KEY_SHARE if leant_on else 1)
            given = Given(defaults(STILL))
            return encode_frame(STILL, frame, given, lmbda, schedule, seed=self.seed, watch=watch)
        lmbda = self.lmbda * SHARES[min(place.depth, len(SHARES) - 1)]
        references = [seen.frames[n] for n in place.references]
        price = max(1, round(MOTION_PRICE * lmbda**0.5 / 8))
        motion = latent_motion.choose(frame, references, price)
        given = Given(known.flat, known.latents, latent_motion.guide(references, motion))
        data = encode_frame(MOVING, frame, given, lmbda, schedule, seed=self.seed, watch=watch)
        return sized(latent_motion.write_modes(motion)) + data

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: Any = None
    ) -> tuple[Pixels, Any]:
        """[G, H, W, 3] frames of a group of `shape`, and the state behind it.

        Raises ValueError for damage, and for a state where none was or none where one was.
        """
        count, height, width = shape
        if payload[:1] == bytes([1]):
            return latent_codec_1.decode(payload, shape, state)
        if payload[:1] != bytes([VERSION]) or len(payload) < 2 or not 0 < payload[1] <= MOST_SPAN:
            raise ValueError(f"group: expected version {VERSION}, got {payload[:2].hex()!r}")
        if count < 1:
            raise ValueError("group: expected a frame at least")
        seen, at = Seen(height, width, state), 2
        for place in order(count, payload[1], state is None):
            at = seen.decode(payload, at, place)
        if at != len(payload):
            raise ValueError(f"group: expected {at} bytes, got {len(payload)}")
        return np.stack([seen.frames[n] for n in range(count)]), seen.state(count)


class Seen:
    """Frames of a group as they are decoded, with what others lean on."""

    def __init__(self, height: int, width: int, state: State | None) -> None:
        self._size = height, width
        if state is None:
            zeros = np.zeros(MOVING.grids(height, width).count, np.int32)
            fresh = Known(defaults(MOVING), zeros, first=True)
            self.frames: dict[int, Pixels] = {}
            self.known = [fresh, fresh]
            return
        if state.pixels.shape != (height, width, 3):
            raise ValueError(f"state: expected {height}x{width}, got {state.pixels.shape[:2]}")
        self.frames, self.known = {-1: state.pixels}, list(state.known)

    def decode(self, payload: bytes, at: int, place: Place) -> int:
        """Take in a frame; gives where the next one begins. Raises ValueError naming it."""
        data, at = piece(payload, at, f"frame {place.number}")
        try:
            found = self._decode(data, place)
        except ValueError as error:
            raise ValueError(f"frame {place.number}: {error}") from None
        self.frames[place.number] = found.pixels
        if place.references:
            self.known[len(place.references) - 1] = Known(found.flat, found.latents)
        return at

    def _decode(self, data: bytes, place: Place) -> Frame:
        if not place.references:
            return decode_frame(STILL, data, *self._size, Given(defaults(STILL)))
        known = self.known[len(place.references) - 1]
        references = [self.frames[n] for n in place.references]
        coded, at = piece(data, 0, "motion")
        motion = latent_motion.read_modes(coded, *self._size, len(references))
        given = Given(known.flat, known.latents, latent_motion.guide(references, motion))
        return decode_frame(MOVING, data[at:], *self._size, given)

    def state(self, count: int) -> State:
        """Behind a group of so many frames."""
        return State(self.frames[count - 1], (self.known[0], self.known[1]))


def defaults(design: Design) -> Tensor:
    """[P] parameters that a design's are coded against where no others came before."""
    return shipped("latent_inter_2" if design.guides else "latent_image_2", design)


def _schedule(steps: int, known: Known | None) -> Schedule:
    """The first leaning frame starts from shipped networks, and has to find its own."""
    if known is None:
        return Schedule(steps=steps, tail=max(20, steps // 10))
    steps = int((FIRST_SHARE if known.first else INTER_SHARE) * steps)
    schedule = Schedule(steps=steps, tail=max(20, steps // 8))
    return schedule if known.first else replace(schedule, net_rate=INTER_NET_RATE, tail_rate=1e-3)


def _part(progress: Progress, number: int, count: int) -> Callable[[float], None]:
    """Tells the share of one frame as that of the group."""
    return lambda share: progress("fit", (number + share) / count)


def _check_frames(frames: Pixels) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"frames: expected uint8 [G, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )

"""The codec of groups of frames by latent grids: a picture, then pictures that lean on the last."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import latent_motion
from .ahead import ahead
from .group_codec import steps_of
from .latent_engine import MIDDLE_GAIN, Painter
from .latent_fit import Schedule
from .latent_frame import Frame, Given, Symbols, decode_frame, encode_frame, paint, read_frame
from .latent_model import Design
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
Progress = Callable[[str, float], None]  # A stage, and the share that is done.
VERSION = 1
STEPS = {  # Of a picture alone.
    "ultrafast": 60, "superfast": 120, "veryfast": 250, "faster": 500, "fast": 1000,
    "medium": 2000, "slow": 4000, "slower": 8000, "veryslow": 16000, "placebo": 40000,
}  # fmt: skip
FIRST_SHARE, INTER_SHARE = 0.5, 0.25  # Of a picture's steps: the first that leans, and others.
INTER_NET_RATE = 5e-3  # Networks of such a frame are good ones for the next, and changes cost bits.
KEY_SHARE = 0.5  # Lagrangian of a picture that others lean on, of theirs.
UNIT = 1 / 1024  # Of stored parameters.
MOTION_PRICE = 3000.0  # Absolute differences a bit, at a Lagrangian of 1 for the squared error.

STILL = Design()
MOVING = Design(near=8, above=4, before=4, guides=3)
_COUNT = struct.Struct("<I")


@dataclass(frozen=True)
class State:
    """What the next group needs of the one before.

    Attributes:
        pixels: [H, W, 3] the last frame.
        flat: [P] parameters of the last frame that leant on another, or the shipped ones.
        latents: [N] its latents, or zeros.
        first: whether that frame stood alone.
    """

    pixels: Pixels
    flat: Tensor
    latents: Ints
    first: bool


@lru_cache(maxsize=2)
def defaults(design: Design) -> Tensor:
    """[P] parameters that a design's are coded against where no others came before."""
    name = "latent_image.npy" if design.guides == 0 else "latent_inter.npy"
    stored = np.load(Path(__file__).with_name(name), allow_pickle=False)
    flat = torch.from_numpy(stored.astype(np.float32)) * UNIT
    if len(flat) != design.parameters:
        raise ValueError(f"{name}: expected {design.parameters} parameters, got {len(flat)}")
    return flat


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
        parts = [bytes([VERSION])]
        for number, frame in enumerate(frames):
            told = None if progress is None else _part(progress, number, len(frames))
            data, state = self._encode(np.ascontiguousarray(frame), state, len(frames) > 1, told)
            parts += [_COUNT.pack(len(data)), data]
        assert state is not None
        return b"".join(parts), state

    def _encode(
        self,
        frame: Pixels,
        state: State | None,
        leant_on: bool,
        progress: Callable[[float], None] | None,
    ) -> tuple[bytes, State]:
        schedule = _schedule(STEPS[self.preset], state)
        total = schedule.steps + schedule.tail
        height, width = frame.shape[:2]

        def watch(step: int, error: float, bits: float) -> None:
            if progress is not None:
                progress((step + 1) / total)

        if state is None:
            lmbda = self.lmbda * (KEY_SHARE if leant_on else 1)
            data = encode_frame(
                STILL, frame, Given(defaults(STILL)), lmbda, schedule, seed=self.seed, watch=watch
            )
            found = decode_frame(STILL, data, height, width, Given(defaults(STILL)))
            return data, _after(found)
        price = max(1, round(MOTION_PRICE * self.lmbda**0.5 / 8))
        motion = latent_motion.find(frame, state.pixels, price)
        coded = latent_motion.write(motion)
        given = _given(state, motion)
        data = encode_frame(MOVING, frame, given, self.lmbda, schedule, seed=self.seed, watch=watch)
        found = decode_frame(MOVING, data, height, width, given)
        return _COUNT.pack(len(coded)) + coded + data, _leaning(found)

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: State | None = None
    ) -> tuple[Pixels, State]:
        """[G, H, W, 3] frames of a group of `shape`, and the state behind it.

        Raises ValueError for damage, and for a state where none was or none where one was.
        """
        count, height, width = shape
        if payload[:1] != bytes([VERSION]):
            raise ValueError(f"group: expected version {VERSION}, got {payload[:1].hex()!r}")
        if state is not None and state.pixels.shape != (height, width, 3):
            raise ValueError(f"state: expected {height}x{width}, got {state.pixels.shape[:2]}")
        pieces, at = [], 1
        for number in range(count):
            data, at = _piece(payload, at, f"frame {number}")
            pieces.append(data)
        if at != len(payload):
            raise ValueError(f"group: expected {at} bytes, got {len(payload)}")
        frames, threads = [], torch.get_num_threads()
        easel = _Easel(height, width, threads)
        for coded in ahead(_read_frames(pieces, height, width, state), threads):
            state = easel.paint(coded, state)
            frames.append(state.pixels)
        if state is None:
            raise ValueError("group: expected a frame at least")
        return np.stack(frames), state


@dataclass(frozen=True)
class _Coded:
    """What stands in a frame's bytes: symbols, and motion where it leans on the last one."""

    symbols: Symbols
    motion: Ints | None


def _read_frames(
    pieces: Sequence[bytes], height: int, width: int, state: State | None
) -> Iterator[_Coded]:
    """What stands in frames: that takes what stands in the ones before, but not their pixels."""
    given = None if state is None else Given(state.flat, state.latents)
    for number, data in enumerate(pieces):
        try:
            if given is None:
                found = read_frame(STILL, data, height, width, Given(defaults(STILL)))
                given, motion = _fresh(height, width), None
            else:
                coded, at = _piece(data, 0, "motion")
                motion = latent_motion.read(coded, height, width)
                found = read_frame(MOVING, data[at:], height, width, given)
                given = Given(found.flat, found.latents)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from None
        yield _Coded(found, motion)


class _Easel:
    """Frames of a group, painted one after the other in the same buffers."""

    def __init__(self, height: int, width: int, threads: int) -> None:
        self._size, self._threads = (height, width), threads
        self._painters: dict[Design, Painter] = {}

    def paint(self, coded: _Coded, state: State | None) -> State:
        if state is None or coded.motion is None:
            return _after(paint(self._painter(STILL), coded.symbols, None))
        guides = latent_motion.move(state.pixels, coded.motion, self._threads)
        return _leaning(paint(self._painter(MOVING), coded.symbols, guides))

    def _painter(self, design: Design) -> Painter:
        if design not in self._painters:
            self._painters[design] = Painter(design, *self._size, MIDDLE_GAIN)
        return self._painters[design]


def _schedule(steps: int, state: State | None) -> Schedule:
    """The first leaning frame starts from shipped networks, and has to find its own."""
    if state is None:
        return Schedule(steps=steps, tail=max(20, steps // 10))
    first = state.first
    steps = int((FIRST_SHARE if first else INTER_SHARE) * steps)
    schedule = Schedule(steps=steps, tail=max(20, steps // 8))
    return schedule if first else replace(schedule, net_rate=INTER_NET_RATE, tail_rate=1e-3)


def _given(state: State, motion: Ints) -> Given:
    return Given(state.flat, state.latents, latent_motion.move(state.pixels, motion))


def _fresh(height: int, width: int) -> Given:
    """Behind a picture that stands alone: its latents say little of the next one's."""
    return Given(defaults(MOVING), np.zeros(MOVING.grids(height, width).count, np.int32))


def _after(frame: Frame) -> State:
    given = _fresh(*frame.pixels.shape[:2])
    assert given.before is not None
    return State(frame.pixels, given.prior, given.before, first=True)


def _leaning(frame: Frame) -> State:
    return State(frame.pixels, frame.flat, frame.latents, first=False)


def _part(progress: Progress, number: int, count: int) -> Callable[[float], None]:
    """Tells the share of one frame as that of the group."""
    return lambda share: progress("fit", (number + share) / count)


def _piece(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """A run of bytes with its length before it, and where the next one begins."""
    if at + _COUNT.size > len(data):
        raise ValueError(f"{what}: expected {_COUNT.size} bytes, got {len(data) - at}")
    (size,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    if size > len(data) - at:
        raise ValueError(f"{what}: expected {size} bytes, got {len(data) - at}")
    return data[at : at + size], at + size


def _check_frames(frames: Pixels) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"frames: expected uint8 [G, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )

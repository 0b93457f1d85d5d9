"""Groups of version 1 of the latent codec, which are only read: each frame leans on the last."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import latent_motion, latent_weights_1
from .latent_defaults import shipped
from .latent_engine import Painter
from .latent_frame import Frame, Given, Symbols, paint, read_latents
from .latent_model import Design
from .latent_ops import Ints

Pixels = NDArray[np.uint8]
STILL = Design()
MOVING = Design(near=8, above=4, before=4, guides=3)
_COUNT, _HEAD = struct.Struct("<I"), struct.Struct("<BH")  # Gain, bytes of parameters.


@dataclass(frozen=True)
class State:
    """Of the last frame: pixels [H, W, 3], parameters [P] and latents [N] to lean on."""

    pixels: Pixels
    flat: Tensor
    latents: Ints


def decode(
    payload: bytes, shape: tuple[int, int, int], state: State | None
) -> tuple[Pixels, State]:
    """[G, H, W, 3] frames behind the version byte. Raises ValueError for damage."""
    count, height, width = shape
    frames, at = [], 1
    for number in range(count):
        data, at = _piece(payload, at, f"frame {number}")
        try:
            state = _decode(data, height, width, state)
        except ValueError as error:
            raise ValueError(f"frame {number}: {error}") from None
        frames.append(state.pixels)
    if at != len(payload):
        raise ValueError(f"group: expected {at} bytes, got {len(payload)}")
    if state is None:
        raise ValueError("group: expected a frame at least")
    return np.stack(frames), state


def _decode(data: bytes, height: int, width: int, state: State | None) -> State:
    if state is None:
        still = Given(shipped("latent_image", STILL))
        pixels = _frame(STILL, data, height, width, still).pixels
        count = MOVING.grids(height, width).count
        return State(pixels, shipped("latent_inter", MOVING), np.zeros(count, np.int32))
    if state.pixels.shape != (height, width, 3):
        raise ValueError(f"state: expected {height}x{width}, got {state.pixels.shape[:2]}")
    coded, at = _piece(data, 0, "motion")
    moved = latent_motion.move(state.pixels, latent_motion.read(coded, height, width))
    found = _frame(MOVING, data[at:], height, width, Given(state.flat, state.latents, moved))
    return State(found.pixels, found.flat, found.latents)


def _frame(design: Design, data: bytes, height: int, width: int, given: Given) -> Frame:
    if len(data) < _HEAD.size:
        raise ValueError(f"head: expected {_HEAD.size} bytes, got {len(data)}")
    gain, size = _HEAD.unpack_from(data)
    size += _HEAD.size
    if gain > 63 or size > len(data):
        raise ValueError(f"head: expected a gain below 64, {size} bytes; got {gain}, {len(data)}")
    flat = latent_weights_1.read(design, data[_HEAD.size : size], given.prior)
    latents = read_latents(design, data[size:], height, width, given.before, flat)
    painter = Painter(design, height, width, gain)
    return paint(painter, Symbols(gain, flat, latents), given.guides)


def _piece(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """A run of bytes with its length before it, and where the next one begins."""
    if at + _COUNT.size > len(data):
        raise ValueError(f"{what}: expected {_COUNT.size} bytes, got {len(data) - at}")
    (size,) = _COUNT.unpack_from(data, at)
    at += _COUNT.size
    if size > len(data) - at:
        raise ValueError(f"{what}: expected {size} bytes, got {len(data) - at}")
    return data[at : at + size], at + size

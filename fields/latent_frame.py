"""One picture as bytes: the coded networks, then the coded latents (docs/format.md, chapter 7)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import _native, latent_weights
from .latent_engine import Engine, Painter, gain_for
from .latent_fit import Schedule, Watch, fit, settle
from .latent_guess import guess
from .latent_model import Design
from .latent_ops import Ints, decode_planes, encode_planes
from .latent_polish import polish

Pixels = NDArray[np.uint8]
SIZE_BYTES = 5  # At most.


@dataclass(frozen=True)
class Frame:
    """What a coded picture decodes to.

    Attributes:
        pixels: [H, W, 3].
        flat: [P] parameters.
        latents: [N] whole numbers.
    """

    pixels: Pixels
    flat: Tensor
    latents: Ints


@dataclass(frozen=True)
class Symbols:
    """What stands in the bytes of a picture.

    Attributes:
        gain: of the latents, 0 to 63.
        flat: [P] parameters.
        latents: [N] whole numbers.
    """

    gain: int
    flat: Tensor
    latents: Ints


@dataclass(frozen=True)
class Given:
    """What a decoder has before a picture comes.

    Attributes:
        prior: [P] parameters around which this picture's are coded.
        before: [N] latents of the frame before, or None.
        guides: [G, H, W] planes that the synthesis sees, or None.
    """

    prior: Tensor
    before: Ints | None = None
    guides: Tensor | None = None


def encode_frame(
    design: Design,
    pixels: Pixels,
    given: Given,
    lmbda: float,
    schedule: Schedule,
    *,
    weights: Tensor | None = None,
    seed: int = 0,
    watch: Watch | None = None,
) -> bytes:
    """Fit a picture [H, W, 3], and code what came of it.

    The loss is the mean squared error of 0..1 plus `lmbda` times all bits a pixel. Latents start
    from what `latent_guess` makes with the weights, by default from zeros.
    """
    height, width = pixels.shape[:2]
    target = torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).contiguous()
    gain = gain_for(lmbda)
    painter = Painter(design, height, width, gain, given.guides)
    before = None if given.before is None else torch.from_numpy(given.before).float()
    engine = Engine(painter, target, before)
    begin = None if weights is None else guess(engine, given.prior, lmbda, weights)
    latents, flat = fit(engine, given.prior, lmbda, schedule, latents=begin, seed=seed, watch=watch)
    for _ in range(schedule.polish[0]):
        polish(engine, latents, flat, lmbda)
    coded = settle(engine, latents, flat, given.prior, lmbda, schedule, watch)
    found = latent_weights.restored(design, coded, given.prior)
    for _ in range(schedule.polish[1]):
        polish(engine, latents, found, lmbda)
    networks = latent_weights.write(design, coded)
    symbols = latents.to(torch.int32).numpy()
    parameters = latent_weights.integers(design, found)
    nets = design.context_nets(painter.grids)
    stream = encode_planes(nets[::-1], parameters[::-1].copy(), _buffer(symbols, given.before))
    return bytes([gain]) + sized(networks) + stream


def read_frame(design: Design, data: bytes, height: int, width: int, given: Given) -> Symbols:
    """What stands in some bytes; guides are not needed. Raises ValueError for damage."""
    if not data or data[0] > 63:
        raise ValueError(f"head: expected a gain below 64, got {data[:1].hex()!r}")
    weights, at = piece(data, 1, "weights")
    flat = latent_weights.read(design, weights, given.prior)
    latents = read_latents(design, data[at:], height, width, given.before, flat)
    return Symbols(data[0], flat, latents)


def read_latents(
    design: Design, data: bytes, height: int, width: int, before: Ints | None, flat: Tensor
) -> Ints:
    """[N] latents of their stream, parameters known. Raises ValueError for damage."""
    grids = design.grids(height, width)
    buffer = _buffer(np.zeros(grids.count, np.int32), before)
    parameters = latent_weights.integers(design, flat)
    nets = design.context_nets(grids)
    decode_planes(nets[::-1], parameters[::-1].copy(), data, buffer)
    return buffer[: grids.count].copy()


def paint(painter: Painter, found: Symbols, guides: Tensor | None) -> Frame:
    """The picture of symbols, by a painter of their design and of its size."""
    painter.begin(found.gain, guides)
    picture = painter.paint(torch.from_numpy(found.latents).float(), found.flat)
    pixels = np.empty((*picture.shape[1:], 3), np.uint8)
    _native.to_bytes(picture, pixels, torch.get_num_threads())
    return Frame(pixels, found.flat, found.latents)


def sized(data: bytes) -> bytes:
    """A run of bytes behind its size: seven bits a byte, the lowest first, 128 added but last."""
    head, rest = bytearray(), len(data)
    while rest >= 128:
        head.append(rest & 127 | 128)
        rest >>= 7
    return bytes([*head, rest]) + data


def piece(data: bytes, at: int, what: str) -> tuple[bytes, int]:
    """What `sized` gave, and where the next one begins. Raises ValueError for damage."""
    size = 0
    for k in range(SIZE_BYTES):
        if at >= len(data):
            raise ValueError(f"{what}: expected a size, got the end")
        size |= (data[at] & 127) << (7 * k)
        at += 1
        if data[at - 1] < 128:
            break
    if size > len(data) - at:
        raise ValueError(f"{what}: expected {size} bytes, got {len(data) - at}")
    return data[at : at + size], at + size


def psnr(a: Pixels, b: Pixels) -> float:
    """In dB, of all values together."""
    error = float(np.square(a.astype(np.float64) - b).mean())
    return 10 * math.log10(255**2 / max(error, 1e-10))


def _buffer(symbols: Ints, before: Ints | None) -> Ints:
    return symbols.copy() if before is None else np.concatenate([symbols, before])

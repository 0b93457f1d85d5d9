"""NIRVANA (Maiya et al. 2023, arXiv 2212.14593): groups of frames as patch-wise sine networks.

A network maps the centre of a patch to that patch in all frames of the group: two sine layers, a
linear layer to features of half the patch's size, and, for each frame by itself, a convolution, a
pixel shuffle and a second convolution. The next group's network starts at the one before it and is
coded as differences. Unlike the released code, parameters are rounded while they are trained, and
convolutions, biases and steps are entropy-coded too.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from . import weight_stream
from .group_codec import Frames, Progress, State, steps_of
from .weight_fit import FitSettings, WeightFit, seeded_uniform
from .weight_stream import Quantised, Shapes

# First steps of each tensor: noise of those in a sine is noise of its phase.
FINENESS = (512, 512, 32, 32, 16, 16, 16, 16, 16, 16)
OMEGA = 30.0  # Of the sine layers (Sitzmann et al. 2020).
FREQUENCY = 100.0  # The base of the frame encoding.
MAX_CHANNELS, MAX_HIDDEN, MAX_GROUP = 64, 1024, 64
PATCH, SMALL_PATCH = 32, 16  # Pixels a side; the small one where frames have less than four.
RATE, DELTA_RATE = 0.1, 0.03  # Of key groups, and where there is a network to begin with.
ROUNDED_SHARE = 0.4  # Of the steps.
STEPS = {  # Of a key group and of those after it.
    "ultrafast": (200, 80), "superfast": (400, 150), "veryfast": (600, 250), "faster": (800, 350),
    "fast": (1000, 500), "medium": (1500, 750), "slow": (2500, 1200), "slower": (4000, 2000),
    "veryslow": (6000, 3000), "placebo": (12000, 6000),
}  # fmt: skip
DENSITY = 0.3  # Parameters a pixel of the group at LAMBDA; the paper has 0.13 at 1080p.
LAMBDA = 1e-3
_HEAD = struct.Struct("<4sBBHB")  # b"NRV1", patch, channels, hidden, frames of the network.
MAGIC = b"NRV1"


@dataclass(frozen=True)
class Design:
    """The sizes of a network.

    Attributes:
        patch: side of a patch in pixels. channels: of the features of a frame at half that size.
        hidden: neurons of the sine layers. group: frames that it gives.
    """

    patch: int
    channels: int
    hidden: int
    group: int

    def __post_init__(self) -> None:
        if not (
            self.patch in (PATCH, SMALL_PATCH)
            and 2 <= self.channels <= MAX_CHANNELS
            and self.channels % 2 == 0
            and 1 <= self.hidden <= MAX_HIDDEN
            and 1 <= self.group <= MAX_GROUP
        ):
            raise ValueError(f"nirvana: expected a network of ours, got {self}")

    @property
    def shapes(self) -> Shapes:
        c, h, g, area = self.channels, self.hidden, self.group, self.patch**2 // 4
        return (
            (h, 2), (h,), (h, h), (h,), (c * area, h), (c * area,),
            (g * 2 * c, c, 3, 3), (g * 2 * c,), (g * 3, c // 2, 3, 3), (g * 3,),
        )  # fmt: skip

    @staticmethod
    def for_clip(shape: tuple[int, int, int], lmbda: float) -> Design:
        """A network whose size goes with the pixels and with what bits are worth."""
        group, height, width = shape
        patch = PATCH if min(height, width) >= 4 * PATCH else SMALL_PATCH
        wanted = DENSITY * group * height * width * math.sqrt(LAMBDA / lmbda)
        channels = max(4, min(16, 2 * round(math.sqrt(wanted / 20000))))
        hidden = round(wanted / (channels * patch**2 / 4))
        return Design(patch, channels, max(8, min(MAX_HIDDEN, hidden)), min(group, MAX_GROUP))


@dataclass(frozen=True)
class NirvanaState:
    """A group's network: all that the next one needs."""

    design: Design
    weights: Quantised


class NirvanaCodec:
    """NIRVANA as a codec of groups of frames (see `group_codec.GroupCodec`)."""

    name = "nirvana"

    def __init__(self, preset: str, lmbda: float, seed: int) -> None:
        self._steps, self._lmbda, self._seed = steps_of(preset, STEPS), lmbda, seed

    def encode(
        self, frames: Frames, state: State, *, progress: Progress | None = None
    ) -> tuple[bytes, NirvanaState]:
        shape = frames.shape[:3]
        design = Design.for_clip(shape, self._lmbda) if state is None else state.design
        before = None if state is None else state.weights
        start, spreads = new_weights(design, self._seed)
        fit = WeightFit(start, spreads, FINENESS, before)
        target = patches_of(frames, design.patch)
        inside = patches_of(np.full_like(frames, 255), design.patch, edge="constant")
        centers, samples = patch_centers(shape[1:], design.patch), frames.size

        def error(tensors: list[Tensor]) -> Tensor:
            found = network(design, tensors, centers)[:, : 3 * len(frames)]
            return ((found - target).square() * inside).sum() / samples

        steps, rate = (self._steps[0], RATE) if before is None else (self._steps[1], DELTA_RATE)
        settings = FitSettings(steps, rate, ROUNDED_SHARE, self._lmbda / math.prod(shape))
        weights = fit.run(error, settings, progress)
        head = _HEAD.pack(MAGIC, design.patch, design.channels, design.hidden, design.group)
        payload = head + weight_stream.encode(weights, before)
        return payload, NirvanaState(design, weights)

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: State
    ) -> tuple[Frames, NirvanaState]:
        if len(payload) < _HEAD.size or not payload.startswith(MAGIC):
            raise ValueError(f"expected a group of NIRVANA, got {payload[:4]!r}")
        _, *sizes = _HEAD.unpack_from(payload)
        design = Design(*sizes)
        if design.group < shape[0]:
            raise ValueError(f"expected a network of {shape[0]} frames, got {design.group}")
        before = None if state is None else state.weights
        weights = weight_stream.decode(payload[_HEAD.size :], design.shapes, before)
        return frames_from(design, weights, shape), NirvanaState(design, weights)


def new_weights(design: Design, seed: int) -> tuple[list[Tensor], list[float]]:
    """Tensors as a network starts with, and the spread of each kind."""
    rng = torch.Generator().manual_seed(seed)
    reach = []
    for i, shape in enumerate(design.shapes[::2]):
        fan_in = math.prod(shape[1:])
        sine = (1 / fan_in, math.sqrt(6 / fan_in) / OMEGA, math.sqrt(3 / fan_in))
        weight = sine[i] if i < len(sine) else math.sqrt(3 / fan_in)
        reach += [weight, weight if i < 2 else 0.1]
    start = [seeded_uniform(s, r, rng) for s, r in zip(design.shapes, reach, strict=True)]
    start[4] *= 0.2  # Else frames begin as noise that has to be unlearned: 2 dB after 250 steps.
    for bias in (5, 7, 9):
        start[bias].zero_()
    start[9] += 0.5  # Grey.
    return start, [r / math.sqrt(3) for r in reach]


def network(design: Design, tensors: list[Tensor], centers: Tensor) -> Tensor:
    """[P, 3 G, patch, patch] colours, frame by frame, of patches with these centres [P, 2]."""
    w1, b1, w2, b2, w3, b3, k1, c1, k2, c2 = tensors
    x = torch.sin(OMEGA * F.linear(centers, w1, b1))
    x = torch.sin(OMEGA * F.linear(x, w2, b2))
    half = design.patch // 2
    x = F.linear(x, w3, b3).reshape(-1, 1, design.channels, half, half)
    x = x + frame_encoding(design)[None, :, :, None, None]
    x = F.conv2d(x.flatten(1, 2), k1, c1, padding=1, groups=design.group)
    x = F.gelu(F.pixel_shuffle(x, 2))
    return F.conv2d(x, k2, c2, padding=1, groups=design.group)


def frame_encoding(design: Design) -> Tensor:
    """[G, C]: sin(g 100^(-c/2)), of odd c a quarter of a turn ahead."""
    frame, channel = torch.arange(design.group)[:, None], torch.arange(design.channels)
    return torch.sin(frame * FREQUENCY ** -(channel // 2).float() + channel % 2 * math.pi / 2)


def patch_centers(size: tuple[int, int], patch: int) -> Tensor:
    """[P, 2] centres x, y in [-1, 1] of the patches that cover a frame, row by row."""
    rows, columns = (-(-side // patch) for side in size)
    y, x = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    centers = torch.stack([(2 * x + 1) / columns - 1, (2 * y + 1) / rows - 1], -1)
    return centers.reshape(-1, 2)


def patches_of(frames: Frames, patch: int, edge: Any = "edge") -> Tensor:
    """[P, 3 G, patch, patch] in [0, 1] of frames [G, H, W, 3], the edge repeated."""
    group, height, width, _ = frames.shape
    pad = [(0, 0), (0, -height % patch), (0, -width % patch), (0, 0)]
    x = torch.from_numpy(np.pad(frames, pad, mode=edge)).float() / 255
    rows, columns = x.shape[1] // patch, x.shape[2] // patch
    x = x.reshape(group, rows, patch, columns, patch, 3).permute(1, 3, 0, 5, 2, 4)
    return x.reshape(rows * columns, group * 3, patch, patch)


def frames_from(design: Design, weights: Quantised, shape: tuple[int, int, int]) -> Frames:
    """Frames [G, H, W, 3] uint8 that a network gives."""
    group, height, width = shape
    rows, columns = (-(-side // design.patch) for side in (height, width))
    with torch.no_grad():
        x = network(design, weights.tensors(), patch_centers((height, width), design.patch))
    x = x[:, : 3 * group].reshape(rows, columns, group, 3, design.patch, design.patch)
    x = x.permute(2, 0, 4, 1, 5, 3).reshape(group, rows * design.patch, columns * design.patch, 3)
    return (255 * x[:, :height, :width]).round().clamp(0, 255).byte().numpy()

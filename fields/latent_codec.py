"""The codec of groups of frames by latent grids: a picture, then pictures that lean on others."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import latent_codec_1, latent_parts
from .ahead import ahead
from .group_codec import steps_of
from .latent_fit import Schedule, Watch
from .latent_frame import Given, encode_frame, piece, sized
from .latent_group import Easel, Known, Place, Reader, State, last_anchors, order
from .latent_version import VERSIONS, Version

Pixels = NDArray[np.uint8]
Progress = Callable[[str, float], None]  # A stage, and the share that is done.
VERSION = VERSIONS[4]
STEPS = {  # Of a picture alone.
    "ultrafast": 60, "superfast": 120, "veryfast": 250, "faster": 500, "fast": 1000,
    "medium": 2000, "slow": 4000, "slower": 8000, "veryslow": 16000, "placebo": 40000,
}  # fmt: skip
# Of a lone picture's steps: one that others lean on; those that lean, anchors and pictures between,
# and what is added to that for each bit a pixel that they seem to need; the first of a kind starts
# from shipped networks, and has to find its own.
KEY_STEPS, LEANING_STEPS, STEPS_A_BIT = 2.2, (0.25, 0.08), 0.8
MOST_STEPS, FIRST_SHARE = 1.0, 1.5
USUAL_STEPS = (0.4, 0.15)  # About what comes of that.
LEAST_STEPS = 36  # Of those that lean: fewer leave noise, which takes bits.
INTER_NET_RATE = 5e-3  # Networks of such a frame are good ones for the next, and changes cost bits.
POLISH_STEPS = 240  # Whole latents are tried for what some 80 steps take.
KEY_SHARE = 0.3  # Lagrangian of a picture that others lean on, of theirs.
SHARES = (0.6, 1.15, 1.4, 1.7)  # The same of pictures by their depth, which fewer lean on.
MOST_SPAN = 64
ANOTHER = "group: expected the version of the group before it, got another"
SPAN = 4  # Frames from one that leans on one to the next; those between lean on two.
MOST_PASSES, PASS_STEPS = 4, 120  # Over the motion, one for so many steps of a picture.
LEANT_PRICE = 2.0  # Of motion on one frame only, whose errors latents mend.


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
        that is done. Raises ValueError for a state of an older version.
        """
        _check_frames(frames)
        version = VERSION
        count, height, width = frames.shape[:3]
        _check_state(state, version, height, width)
        places = order(count, SPAN, version.anchors, _before(state))
        reader, easel = _both(version, height, width, state)
        parts = [bytes([version.number, SPAN])]
        for index, place in enumerate(places):
            told = None if progress is None else _part(progress, places, index)
            frame = np.ascontiguousarray(frames[place.number])
            known = reader.known[place.kind - 1] if place.kind else None
            references = [easel.frames[n] for n in place.references]
            data = self._encode(version, frame, place, known, references, count > 1, told)
            easel.paint(reader.read(data, place))
            parts.append(sized(data))
        return b"".join(parts), _state(version, reader, easel, places, state)

    def _encode(
        self,
        version: Version,
        frame: Pixels,
        place: Place,
        known: Known | None,
        references: list[Pixels],
        leant_on: bool,
        progress: Callable[[float], None] | None,
    ) -> bytes:
        steps = STEPS[self.preset]
        if known is None:
            lmbda = self.lmbda * (KEY_SHARE if leant_on else 1)
            schedule = _schedule(round(steps * (KEY_STEPS if leant_on else 1)), known)
            return encode_frame(
                version.still, frame, Given(version.prior(0)), lmbda, schedule,
                weights=version.weights(), seed=self.seed, watch=_watch(progress, schedule),
            )  # fmt: skip
        lmbda = self.lmbda * SHARES[min(place.depth, len(SHARES) - 1)]
        dear = lmbda * (LEANT_PRICE if place.kind == 1 else 1)
        passes = min(MOST_PASSES, 1 + steps // PASS_STEPS)
        parts = latent_parts.find(frame, references, dear, passes, place.away)
        guide = latent_parts.guide(references, parts)
        share = LEANING_STEPS[place.kind - 1] + STEPS_A_BIT * needed(frame, guide, lmbda)
        schedule = _schedule(round(steps * min(MOST_STEPS, share)), known)
        data = encode_frame(
            version.moving, frame, Given(known.flat, known.latents, guide), lmbda, schedule,
            seed=self.seed, watch=_watch(progress, schedule),
        )  # fmt: skip
        return sized(latent_parts.write(parts, place.away)) + data

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: Any = None
    ) -> tuple[Pixels, Any]:
        """[G, H, W, 3] frames of a group of `shape`, and the state behind it.

        Raises ValueError for damage, and for a state where none was or none where one was.
        """
        count, height, width = shape
        if payload[:1] == bytes([1]):
            if not isinstance(state, latent_codec_1.State | None):
                raise ValueError(ANOTHER)
            return latent_codec_1.decode(payload, shape, state)
        version = VERSIONS.get(payload[0]) if len(payload) > 1 else None
        if version is None or not 0 < payload[1] <= MOST_SPAN:
            known = " or ".join(map(str, (1, *VERSIONS)))
            raise ValueError(f"group: expected version {known}, got {payload[:2].hex()!r}")
        if count < 1:
            raise ValueError("group: expected a frame at least")
        _check_state(state, version, height, width)
        places = order(count, payload[1], version.anchors, _before(state))
        pieces, at = [], 2
        for place in places:
            data, at = piece(payload, at, f"frame {place.number}")
            pieces.append(data)
        if at != len(payload):
            raise ValueError(f"group: expected {at} bytes, got {len(payload)}")
        reader, easel = _both(version, height, width, state)
        for coded in ahead(reader.read_all(pieces, places), torch.get_num_threads()):
            easel.paint(coded)
        frames = np.stack([easel.frames[n] for n in range(count)])
        return frames, _state(version, reader, easel, places, state)


def _both(version: Version, height: int, width: int, state: State | None) -> tuple[Reader, Easel]:
    return Reader(version, height, width, state), Easel(version, height, width, state)


def _before(state: State | None) -> list[int]:
    """Numbers of anchors that are known from the groups before."""
    return [] if state is None else sorted(state.anchors)


def _state(
    version: Version, reader: Reader, easel: Easel, places: list[Place], state: State | None
) -> State:
    """Behind a group of some frames, of which the last is an anchor."""
    numbers = last_anchors(places, _before(state), version.anchors)
    anchors = {n - numbers[-1] - 1: easel.frames[n] for n in numbers}
    return State(version, anchors, (reader.known[0], reader.known[1]))


def _check_state(state: Any, version: Version, height: int, width: int) -> None:
    if state is not None and (not isinstance(state, State) or state.version != version):
        raise ValueError(ANOTHER)
    if state is not None and state.size != (height, width):
        raise ValueError(f"state: expected {height}x{width}, got {state.size}")


def _schedule(steps: int, known: Known | None) -> Schedule:
    if known is None:
        return Schedule(steps=steps, tail=max(20, steps // 10), polish=_polish(steps))
    steps = max(LEAST_STEPS, round(FIRST_SHARE * steps) if known.first else steps)
    schedule = Schedule(steps=steps, tail=max(20, steps // 8), polish=_polish(steps))
    return schedule if known.first else replace(schedule, net_rate=INTER_NET_RATE, tail_rate=1e-3)


def needed(frame: Pixels, guide: Tensor, lmbda: float) -> float:
    """Bits a pixel that would make a guide [3, H, W] as good as a Lagrangian asks for.

    As of normal numbers whose spread is known in squares of 8 pixels (reverse water-filling).
    """
    target = torch.from_numpy(frame).permute(2, 0, 1).float().div(255)
    error = (guide - target).square().mean(0)[None]
    cells = torch.nn.functional.avg_pool2d(error, 8, ceil_mode=True)
    return float(0.5 * (cells * (2 * math.log(2) / lmbda)).clamp(min=1).log2().mean())


def _watch(progress: Callable[[float], None] | None, schedule: Schedule) -> Watch | None:
    """Tells the share of a fit that is done."""
    if progress is None:
        return None
    total, told = schedule.steps + schedule.tail, progress
    return lambda step, error, bits: told((step + 1) / total)


def _polish(steps: int) -> tuple[int, int]:
    """Where it takes no more than a third of the time."""
    return int(steps >= 3 * POLISH_STEPS), int(steps >= POLISH_STEPS)


def _part(progress: Progress, places: list[Place], number: int) -> Callable[[float], None]:
    """Tells the share of one frame as that of the group, by the steps that each will take."""
    taken = [KEY_STEPS if place.kind == 0 else USUAL_STEPS[place.kind - 1] for place in places]
    before, own, total = sum(taken[:number]), taken[number], sum(taken)
    return lambda share: progress("fit", (before + share * own) / total)


def _check_frames(frames: Pixels) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[3] != 3 or 0 in frames.shape:
        raise ValueError(
            f"frames: expected uint8 [G, H, W, 3], got {frames.dtype} {list(frames.shape)}"
        )

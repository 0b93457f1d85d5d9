"""NeRV++ (Ghorbel et al. 2024, arXiv 2402.18305): frames from their time, one network a group.

Time as sinusoids goes through a gated stem to a small grid of features, and blocks of a separable
residual part, an upsampling convolution and a second separable part, each bridged by a bilinear
skip, grow it to the picture. Trained, then pruned by magnitude over all layers, then fine-tuned
with what is left rounded. Where the paper estimates a rate, this writes one: zeros, and with them
what was pruned, are symbols of the one entropy-coded stream, as are biases and steps.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from . import weight_stream
from .group_codec import Frames, Progress, State, steps_of
from .network import cosine_rate
from .weight_fit import seeded_uniform
from .weight_stream import MAX_STEP, MIN_STEP, PER_OCTAVE, Quantised, Shapes, quantise

MAGIC = b"NPP1"
FREQUENCIES, GROWTH = 40, 1.25  # pi 1.25^i t.
BASE_ROWS = 9  # Of the stem's grid, or nearly.
STRIDES = (5, 3, 2)  # What a block may enlarge by, the largest first.
SHRINK = 2  # Channels of a block, over those of the next.
LEAST_CHANNELS = 4
MAX_CHANNELS, MAX_STEM, MAX_BLOCKS = 512, 512, 8
KEEP = 0.4  # Of the parameters: the others are pruned.
BITS = 6  # Of the largest magnitude of a tensor, and its sign.
RATE, BETAS, WARM_UP = 1e-2, (0.5, 0.999), 0.2
L1_SHARE = 0.7  # Of the loss; the rest is 1 - SSIM.
TUNE_SHARE = 0.35  # Of the steps: fine-tuning after pruning.
FRAMES_A_STEP = 2
STEPS = {"ultrafast": 200, "superfast": 400, "veryfast": 600, "faster": 900, "fast": 1300,
         "medium": 2000, "slow": 4000, "slower": 8000, "veryslow": 16000,
         "placebo": 40000}  # fmt: skip
DENSITY, LAMBDA = 0.06, 1e-3  # Parameters a pixel of the group, at this lambda.
_HEAD = struct.Struct("<4sHH")  # Magic, channels of the stem's grid, neurons of the stem.


@dataclass(frozen=True)
class Design:
    """The sizes of a network for frames of a size.

    Attributes:
        channels: of the stem's grid. stem: its neurons. size: height and width of a frame.
    """

    channels: int
    stem: int
    size: tuple[int, int]

    def __post_init__(self) -> None:
        if not (1 <= self.channels <= MAX_CHANNELS and 1 <= self.stem <= MAX_STEM):
            raise ValueError(f"nervpp: expected a network of ours, got {self}")

    @property
    def strides(self) -> list[int]:
        """Of the blocks: their product brings about BASE_ROWS rows to the frame's height."""
        left, found = self.size[0] / BASE_ROWS, []
        while left >= 1.5 and len(found) < MAX_BLOCKS:
            fitting = [s for s in STRIDES if s <= left + 0.5] or [2]
            found.append(fitting[0] if not found else min(fitting[0], 2))
            left /= found[-1]
        return found or [1]

    @property
    def grid(self) -> tuple[int, int]:
        factor = math.prod(self.strides)
        return -(-self.size[0] // factor), -(-self.size[1] // factor)

    @property
    def widths(self) -> list[int]:
        """Channels before the first block and after each."""
        found = [self.channels]
        for index in range(len(self.strides)):
            narrow = self.channels // SHRINK**index
            found.append(max(narrow, min(LEAST_CHANNELS, self.channels)))
        return found

    @property
    def shapes(self) -> Shapes:
        rows, columns = self.grid
        shapes: list[tuple[int, ...]] = [(2 * self.stem, 2 * FREQUENCIES), (2 * self.stem,)]
        shapes += [(rows * columns * self.channels, self.stem), (rows * columns * self.channels,)]
        for before, after, stride in zip(
            self.widths[:-1], self.widths[1:], self.strides, strict=True
        ):
            wide = 8 * after // 3
            shapes += [
                (after, before, 1, 1), (after,),
                (2 * wide, after, 1, 1), (2 * wide,),
                (after, 1, 5, 5), (after,),
                (after, wide, 1, 1), (after,),
                (after * stride**2, after, 3, 3), (after * stride**2,),
                (after, 1, 3, 3), (after,),
                (after, after, 1, 1), (after,), (after, after, 1, 1), (after,),
            ]  # fmt: skip
        return (*shapes, (3, self.widths[-1], 1, 1), (3,))

    @staticmethod
    def for_clip(shape: tuple[int, int, int], lmbda: float) -> Design:
        """The widest network with no more parameters than the pixels and the lambda allow."""
        group, height, width = shape
        wanted = DENSITY * group * height * width * math.sqrt(LAMBDA / lmbda)
        best = Design(LEAST_CHANNELS, 4, (height, width))
        for channels in range(LEAST_CHANNELS + 1, MAX_CHANNELS + 1):
            design = Design(channels, min(MAX_STEM, max(4, channels)), (height, width))
            if weight_stream.count(design.shapes) > wanted:
                break
            best = design
        return best


class NervppCodec:
    """NeRV++ as a codec of groups of frames (see `group_codec.GroupCodec`)."""

    name = "nervpp"

    def __init__(self, preset: str, lmbda: float, seed: int) -> None:
        self._steps, self._lmbda, self._seed = steps_of(preset, STEPS), lmbda, seed

    def encode(
        self, frames: Frames, state: State, *, progress: Progress | None = None
    ) -> tuple[bytes, Quantised]:
        shape = frames.shape[:3]
        design = Design.for_clip(shape, self._lmbda)
        before = _fitting(state, design)
        target = torch.from_numpy(frames).permute(0, 3, 1, 2).float() / 255
        start = new_weights(design, self._seed) if before is None else before.tensors()
        weights = _fit(design, start, target, self._steps, self._seed, before, progress)
        head = _HEAD.pack(MAGIC, design.channels, design.stem)
        return head + weight_stream.encode(weights, before), weights

    def decode(
        self, payload: bytes, shape: tuple[int, int, int], state: State
    ) -> tuple[Frames, Quantised]:
        if len(payload) < _HEAD.size or not payload.startswith(MAGIC):
            raise ValueError(f"expected a group of NeRV++, got {payload[:4]!r}")
        _, channels, stem = _HEAD.unpack_from(payload)
        design = Design(channels, stem, shape[1:])
        before = _fitting(state, design)
        weights = weight_stream.decode(payload[_HEAD.size :], design.shapes, before)
        return frames_from(design, weights, shape[0]), weights


def _fitting(state: State, design: Design) -> Quantised | None:
    """The network of the group before if it is of this design: else there is none to build on."""
    return state if state is not None and state.shapes == tuple(design.shapes) else None


def new_weights(design: Design, seed: int) -> list[Tensor]:
    """Tensors as a network starts with: variance of He et al. 2015, biases 0."""
    rng = torch.Generator().manual_seed(seed)
    start = [
        seeded_uniform(s, math.sqrt(3 / math.prod(s[1:])) if len(s) > 1 else 0.0, rng)
        for s in design.shapes
    ]
    start[-2] *= 0.1  # Where tanh is flat nothing is learned any more.
    return start


def times(frames: int) -> Tensor:
    """[T, 80] sines and cosines of pi 1.25^i t, t from 0 to 1."""
    t = torch.arange(frames, dtype=torch.float64) / max(frames - 1, 1)
    phase = math.pi * GROWTH ** torch.arange(FREQUENCIES, dtype=torch.float64) * t[:, None]
    return torch.cat([phase.sin(), phase.cos()], 1).float()


def network(design: Design, tensors: list[Tensor], at: Tensor) -> Tensor:
    """[N, 3, H, W] colours in [0, 1] at times [N, 80]."""
    first, bias, second, bias2, *rest = tensors
    x, gate = F.linear(at, first, bias).chunk(2, 1)
    x = F.linear(x * F.gelu(gate), second, bias2)
    x = x.reshape(len(at), design.channels, *design.grid)
    for index, stride in enumerate(design.strides):
        x = _block(x, stride, rest[16 * index : 16 * (index + 1)])
    x = torch.tanh(F.conv2d(x, rest[-2], rest[-1]))
    return (x[..., : design.size[0], : design.size[1]] + 1) / 2


def _block(x: Tensor, stride: int, t: list[Tensor]) -> Tensor:
    """Projection, gated separable part, upsampling, second separable part, bilinear skip."""
    x = res = F.conv2d(x, t[0], t[1])
    wide, channels = t[6].shape[1], x.shape[1]
    gate, rest = F.conv2d(x, t[2], t[3]).split([wide, wide], 1)
    same, mixed = rest.split([wide - channels, channels], 1)
    mixed = F.conv2d(mixed, t[4], t[5], padding=2, groups=channels)
    x = x + F.conv2d(F.gelu(gate) * torch.cat([same, mixed], 1), t[6], t[7])
    x = F.silu(F.pixel_shuffle(F.conv2d(x, t[8], t[9], padding=1), stride))
    y = F.conv2d(x, t[10], t[11], padding=1, groups=channels)
    x = x + F.conv2d(F.gelu(F.conv2d(y, t[12], t[13])), t[14], t[15])
    if stride == 1:
        return x + res
    return x + F.interpolate(res, scale_factor=stride, mode="bilinear", align_corners=False)


def _fit(
    design: Design,
    start: list[Tensor],
    target: Tensor,
    steps: int,
    seed: int,
    before: Quantised | None,
    progress: Progress | None,
) -> Quantised:
    """Train, prune by magnitude, fine-tune what is left through the rounding."""
    params = [t.clone().requires_grad_() for t in start]
    adam = torch.optim.Adam(params, lr=RATE, betas=BETAS)
    rng, at = torch.Generator().manual_seed(seed), times(len(target))
    turn = steps - max(1, round(TUNE_SHARE * steps))
    masks: list[Tensor] | None = None
    sizes: list[int] = []
    for step in range(steps):
        if progress is not None and step % 10 == 0:
            progress("fitting", step / steps)
        if step == turn:
            masks = _masks(params)
            sizes = [_step(p.detach() * m) for p, m in zip(params, masks, strict=True)]
        span, done = (turn, step) if step < turn else (steps - turn, step - turn)
        rate = cosine_rate(done, span, RATE if step < turn else RATE / 2)
        for group in adam.param_groups:
            group["lr"] = rate * min(1.0, 0.1 + done / max(1.0, WARM_UP * span))
        used = params if masks is None else _rounded(params, masks, sizes)
        pick = torch.randperm(len(target), generator=rng)[:FRAMES_A_STEP]
        loss = _loss(network(design, used, at[pick]), target[pick])
        adam.zero_grad()
        loss.backward()
        adam.step()
    assert masks is not None
    values = torch.cat([(p.detach() * m).reshape(-1) for p, m in zip(params, masks, strict=True)])
    return quantise(values.double().numpy(), sizes, tuple(design.shapes), before)


def _masks(params: list[Tensor]) -> list[Tensor]:
    """1 for the largest of all tensors together; and for all biases, and what makes colours.

    Magnitudes count in spreads that their layer begins with: the paper's wide layers begin alike,
    but in narrow ones the plain magnitude would take all of the first, and time with it.
    """
    scaled = [p.detach().abs() * math.sqrt(math.prod(p.shape[1:])) for p in params]
    pruned = [p.ndim > 1 and i < len(params) - 2 for i, p in enumerate(params)]
    flat = torch.cat([s.reshape(-1) for s, p in zip(scaled, pruned, strict=True) if p])
    least = flat.kthvalue(max(1, round((1 - KEEP) * len(flat)))).values
    return [(s > least).float() if p else torch.ones_like(s)
            for s, p in zip(scaled, pruned, strict=True)]  # fmt: skip


def _step(values: Tensor) -> int:
    """The step at which the largest magnitude has BITS bits."""
    most = max(float(values.abs().max()), 1e-6)
    found = math.ceil(PER_OCTAVE * (math.log2(most) - math.log2(2**BITS - 1)))
    return min(max(found, MIN_STEP), MAX_STEP)


def _rounded(params: list[Tensor], masks: list[Tensor], sizes: list[int]) -> list[Tensor]:
    """The parameters as a file has them, the gradient straight through."""
    found = []
    for p, mask, size in zip(params, masks, sizes, strict=True):
        step = weight_stream.step_size(size)
        units = p * mask / step
        found.append((units + (units.round() - units).detach()) * step)
    return found


def _loss(found: Tensor, truth: Tensor) -> Tensor:
    """0.7 L1 + 0.3 (1 - SSIM), the latter over windows of 8 pixels as they come."""
    x, y = F.avg_pool2d(found, 8, 4), F.avg_pool2d(truth, 8, 4)
    xx, yy, xy = (F.avg_pool2d(a * b, 8, 4) for a, b in
                  ((found, found), (truth, truth), (found, truth)))  # fmt: skip
    variance, covariance = xx - x * x + yy - y * y, xy - x * y
    c1, c2 = 0.01**2, 0.03**2
    structure = (2 * covariance + c2) / (variance + c2)
    ssim = (2 * x * y + c1) / (x * x + y * y + c1) * structure
    return L1_SHARE * (found - truth).abs().mean() + (1 - L1_SHARE) * (1 - ssim.mean())


def frames_from(design: Design, weights: Quantised, count: int) -> Frames:
    """Frames [count, H, W, 3] uint8 that a network gives, one at a time."""
    tensors, at = weights.tensors(), times(count)
    with torch.no_grad():
        found = [network(design, tensors, at[i : i + 1])[0] for i in range(count)]
    pictures = torch.stack(found).permute(0, 2, 3, 1)
    return (255 * pictures).round().clamp(0, 255).byte().numpy()

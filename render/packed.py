"""Gaussians in a quarter of the memory, rendered without being unpacked where there is a GPU.

At degree 3 a Gaussian takes 68 bytes with int8 harmonics, 22 with a palette, 116 in half precision;
236 as floats.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor

from . import _native
from .sh import basis_count
from .splat import (
    DEFAULTS,
    RasterOptions,
    backend_of,
    checked,
    full_backgrounds,
    native_settings,
    rasterize,
)

BLOCK = _native.CUDA["pack_block"]
FORMATS = {"int8": 1, "half": 2, "palette": 3}  # As PACKED_SH in native/packed.h.
QUAT_MAX = 1023  # Ten bits.
MOST_CODEWORDS = 1 << 16


@dataclass(frozen=True)
class PackedGaussians:
    """N Gaussians; blocks are of 256 consecutive ones, so neighbours belong side by side.

    Attributes:
        means: [N, 3] int16, the bits of unsigned steps from the block's origin.
        quats: [N] int32, the smallest three components in 10 bits each, in the upper two bits
            which is absent; it is positive.
        scales: [N, 3] uint8 steps of the logarithm.
        opacities: [N] uint8 / 255.
        sh0: [N, 3] float16.
        shN: [N, R] int8 or float16, with indices [P, R] float16: 3 (K - 1) numbers and zeros up to
            whole 16 bytes, which the kernel reads at once.
        blocks: [B, 8] float32: origin, steps, least log scale, its step.
        bases: K, SH bases.
        sh_steps: [K - 1, 3] float32 of int8, else None.
        indices: [N] int16, the bits of unsigned rows of a palette shN, else None.
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor
    blocks: Tensor
    bases: int
    sh_steps: Tensor | None = None
    indices: Tensor | None = None

    @property
    def format(self) -> str:
        """How the harmonics above degree 0 are stored: one of FORMATS."""
        if self.indices is not None:
            return "palette"
        return "half" if self.sh_steps is None else "int8"

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        """By name, without those that this format has not."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in named.items() if isinstance(t, Tensor)}

    def to(self, device: torch.device | str) -> PackedGaussians:
        """The same on another device."""
        return replace(self, **{name: t.to(device) for name, t in self.tensors().items()})

    def unpack(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, quats, scales, opacities and SH colors as `rasterize` takes them."""
        block = self.blocks.repeat_interleave(BLOCK, 0)[: len(self.means)]
        steps = (self.means.int() & 0xFFFF).float()
        means = block[:, :3] + block[:, 3:6] * steps
        scales = torch.exp(block[:, 6:7] + block[:, 7:] * self.scales.float())
        rest = self.shN[:, : 3 * (self.bases - 1)].float().unflatten(1, (self.bases - 1, 3))
        if self.sh_steps is not None:
            rest = rest * self.sh_steps
        elif self.indices is not None:
            rest = rest[self.indices.long() & 0xFFFF]
        colors = torch.cat([self.sh0.float()[:, None], rest], 1)
        return means, _unpacked_quats(self.quats), scales, self.opacities.float() / 255, colors


def pack(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor,
    half: bool = False,
    palette: tuple[Tensor, Tensor] | None = None,
) -> PackedGaussians:
    """Rounds Gaussians to their packed form, on the device on which they lie.

    Args:
        means: [N, 3] float32. Sorted along a curve they are rounded finer.
        quats: [N, 4] float32 wxyz, of any length but 0.
        scales: [N, 3] float32, linear, positive.
        opacities: [N] float32 in [0, 1].
        colors: [N, K, 3] float32 SH; with a palette only colors[:, 0] is read.
        half: higher harmonics as float16 rather than int8 with steps by coefficient.
        palette: codewords [P, K - 1, 3] float32, P up to 65,536, and indices [N] int64 into them.

    Raises:
        ValueError: a shape, dtype or value that does not fit, by argument.
    """
    n, on = len(means), means.device
    values = (
        checked("means", means, (n, 3), on),
        checked("quats", quats, (n, 4), on),
        checked("scales", scales, (n, 3), on),
        checked("opacities", opacities, (n,), on),
        checked("colors", colors, (n, *colors.shape[1:2], 3), on),
    )
    for name, value in zip(
        ("means", "quats", "scales", "opacities", "colors"), values, strict=True
    ):
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"{name}: expected finite numbers, got NaN or infinity")
    if bool((scales <= 0).any()):
        raise ValueError("scales: expected positive numbers, got one that is not")
    logs = values[2].log()
    low, step = _least_and_step(values[0], 0xFFFF)
    log_low, log_step = _least_and_step(logs, 0xFF)
    log_top = (log_low + 0xFF * log_step).amax(1, keepdim=True)
    log_low = log_low.amin(1, keepdim=True)  # The three axes share one range.
    blocks = torch.cat([low, step, log_low, (log_top - log_low) / 0xFF], 1)
    rows = blocks.repeat_interleave(BLOCK, 0)[:n]
    return PackedGaussians(
        means=_codes(values[0], rows[:, :3], rows[:, 3:6], 0xFFFF).to(torch.int16),
        quats=_packed_quats(values[1]),
        scales=_codes(logs, rows[:, 6:7], rows[:, 7:], 0xFF).to(torch.uint8),
        opacities=(values[3] * 255).round().clamp(0, 255).to(torch.uint8),
        sh0=values[4][:, 0].half(),
        blocks=blocks,
        bases=colors.shape[1] if palette is None else palette[0].shape[1] + 1,
        **_packed_rest(values[4][:, 1:], half, palette, n),
    )


def rasterize_packed(
    packed: PackedGaussians,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    options: RasterOptions = DEFAULTS,
) -> tuple[Tensor, Tensor]:
    """Image and alpha as from `rasterize` of `unpack()`, without gradients.

    On CUDA each kernel reads the packed form; on the CPU the scene is unpacked for the call.
    options.sh_degree None stands for the packed degree.

    Raises:
        ValueError: a shape, dtype, device or value that does not fit, by argument.
    """
    degree = next(d for d in range(_native.MAX_SH_DEGREE + 1) if basis_count(d) == packed.bases)
    options = replace(options, sh_degree=degree if options.sh_degree is None else options.sh_degree)
    on = packed.means.device
    if on.type == "cpu" and backend_of(on) is _native:
        image, alpha, _ = rasterize(*packed.unpack(), viewmats, Ks, width, height, options)
        return image, alpha
    return _draw(packed, viewmats, Ks, native_settings(width, height, options), options)


def _draw(
    packed: PackedGaussians,
    viewmats: Tensor,
    Ks: Tensor,
    settings: _native.Settings,
    options: RasterOptions,
) -> tuple[Tensor, Tensor]:
    from .splat_cuda import Shot  # As in `backend_of`.

    on, count = packed.means.device, len(viewmats)
    views = checked("viewmats", viewmats, (count, 4, 4), on)
    Ks = checked("Ks", Ks, (count, 3, 3), on)
    if options.has_color and basis_count(settings.sh_degree) > packed.bases:
        raise ValueError(f"sh_degree: expected at most what {packed.bases} bases hold, got more")
    settings.color_channels = 3 if options.has_color else 0
    channels = settings.color_channels + options.has_depth
    scene = {f"packed_{name}": t.data_ptr() for name, t in packed.tensors().items()}
    scene |= {"count": len(packed.means), "color_stride": packed.shN.shape[1]}
    shot = Shot(scene, None, views, Ks, settings, (("PACKED_SH", FORMATS[packed.format]),))
    image = torch.empty(count, settings.height, settings.width, channels, device=on)
    alpha = torch.empty(count, settings.height, settings.width, 1, device=on)
    backgrounds = full_backgrounds(options, count, channels, settings.color_channels, on)
    backend_of(on).draw(shot, backgrounds, image, alpha)
    return image, alpha


def _least_and_step(values: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """[B, D] of blocks of rows [N, D]: the least values; the step that makes `most` to the top."""
    n, width = values.shape
    blocks = -(-n // BLOCK)
    filled = values.new_full((blocks * BLOCK, width), torch.inf)
    filled[:n] = values
    low = filled.reshape(blocks, BLOCK, width).amin(1)
    filled[n:] = -torch.inf
    high = filled.reshape(blocks, BLOCK, width).amax(1)
    return low, (high - low) / most


def _codes(values: Tensor, low: Tensor, step: Tensor, most: int) -> Tensor:
    """Int32 steps from the least value; 0 where all values of a block are the same."""
    steps = (values - low) / step.clamp_min(torch.finfo(torch.float32).tiny)
    return steps.round().clamp(0, most).int()


def _packed_rest(
    rest: Tensor, half: bool, palette: tuple[Tensor, Tensor] | None, n: int
) -> dict[str, Tensor]:
    if palette is not None:
        codewords, indices = palette
        most = min(len(codewords), MOST_CODEWORDS)
        if indices.shape != (n,) or bool(((indices < 0) | (indices >= most)).any()):
            raise ValueError(f"palette: expected {n} indices below {most}, got others")
        return {"shN": _padded(codewords.half()), "indices": indices.int().to(torch.int16)}
    if half:
        return {"shN": _padded(rest.half())}
    steps = rest.abs().amax(0) / 127 if n else rest.new_zeros(rest.shape[1:])
    codes = (rest / steps.clamp_min(torch.finfo(torch.float32).tiny)).round().clamp(-127, 127)
    return {"shN": _padded(codes.to(torch.int8)), "sh_steps": steps}


def _padded(rows: Tensor) -> Tensor:
    """[N, R] of rows [N, K - 1, 3], each a whole number of 16 bytes."""
    flat = rows.flatten(1)
    each = 16 // flat.element_size()
    return torch.nn.functional.pad(flat, (0, -flat.shape[1] % each)).contiguous()


def _packed_quats(quats: Tensor) -> Tensor:
    unit = torch.nn.functional.normalize(quats, dim=1)
    absent = unit.abs().argmax(1)
    unit = unit * torch.where(unit.gather(1, absent[:, None]) < 0, -1.0, 1.0)
    kept = torch.arange(4, device=quats.device)[None] != absent[:, None]
    rest = unit[kept].reshape(-1, 3)
    codes = ((rest * 2**0.5 + 1) * (QUAT_MAX / 2)).round().clamp(0, QUAT_MAX).long()
    bits = codes[:, 0] | codes[:, 1] << 10 | codes[:, 2] << 20 | absent << 30
    return torch.where(bits >= 1 << 31, bits - (1 << 32), bits).to(torch.int32)


def _unpacked_quats(bits: Tensor) -> Tensor:
    wide = bits.long() & 0xFFFFFFFF
    absent = wide >> 30
    shifts = torch.tensor([0, 10, 20], device=bits.device)
    rest = ((wide[:, None] >> shifts) & QUAT_MAX).float() * (2**0.5 / QUAT_MAX) - 2**0.5 / 2
    quats = rest.new_empty(len(bits), 4)
    kept = torch.arange(4, device=bits.device)[None] != absent[:, None]
    quats[kept] = rest.reshape(-1)
    largest = (1 - rest.square().sum(1)).clamp_min(0).sqrt()
    return quats.scatter(1, absent[:, None], largest[:, None])

"""Fitting latents and networks to pictures: noise that anneals, then rounding, nets alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .latent_model import Codec, Design
from .soap import Soap


@dataclass(frozen=True)
class Schedule:
    """Of a fit: how many steps, and rates and noise at its beginning and end."""

    steps: int = 2000
    tail: int = 200
    latent_rate: float = 0.16
    net_rate: float = 0.01
    temperature: tuple[float, float] = (0.35, 0.08)
    noise: tuple[float, float] = (0.22, 0.15)


def soft_round(x: Tensor, temperature: float) -> Tensor:
    """Towards the nearest whole number, the sharper the colder (Agustsson and Theis 2020)."""
    floor = x.floor()
    over = 0.5 / math.tanh(0.5 / temperature)
    return floor + 0.5 + ((x - floor - 0.5) / temperature).tanh() * over


class NoisePool:
    """Gaussian noise, drawn once and read from other places each time."""

    def __init__(self, count: int, seed: int) -> None:
        self._rng = torch.Generator().manual_seed(seed)
        self._pool = torch.randn(count + (1 << 16), generator=self._rng)

    def take(self, count: int) -> Tensor:
        start = int(torch.randint(0, 1 << 16, (), generator=self._rng))
        return self._pool[start : start + count]


def matrices(design: Design, flat: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """Views of parameters: matrices that are preconditioned, and the other ones."""
    parts = design.split(flat)
    big, small = [], [parts["levels"], parts["kernels"]]
    for name, shape in (
        ("context", design.context_shape),
        ("mix", design.mix_shape),
        ("filter0", design.filter_shape),
        ("filter1", design.filter_shape),
    ):
        for view in shape.views(parts[name]):
            (small if view.shape[1] == 1 else big).append(view)
    return big, small


def fit(
    codec: Codec,
    target: Tensor,
    start: Tensor,
    lmbda: float,
    schedule: Schedule,
    seed: int = 0,
    watch: Callable[[int, float, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Latents [N], whole numbers, and parameters [P] for a picture [3, H, W] in 0..1.

    The loss is the mean squared error plus `lmbda` times the bits of latents a pixel.
    """
    pixels = target.shape[1] * target.shape[2]
    latents = torch.zeros(codec.grids.count, requires_grad=True)
    flat = start.clone().requires_grad_()
    pool = NoisePool(codec.grids.count, seed)
    adam = torch.optim.Adam([latents], lr=schedule.latent_rate, fused=True)
    soap = Soap(*matrices(codec.design, flat.detach()), lr=schedule.net_rate)
    flat.grad = torch.zeros_like(flat)
    grads = matrices(codec.design, flat.grad)
    for step in range(schedule.steps):
        part = step / schedule.steps
        cosine = 0.5 * (1 + math.cos(math.pi * part))
        temperature = _between(schedule.temperature, part)
        soft = soft_round(latents, temperature)
        soft = soft + pool.take(len(latents)) * _between(schedule.noise, part)
        soft = soft_round(soft, temperature)
        bits, error = _losses(codec, soft, flat, target)
        loss = error + lmbda / pixels * bits
        flat.grad.zero_()
        latents.grad = None
        loss.backward()
        adam.param_groups[0]["lr"] = schedule.latent_rate * cosine
        adam.step()
        soap.step(*grads, schedule.net_rate * cosine)
        if watch:
            watch(step, float(error.detach()), float(bits.detach()))
    return _tail(codec, latents.detach().round(), flat.detach(), target, lmbda, schedule, watch)


def _tail(codec, latents, flat, target, lmbda, schedule, watch):
    """Networks alone, on latents as they are coded."""
    pixels = target.shape[1] * target.shape[2]
    best, kept = math.inf, flat.clone()
    flat = flat.clone().requires_grad_()
    adam = torch.optim.Adam([flat], lr=1e-3, betas=(0.9, 0.99))
    for step in range(schedule.tail + 1):
        bits, error = _losses(codec, latents, flat, target)
        loss = error + lmbda / pixels * bits
        if float(loss.detach()) < best:
            best, kept = float(loss.detach()), flat.detach().clone()
        if step == schedule.tail:
            break
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = 1e-3 * (1 - step / schedule.tail)
        adam.step()
        if watch:
            watch(schedule.steps + step, float(error.detach()), float(bits.detach()))
    return latents, kept


def _losses(codec: Codec, latents: Tensor, flat: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    parts = codec.design.split(flat)
    error = torch.nn.functional.mse_loss(codec.picture(latents, parts), target)
    return codec.bits(latents, parts), error


def _between(ends: tuple[float, float], part: float) -> float:
    return ends[0] + (ends[1] - ends[0]) * part

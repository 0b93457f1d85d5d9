"""Gaussians over a field's latents: what they cost, and how samples become a network's inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .bayes_shape import Shape

Levels = Mapping[str, Tensor]


@dataclass(frozen=True)
class Gaussians:
    """Independent Gaussians, by level of the hierarchy: "global", "group", "patch".

    Attributes:
        mean: [S, rows, n] of a posterior or [n] of a prior.
        log_std: likewise.
    """

    mean: dict[str, Tensor]
    log_std: dict[str, Tensor]

    def parameters(self) -> list[Tensor]:
        return [*self.mean.values(), *self.log_std.values()]

    def sample(self, generator: torch.Generator) -> dict[str, Tensor]:
        """One of each, differentiable by both parameters."""
        found = {}
        for level, mean in self.mean.items():
            noise = torch.randn(mean.shape, generator=generator)
            found[level] = mean + self.log_std[level].exp() * noise
        return found


def kl_nats(posterior: Gaussians, prior: Gaussians) -> dict[str, Tensor]:
    """KL(posterior | prior) of every dimension, [S, rows, n] by level."""
    found = {}
    for level, mean in posterior.mean.items():
        ratio = posterior.log_std[level] - prior.log_std[level]
        apart = (mean - prior.mean[level]) * (-prior.log_std[level]).exp()
        found[level] = 0.5 * ((2 * ratio).exp() + apart.square() - 1) - ratio
    return found


def inputs_of(shape: Shape, values: Levels, grid: Sequence[int]) -> tuple[Tensor, Tensor | None]:
    """Weights' latents [S, patches, weights], summed over levels, and positional ones or None."""
    patch = values["patch"]
    h, z = patch[..., : shape.weights], patch[..., shape.weights :]
    if shape.group:
        groups = torch.from_numpy(shape.groups(grid))
        h = h + values["group"][:, groups] + values["global"]
    return h, z if shape.positional else None

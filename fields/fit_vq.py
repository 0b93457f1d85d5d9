"""A vector-quantised autoencoder of a scene's own views (van den Oord et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ..scenes.cameras import Cameras
from . import vq

DECAY = 0.98  # Of a code's share and sum from one batch to the next.
DEAD = 0.2  # Latents of a batch, on average, below which a code moves to where some are.
COMMITMENT = 0.25
EDGES = 0.1  # Weight of the differences between neighbouring pixels.
RATE = 3e-3


class Codebook:
    """Codes that follow the latents that choose them: means over a fading past.

    Code 0 of each group is zero and stays so: empty space is black.

    Attributes:
        codes: [G, K, s].
    """

    def __init__(self, groups: int, count: int, size: int, rng: torch.Generator) -> None:
        self.codes = torch.zeros(groups, count, size)
        self._weight = torch.zeros(groups, count)
        self._sum = torch.zeros(groups, count, size)
        self._rng = rng

    def quantise(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        """Maps [B, d, h, w] of codes, gradients straight through, and what commitment costs."""
        flat = latents.detach().movedim(1, 3).flatten(0, 2)
        if not self._weight.any():
            self._revive(flat, torch.ones_like(self._weight, dtype=torch.bool))
        found = vq.quantised(latents, self.codes)
        commitment = (latents - found).square().mean()
        self._follow(flat, vq.nearest(flat, self.codes))
        return latents + (found - latents).detach(), commitment

    def _follow(self, flat: Tensor, index: Tensor) -> None:
        parts = flat.reshape(len(flat), len(self.codes), -1)
        self._weight *= DECAY
        self._sum *= DECAY
        for g in range(len(self.codes)):
            self._weight[g].index_add_(0, index[:, g], torch.full((len(flat),), 1 - DECAY))
            self._sum[g].index_add_(0, index[:, g], (1 - DECAY) * parts[:, g])
        self._revive(flat, self._weight < DEAD)
        self.codes = self._sum / self._weight[..., None].clamp_min(1e-12)
        self.codes[:, 0] = 0

    def _revive(self, flat: Tensor, dead: Tensor) -> None:
        """Codes that nothing chooses go to latents drawn at random."""
        parts = flat.reshape(len(flat), len(self.codes), -1)
        for g in range(len(self.codes)):
            which = dead[g].nonzero()[:, 0]
            pick = torch.randint(len(flat), (len(which),), generator=self._rng)
            self._weight[g, which] = 1.0
            self._sum[g, which] = parts[pick, g]
            self.codes[g, which] = parts[pick, g]
        self.codes[:, 0] = 0


@dataclass(frozen=True)
class Crop:
    """Pieces of photographs.

    Attributes:
        pictures: [B, 3, H, W] in [0, 1].
        origins, rays_d: [B * h * w, 3] of the rays through the middle of each block of ratio x
            ratio pixels, world units.
    """

    pictures: Tensor
    origins: Tensor
    rays_d: Tensor


class Crops:
    """Draws pieces of photographs at any whole pixel."""

    def __init__(self, images: Tensor, cameras: Cameras, blocks: int, ratio: int) -> None:
        """`blocks` a side, fewer where photographs are smaller; images [C, H, W, 3]."""
        self._images = (255 * images).round().byte()
        self._cameras, self.ratio = cameras, ratio
        self.rows = min(blocks, cameras.height // ratio)
        self.columns = min(blocks, cameras.width // ratio)
        if not self.rows or not self.columns:
            raise ValueError(f"ratio: expected at most the photographs' sides, got {ratio}")

    def draw(self, count: int, rng: torch.Generator) -> Crop:
        pictures, rays = [], []
        for _ in range(count):
            view, y, x = (
                int(torch.randint(most, (1,), generator=rng))
                for most in (
                    len(self._images), self._cameras.height - self.rows * self.ratio + 1,
                    self._cameras.width - self.columns * self.ratio + 1,
                )
            )  # fmt: skip
            rows = slice(y, y + self.rows * self.ratio)
            columns = slice(x, x + self.columns * self.ratio)
            pictures.append(self._images[view, rows, columns].movedim(2, 0).float() / 255)
            rays.append(self._rays(view, y, x))
        origins, rays_d = (torch.cat(part) for part in zip(*rays, strict=True))
        return Crop(torch.stack(pictures), origins, rays_d)

    def _rays(self, view: int, top: int, left: int) -> tuple[Tensor, Tensor]:
        viewmat, K = self._cameras.viewmats[view], self._cameras.Ks[view]
        y, x = torch.meshgrid(
            top + (torch.arange(self.rows) + 0.5) * self.ratio,
            left + (torch.arange(self.columns) + 0.5) * self.ratio, indexing="ij",
        )  # fmt: skip
        local = torch.stack([(x - K[0, 2]) / K[0, 0], (y - K[1, 2]) / K[1, 1], torch.ones_like(x)])
        rays_d = functional.normalize(local.flatten(1).T @ viewmat[:3, :3], dim=1)
        return self._cameras[view : view + 1].positions.expand(len(rays_d), 3), rays_d


class Autoencoder:
    """Encoder, codebook and decoder under training.

    Attributes:
        encoder, decoder: matrices [out, 9 in] of convolutions.
        codebook: of the latents.
        ratio: pixels of a latent, each way.
    """

    def __init__(
        self, ratio: int, width: int, groups: int, codes: int, size: int, seed: int
    ) -> None:
        rng = torch.Generator().manual_seed(seed)
        latent, pixels = groups * size, 3 * ratio**2
        self.ratio = ratio
        self.encoder = vq.new_convolutions([pixels, width, width, latent], seed)
        self.decoder = vq.new_convolutions([3 + latent, width, width, pixels], seed + 1)
        self.codebook = Codebook(groups, codes, size, rng)
        for weight in self.parameters():
            weight.requires_grad_()

    def parameters(self) -> Iterable[Tensor]:
        return (*self.encoder, *self.decoder)

    def loss(self, pictures: Tensor) -> Tensor:
        """Of pictures [B, 3, H, W] through the bottleneck."""
        latents = vq.latents_of(pictures, self.encoder, self.ratio)
        codes, commitment = self.codebook.quantise(latents)
        centers = vq.centers_of(pictures, self.ratio)
        found = vq.pixels_of(codes, centers, self.decoder, self.ratio)
        return distance(found, pictures) + COMMITMENT * commitment

    def fit(self, crops: Crops, steps: int, count: int, rng: torch.Generator) -> None:
        """Learn from `count` random pieces a step; latents begin with a deviation of about 1."""
        first = vq.latents_of(crops.draw(count, rng).pictures, self.encoder, self.ratio)
        self.encoder[-1].data /= float(first.detach().std().clamp_min(1e-6))
        adam = torch.optim.Adam(self.parameters(), lr=RATE, betas=(0.9, 0.99))
        for step in range(steps):
            for group in adam.param_groups:
                group["lr"] = RATE * (1 - 0.9 * step / steps)
            loss = self.loss(crops.draw(count, rng).pictures)
            adam.zero_grad()
            loss.backward()
            adam.step()


def distance(found: Tensor, wanted: Tensor) -> Tensor:
    """Mean squared errors of pictures [B, 3, H, W], and of their differences along both axes."""
    error = found - wanted
    edges = error.diff(dim=2).square().mean() + error.diff(dim=3).square().mean()
    return error.square().mean() + EDGES * edges

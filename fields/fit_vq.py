"""A vector-quantised autoencoder of a scene's own views (van den Oord et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, dataclass, replace

import torch
from torch import Tensor

from ..scenes.cameras import Cameras
from . import vq
from .sdf import pixel_rays

DECAY = 0.98  # Of a code's share and sum from one batch to the next.
DEAD = 0.2  # Latents of a batch, on average, below which a code moves to where some are.
COMMITMENT = 0.25
SEEN = 16  # Pieces that the first components are of.
EDGES = 0.1  # Weight of the differences between neighbouring pixels.
RATE = 1e-3


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
        index = vq.nearest(flat, self.codes)
        batch, _, height, width = latents.shape
        found = vq.looked_up(index, self.codes).reshape(batch, height, width, -1).movedim(3, 1)
        commitment = (latents - found).square().mean()
        self._follow(flat, index)
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


@dataclass(frozen=True)
class Crops:
    """Pieces of photographs, at any whole pixel.

    Attributes:
        images: [C, H, W, 3] uint8.
        cameras: theirs.
        ratio: pixels of a block, each way.
        rows, columns: of a piece, in blocks.
    """

    images: Tensor
    cameras: Cameras
    ratio: int
    rows: int
    columns: int

    @staticmethod
    def of(images: Tensor, cameras: Cameras, blocks: int, ratio: int) -> Crops:
        """Pieces of `blocks` a side, fewer where photographs [C, H, W, 3] in [0, 1] are smaller."""
        rows, columns = cameras.height // ratio, cameras.width // ratio
        if not rows or not columns:
            raise ValueError(f"ratio: expected at most the photographs' sides, got {ratio}")
        stored = (255 * images).round().byte()
        return Crops(stored, cameras, ratio, min(blocks, rows), min(blocks, columns))

    def draw(self, count: int, rng: torch.Generator) -> Crop:
        """Pieces of random photographs at random places."""
        most = (
            len(self.images), self.cameras.height - self.rows * self.ratio + 1,
            self.cameras.width - self.columns * self.ratio + 1,
        )  # fmt: skip
        pieces = [
            self.piece(*(int(torch.randint(n, (1,), generator=rng)) for n in most))
            for _ in range(count)
        ]
        return Crop(*(torch.cat(part) for part in zip(*map(astuple, pieces), strict=True)))

    def whole(self) -> Iterator[Crop]:
        """Each photograph, but for what its last blocks have no room for."""
        rows, columns = self.cameras.height // self.ratio, self.cameras.width // self.ratio
        pieces = replace(self, rows=rows, columns=columns)
        return (pieces.piece(view, 0, 0) for view in range(len(self.images)))

    def piece(self, view: int, top: int, left: int) -> Crop:
        height, width = self.rows * self.ratio, self.columns * self.ratio
        picture = self.images[view, top : top + height, left : left + width]
        K = self.cameras.Ks[view : view + 1].clone()
        K[:, :2, 2] -= K.new_tensor([left, top])
        K[:, :2] /= self.ratio
        viewmat = self.cameras.viewmats[view : view + 1]
        rays = pixel_rays(Cameras(viewmat, K, self.columns, self.rows))
        return Crop(picture.movedim(2, 0)[None].float() / 255, *rays)


class Blocks:
    """Rays through the middle of blocks of photographs, and what they should bring back."""

    def __init__(self, crops: Crops, encoder: Sequence[Tensor]) -> None:
        pieces = list(crops.whole())
        with torch.no_grad():
            maps = [
                torch.cat([
                    vq.centers_of(piece.pictures, crops.ratio),
                    vq.latents_of(piece.pictures, encoder, crops.ratio),
                ], 1)
                for piece in pieces
            ]  # fmt: skip
        self._wanted = torch.cat([m.movedim(1, 3).flatten(0, 2).half() for m in maps])
        self._origins = torch.stack([piece.origins[0] for piece in pieces])
        self._rays_d = torch.cat([piece.rays_d for piece in pieces])

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        """Origins and directions [count, 3] of random ones, colours and latents [count, 3 + d]."""
        pick = torch.randint(len(self._wanted), (count,), generator=rng)
        view = pick // (len(self._wanted) // len(self._origins))
        return self._origins[view], self._rays_d[pick], self._wanted[pick].float()


class Autoencoder:
    """Encoder, codebook and decoder under training; at first principal components.

    Attributes:
        encoder, decoder: matrices [out, 9 in] of convolutions.
        codebook: of the latents.
        ratio: pixels of a latent, each way.
        weight: the squared error of pixels for each of a latent, means of both.
    """

    def __init__(self, crops: Crops, width: int, groups: int, codes: int, size: int, seed: int):
        """Latents have `groups` * `size` numbers, of a deviation of about 1."""
        rng = torch.Generator().manual_seed(seed)
        self.ratio = crops.ratio
        detail = (
            vq.detail_of(crops.draw(SEEN, rng).pictures, self.ratio).movedim(1, 3).flatten(0, 2)
        )
        _, vectors = torch.linalg.eigh(detail.T @ detail)
        axes = vectors.flip(1)[:, : groups * size]
        scale = float((detail @ axes).std().clamp_min(1e-6))
        self.weight = scale**2 * groups * size / (3 * self.ratio**2)
        kernel = torch.zeros(axes.shape[1], len(axes), vq.TAPS)
        kernel[:, :, vq.TAPS // 2] = axes.T / scale
        self.encoder = (kernel.flatten(1),)
        self.decoder = vq.new_decoder(scale * axes, width, seed)
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
        return distance(found, pictures) + COMMITMENT * self.weight * commitment

    def fit(self, crops: Crops, steps: int, count: int, rng: torch.Generator) -> None:
        """Learn from `count` random pieces a step."""
        adam = torch.optim.Adam(self.parameters(), lr=RATE, betas=(0.9, 0.99), eps=1e-15)
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

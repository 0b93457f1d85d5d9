"""How photographs become a latent field and its decoder: the autoencoder, the field, both."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..scenes.cameras import Scene
from . import codec, vq, vq_sections
from .fit_nerf import (
    CELLS_EVERY,
    NerfSettings,
    NerfTrainer,
    Traced,
    coarsest,
    even_steps,
    touched_rows,
)
from .fit_vq import COMMITMENT, Autoencoder, Crops, distance
from .network import Network, cosine_rate
from .semantic import Features, random_features, semantic_loss
from .vq_nerf import VqNerfField

WARM = 0.2  # Of the steps: the field against the encoder's latents, without the decoder.
LATENTS = 0.02  # Weight of the difference to the encoder's latents.
MARGIN = 1  # Blocks of a piece's border, whose neighbours the decoder does not see.
DECODER_RATE = 2e-3
FIELD_SHARE = 0.75  # Of what rounding may cost: the field's; the rest is the decoder's.
FINE = 2.0**-5  # Of a decoder's steps, where they are to cost nothing.

Progress = Callable[[str, float], None]


@dataclass(frozen=True)
class VqSettings:
    """How a latent field is fitted.

    Attributes:
        nerf: of the field; its `steps` come after the autoencoder's, its `rays` of a step are at
            the photographs' own scale.
        ratio: pixels for each latent ray, each way.
        width: channels of the convolutions.
        groups, codes, size: a latent is `groups` parts of `size` numbers with `codes` codes each.
        autoencoder_steps: before the field's.
        blocks: sides of the pieces of photographs that a step decodes, in latents.
        crops: pieces of a step.
        pixels: weight of the loss of rays at the photographs' scale beside that of what is decoded.
        semantic: weight of the semantic loss.
    """

    nerf: NerfSettings = field(default_factory=NerfSettings)
    ratio: int = 4
    width: int = 32
    groups: int = 2
    codes: int = 256
    size: int = 4
    autoencoder_steps: int = 300
    blocks: int = 20
    crops: int = 2
    pixels: float = 0.5
    semantic: float = 1e-3

    def __post_init__(self) -> None:
        if self.ratio not in (2, 4, 8):
            raise ValueError(f"ratio: expected 2, 4 or 8, got {self.ratio}")
        limits = {"width": 256, "groups": 16, "codes": 1 << 16, "size": 16, "blocks": 512,
                  "crops": 64, "autoencoder_steps": 1 << 20}  # fmt: skip
        for name, most in limits.items():
            value = getattr(self, name)
            if not 1 <= value <= most:
                raise ValueError(f"{name}: expected 1 to {most}, got {value}")
        for name in ("pixels", "semantic"):
            if not 0 <= getattr(self, name) <= 100:
                raise ValueError(f"{name}: expected 0 to 100, got {getattr(self, name)}")


@dataclass(frozen=True)
class FittedVqNerf:
    """A latent field, which of its rows matter, steps for its file, and seconds of fitting."""

    model: VqNerfField
    used: codec.Used
    steps: codec.Steps
    seconds: float


class VqTrainer:
    """A latent field and its decoder under training."""

    def __init__(
        self, scene: Scene, settings: VqSettings, features: Features | None = None
    ) -> None:
        s = self.settings = settings
        self.field = NerfTrainer(scene, s.nerf, channels=3 + s.groups * s.size)
        assert scene.train_images is not None
        self.crops = Crops(scene.train_images, scene.train, s.blocks, s.ratio)
        self.auto = Autoencoder(s.ratio, s.width, s.groups, s.codes, s.size, s.nerf.seed)
        self._features = features or random_features(s.nerf.seed)
        self._rng = torch.Generator().manual_seed(s.nerf.seed + 2)
        self._adam = torch.optim.Adam(self.auto.decoder, betas=(0.9, 0.99))

    @property
    def model(self) -> VqNerfField:
        """A copy of what has been learned so far."""
        own = self.field
        weights, head, decoder = (
            tuple(w.detach().clone() for w in part)
            for part in (own.weights, own.head, self.auto.decoder)
        )
        network = Network(self.settings.nerf.encoding, own.table.clone(), weights)
        return VqNerfField(
            network, head, own.cells.clone(), own.low, own.edge, decoder=decoder,
            codes=self.auto.codebook.codes.clone(), ratio=self.settings.ratio,
        )  # fmt: skip

    def step(self, rate: float, *, decoding: bool) -> float:
        """One step of Adam on pieces of photographs and random rays; the loss, NaN if all missed.

        Args:
            rate: learning rate of the table; that of the decoder follows it.
            decoding: through the codebook and the decoder, which learn as well.
        """
        crop = self.crops.draw(self.settings.crops, self._rng)
        origins, rays_d, truth = self.field.draw()
        low, edge = origins.new_tensor(self.field.low), self.field.edge
        blocks = len(crop.rays_d)
        traced = self.field.trace(
            torch.cat([(crop.origins - low) / edge, origins]), torch.cat([crop.rays_d, rays_d])
        )
        if not len(traced.points):
            return math.nan
        loss = self.settings.pixels * (traced.values[blocks:, :3] - truth).square().mean()
        loss = loss + self._coarse_loss(traced.values[:blocks], crop.pictures, decoding)
        self._learn(loss, traced, rate, decoding)
        return float(loss.detach())

    def _coarse_loss(self, values: Tensor, pictures: Tensor, decoding: bool) -> Tensor:
        """Of colours and latents [B * h * w, channels] of blocks of pictures [B, 3, H, W]."""
        s, auto = self.settings, self.auto
        shape = (len(pictures), self.crops.rows, self.crops.columns, -1)
        maps = values.reshape(shape).movedim(3, 1)
        centers, latents = maps[:, :3], maps[:, 3:]
        with torch.no_grad():
            wanted = vq.latents_of(pictures, auto.encoder, s.ratio)
        loss = LATENTS * (latents - wanted).square().mean()
        if not decoding:
            return loss + (centers - vq.centers_of(pictures, s.ratio)).square().mean()
        codes, commitment = auto.codebook.quantise(latents)
        inner = [MARGIN * s.ratio] * 4 if min(maps.shape[2:]) > 2 * MARGIN else [0] * 4
        found = vq.pixels_of(codes, centers, auto.decoder, s.ratio)
        found, truth = (
            torch.nn.functional.pad(x, [-edge for edge in inner]) for x in (found, pictures)
        )
        loss = loss + distance(found, truth) + LATENTS * COMMITMENT * commitment
        if s.semantic:
            loss = loss + s.semantic * semantic_loss(found, truth, self._features)
        return loss

    def _learn(self, loss: Tensor, traced: Traced, rate: float, decoding: bool) -> None:
        self._adam.zero_grad()
        self.field.learn(loss, traced, rate)
        if decoding:
            for group in self._adam.param_groups:
                group["lr"] = DECODER_RATE * rate / self.settings.nerf.rate
            self._adam.step()


def fit_vq_nerf(
    scene: Scene,
    settings: VqSettings,
    *,
    features: Features | None = None,
    progress: Progress | None = None,
) -> FittedVqNerf:
    """Fit a latent field to photographs: autoencoder, field against its latents, both together.

    Args:
        scene: with training photographs.
        settings: what and how long.
        features: for the semantic loss; random convolutions where there are none.
        progress: called with a label and the share done.

    Raises:
        ValueError: for a scene without photographs, or one in which nothing was found.
    """
    start, own = time.perf_counter(), settings.nerf
    trainer = VqTrainer(scene, settings, features)
    if progress is not None:
        progress("autoencoder", 0)
    rng = torch.Generator().manual_seed(own.seed + 3)
    trainer.auto.fit(trainer.crops, settings.autoencoder_steps, settings.crops, rng)
    for step in range(own.steps):
        if progress is not None and step % 10 == 0:
            progress("fitting", step / own.steps)
        if step % CELLS_EVERY == 0 and step:
            trainer.field.look(everywhere=step < 8 * CELLS_EVERY)
        rate = cosine_rate(step, own.steps, own.rate)
        trainer.step(rate, decoding=step >= WARM * own.steps)
    trainer.field.look(everywhere=True)
    model = trainer.model
    used, points = touched_rows(model, scene.name)
    steps = _search_steps(model, used, scene, points, own.loss_db)
    return FittedVqNerf(model, used, steps, time.perf_counter() - start)


def _search_steps(
    model: VqNerfField, used: codec.Used, scene: Scene, points: Tensor, loss_db: float
) -> codec.Steps:
    """The coarsest steps within `loss_db`: first those of the field, then the decoder's."""
    even = even_steps(model, used, points)
    decoder, codes = vq_sections.steps_of(model.decoder, model.codes)

    def with_decoder(steps: codec.Steps, factor: float) -> codec.Steps:
        scaled = tuple(factor * step for step in decoder)
        return replace(steps, decoder=scaled, codes=factor * codes)

    most = FIELD_SHARE * loss_db
    field_steps = coarsest(
        model, used, scene, most, lambda factor: with_decoder(even.scaled(factor), FINE)
    )
    return coarsest(model, used, scene, loss_db, lambda f: with_decoder(field_steps, f))

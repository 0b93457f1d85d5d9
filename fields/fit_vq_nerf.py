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
from .fit_nerf import HIDE, NerfSettings, NerfTrainer, Traced
from .fit_vq import COMMITMENT, Autoencoder, Blocks, Crops, distance
from .nerf_steps import coarsest, even_steps, touched_rows
from .network import Network, cosine_rate
from .occupancy import CELLS_EVERY, FIRST_LOOKS
from .semantic import Features, random_features, semantic_loss
from .vq_nerf import VqNerfField

WARM = 0.3  # Of the steps: the field against the encoder's latents, without the decoder.
LATENTS = 0.3  # Weight of the difference to the encoder's latents, beside what is decoded.
REFINED_BLOCKS = 24  # Sides of the pieces that the decoder learns from in the end.
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
        autoencoder_steps, refine_steps: before the field's, and of the decoder alone behind them.
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
    autoencoder_steps: int = 150
    refine_steps: int = 500
    blocks: int = 10
    crops: int = 8
    pixels: float = 0.5
    semantic: float = 1e-3

    def __post_init__(self) -> None:
        if self.ratio not in (2, 4, 8):
            raise ValueError(f"ratio: expected 2, 4 or 8, got {self.ratio}")
        limits = {"width": 256, "groups": 16, "codes": 1 << 16, "size": 16, "blocks": 512,
                  "crops": 64, "autoencoder_steps": 1 << 20, "refine_steps": 1 << 20}  # fmt: skip
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
        self.crops = Crops.of(scene.train_images, scene.train, s.blocks, s.ratio)
        self.auto = Autoencoder(self.crops, s.width, s.groups, s.codes, s.size, s.nerf.seed)
        self._features = features or random_features(s.nerf.seed)
        self._rng = torch.Generator().manual_seed(s.nerf.seed + 2)
        self._blocks: Blocks | None = None
        self._adam = torch.optim.Adam(self.auto.decoder, betas=(0.9, 0.99), eps=1e-15)

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

    def warm(self, rate: float) -> float:
        """One step of Adam on the field alone, on random blocks and pixels; the loss."""
        s, blocks = self.settings, self._blocks or Blocks(self.crops, self.auto.encoder)
        self._blocks = blocks
        count = s.crops * self.crops.rows * self.crops.columns
        origins, rays_d, wanted = blocks.draw(count, self._rng)
        traced, pixel_loss = self._trace(origins, rays_d)
        error = (traced.values[:count] - wanted).square()
        loss = pixel_loss + error[:, :3].mean() + self.auto.weight * error[:, 3:].mean()
        return self._learn(loss, traced, rate)

    def step(self, rate: float) -> float:
        """One step of Adam on field, decoder and codes, on pieces and random pixels; the loss."""
        crop = self.crops.draw(self.settings.crops, self._rng)
        traced, pixel_loss = self._trace(crop.origins, crop.rays_d)
        values = traced.values[: len(crop.rays_d)]
        loss = pixel_loss + self._decoded_loss(values, crop.pictures)
        self._adam.zero_grad()
        found = self._learn(loss, traced, rate)
        if math.isfinite(found):
            self._step_decoder(DECODER_RATE)
        return found

    def refine(self, scene: Scene) -> None:
        """Let decoder and codes learn from whole views of the field as it has become."""
        s, model, ratio = self.settings, self.model, self.settings.ratio
        height, width = scene.train.height // ratio, scene.train.width // ratio
        maps = torch.stack([
            model.trace(model.coarse(scene.train[i : i + 1]))[:height, :width].movedim(2, 0)
            for i in range(len(scene.train))
        ])  # fmt: skip
        pictures = torch.cat([(255 * piece.pictures).byte() for piece in self.crops.whole()])
        rows, columns = min(REFINED_BLOCKS, height), min(REFINED_BLOCKS, width)
        for step in range(s.refine_steps):
            views = torch.randint(len(maps), (s.crops,), generator=self._rng)
            y = int(torch.randint(height - rows + 1, (1,), generator=self._rng))
            x = int(torch.randint(width - columns + 1, (1,), generator=self._rng))
            seen = maps[views, :, y : y + rows, x : x + columns]
            truth = pictures[views, :, y * ratio : (y + rows) * ratio]
            truth = truth[..., x * ratio : (x + columns) * ratio].float() / 255
            self._adam.zero_grad()
            self._picture_loss(seen, truth, 0)[0].backward()
            self._step_decoder(cosine_rate(step, s.refine_steps, DECODER_RATE))

    def _step_decoder(self, rate: float) -> None:
        for group in self._adam.param_groups:
            group["lr"] = rate
        self._adam.step()

    def _picture_loss(self, maps: Tensor, truth: Tensor, cut: int) -> tuple[Tensor, Tensor]:
        """Of pictures decoded from maps [B, 3 + d, h, w], but for a border, and the commitment."""
        s, auto = self.settings, self.auto
        codes, commitment = auto.codebook.quantise(maps[:, 3:])
        found = vq.pixels_of(codes, maps[:, :3], auto.decoder, s.ratio)
        found, truth = (torch.nn.functional.pad(x, [-cut] * 4) for x in (found, truth))
        loss = distance(found, truth)
        if s.semantic:
            loss = loss + s.semantic * semantic_loss(found, truth, self._features)
        return loss, commitment

    def _trace(self, origins: Tensor, rays_d: Tensor) -> tuple[Traced, Tensor]:
        """Rays in world units and, behind them, random ones of pixels, and the loss of those."""
        pixels = self.field.draw()
        origins = (origins - origins.new_tensor(self.field.low)) / self.field.edge
        traced = self.field.trace(
            torch.cat([origins, pixels.origins]), torch.cat([rays_d, pixels.rays_d])
        )
        error = traced.values[len(origins) :, :3] - pixels.colors
        return traced, self.settings.pixels * error.square().mean()

    def _decoded_loss(self, values: Tensor, pictures: Tensor) -> Tensor:
        """Of colours and latents [B * h * w, channels] of blocks of pictures [B, 3, H, W]."""
        s, auto = self.settings, self.auto
        shape = (len(pictures), self.crops.rows, self.crops.columns, -1)
        maps = values.reshape(shape).movedim(3, 1)
        with torch.no_grad():
            wanted = vq.latents_of(pictures, auto.encoder, s.ratio)
        error = (maps[:, 3:] - wanted).square().mean()
        cut = MARGIN * s.ratio if min(maps.shape[2:]) > 2 * MARGIN else 0
        loss, commitment = self._picture_loss(maps, pictures, cut)
        return loss + auto.weight * (LATENTS * error + COMMITMENT * commitment)

    def _learn(self, loss: Tensor, traced: Traced, rate: float) -> float:
        if not len(traced.points):
            return math.nan
        return self.field.learn(loss, traced, rate)


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
            trainer.field.look(everywhere=step < FIRST_LOOKS * CELLS_EVERY)
        if step and step == round(HIDE * own.steps):
            trainer.field.hide()
        rate = cosine_rate(step, own.steps, own.rate)
        (trainer.warm if step < WARM * own.steps else trainer.step)(rate)
    trainer.field.look(everywhere=True)
    if progress is not None:
        progress("decoder", 1)
    trainer.refine(scene)
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

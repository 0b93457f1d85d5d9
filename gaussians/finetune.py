"""Compression with training: fewer Gaussians, then our quantiser and rate model in the loop.

Alternating sparsify / recover (and split, where too few are), then steps on pictures of decoded
values with a rate term, steered to a size by real encodes, then colours once more on the geometry
that the file will have.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..render.photometric import photometric_loss
from ..scenes.cameras import Cameras
from ..scenes.synthesise import synthesise_cameras
from . import sparsify
from .allocate import share_bits, squared_error
from .codec import Steps, decode, encode_source
from .compress import VIEW_SIZE, Compressed, core_arguments
from .fit_tables import Source
from .memory import give_back
from .model import SplatModel
from .rate_model import RateModel
from .reduce import Measured
from .sanitize import sanitize
from .search import ALLOCATION_VIEWS, BYTES_TOLERANCE, SIZE_SLOPE, mean_psnr
from .solve import FACTOR_RANGE, solve
from .straight_through import rounded
from .train import NAMES, Trainer, TrainSettings

Progress = Callable[[str, float], None]

PRESET_RATIOS = {"small": 100.0, "balanced": 60.0, "high": 30.0}  # 4 bytes a float over the file
GEOMETRY = ("means", "quats", "scales", "opacities")
SPARSIFY, COLORS = 0.45, 0.85  # Shares of the steps where the quantised, the last stage begin.
SPLIT = 0.25  # Share of the Gaussians that become two after each round but the last.
PLANS = 4  # How often steps are shared anew in between.
ROOM = 0.05  # How far a plan's size may be off, as a share.
EXCHANGE_RANGE = (2.0, 200.0)
DISTIL_VIEWS = 64
SHARED = 1200  # Bytes of header and tables, about.
ALONE = 0.6  # Positions are coarse: deeper leaves would say more than is wanted.


@dataclass(frozen=True)
class FinetuneSettings:
    """What is asked of a fine-tune.

    Attributes:
        target_bytes: of the file, never exceeded.
        steps: views shown in all.
        bits: of a Gaussian in the file, beside what all share; with the target it says how many are
            kept.
        rounds: of dropping the least, with training in between.
        refresh: steps between one real quantisation and the next.
        rate: times the weight of the rate term that the slope of the allocation gives.
        seed: of the order of the views and of probes.
    """

    target_bytes: int
    steps: int = 3000
    bits: float = 60.0
    rounds: int = 8
    refresh: int = 20
    rate: float = 4.0
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("target_bytes", "steps", "refresh"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name}: expected at least 1, got {getattr(self, name)}")
        if not 1 <= self.bits < math.inf or not 0 <= self.rate < math.inf:
            raise ValueError(
                f"bits, rate: expected at least 1 and 0, got {self.bits} and {self.rate}"
            )


class QuantisedTrainer(Trainer):
    """A trainer that, once it has a source and steps, shows decoded values and pays for bits."""

    delta: dict[str, Tensor] | None = None
    rate_model: RateModel | None = None
    source: Source | None = None
    steps = Steps()
    rate_weight = 0.0  # loss per bit
    refresh = 25
    frozen: tuple[str, ...] = ()

    def aim(self, source: Source, steps: Steps, rate_weight: float) -> None:
        """Quantise by these choices from now on."""
        self.source, self.steps, self.rate_weight = source, steps, rate_weight
        self.round()

    def round(self) -> None:
        """Quantise the current values for real; what that moved is kept until the next time."""
        assert self.source is not None
        found = rounded(self.source.moved(self.model()), self.steps)
        values = found.model.tensors()
        self.delta = {name: values[name] - p.detach() for name, p in self.params.items()}
        self.rate_model = RateModel(found.predictions)

    def values(self) -> dict[str, Tensor]:
        """The parameters as they would be decoded; gradients pass straight through."""
        if self.delta is None:
            return self.params
        return {name: self.params[name] + self.delta[name] for name in NAMES}

    def before_update(self) -> None:
        """Adds the gradient of the rate."""
        if self.rate_model is not None and self.rate_weight > 0:
            self.rate_model.add_gradients(self.params, self.rate_weight)

    def after_update(self) -> None:
        """Quantises anew every `refresh` steps."""
        if self.source is not None and self.number % self.refresh == 0:
            self.round()

    def rates(self) -> dict[str, float]:
        """Learning rates of this step; 0 for what is frozen."""
        return {name: 0.0 if name in self.frozen else r for name, r in super().rates().items()}


def train_settings(settings: FinetuneSettings) -> TrainSettings:
    """Kerbl et al.'s rates, opacity's halved, falling over the quantised stage."""
    return TrainSettings(
        steps=settings.steps,
        means_lr=1.6e-4,
        means_lr_final=1.6e-6,
        opacities_lr=2.5e-2,
        cool=1 - SPARSIFY,
        seed=settings.seed,
    )


def distillation_views(model: SplatModel, seed: int) -> tuple[Cameras, Cameras]:
    """Synthesised training views, and held-out ones, for a scene without photographs."""
    width, height = VIEW_SIZE
    return synthesise_cameras(
        *core_arguments(model), count=DISTIL_VIEWS, width=width // 2, height=height // 2, seed=seed
    )


def compress_finetuned(
    model: SplatModel,
    cameras: Cameras,
    images: Tensor,
    holdout: Cameras,
    settings: FinetuneSettings,
    *,
    masks: Tensor | None = None,
    progress: Progress | None = None,
) -> Compressed:
    """Compress splats to a size while training them on pictures.

    Args:
        model: the scene; it is sanitised first.
        cameras: [C] training views.
        images: [C, H, W, 3] in [0, 1]: photographs, or renders of the model (self-distillation).
        holdout: views on which psnr_self, against the model, is measured; nothing is chosen by it.
        settings: see there.
        masks: [C, H, W] weights of the pixels, or None.
        progress: called with a stage name and the fraction of all work done.

    Raises:
        ValueError: nothing visible, pictures that do not fit, or a size that cannot be reached.
    """
    began = time.perf_counter()
    count_in, float_bytes = len(model), model.float_bytes
    model, sanitised = sanitize(model)
    if not len(model):
        raise ValueError(f"no visible Gaussians to compress ({count_in} read)")
    trainer = QuantisedTrainer(model, cameras, images, train_settings(settings), masks)
    trainer.refresh = settings.refresh
    header = {"seed": settings.seed, "count_in": count_in}
    run = Run(trainer, settings, header, progress or (lambda stage, done: None))
    data = run.all()
    train_seconds = time.perf_counter() - began
    give_back()
    decoded = decode(data)
    report = {
        "count_in": count_in,
        "count_out": len(decoded),
        "sanitised": sanitised,
        "output_bytes": len(data),
        "float_bytes": float_bytes,
        "psnr_self": mean_psnr(decoded, holdout, model.render(holdout)),
        "psnr_train": trainer.psnr,
        "views": len(cameras),
        "holdout": len(holdout),
        "finetune_steps": settings.steps,
        "steps": vars(trainer.steps),
        "encode_seconds": train_seconds,
        "seed": settings.seed,
    }
    return Compressed(data, report)


@dataclass
class Run:
    """One fine-tune: its trainer, and what its stages share."""

    trainer: QuantisedTrainer
    settings: FinetuneSettings
    header: dict[str, Any]
    say: Progress
    exchange: float | None = None  # loss per squared error

    def all(self) -> bytes:
        """Every stage, and the file."""
        self.sparsify()
        self.quantised()
        self.colors()
        return self.encode()

    def train(self, until: float, stage: str) -> None:
        """Steps up to a share of all."""
        total = self.settings.steps
        while self.trainer.number < round(until * total):
            self.trainer.step()
            if self.trainer.number % 20 == 0:
                self.say(f"{stage} {self.trainer.psnr:.1f} dB", self.trainer.number / total)

    def sparsify(self) -> None:
        """Drop the least and split what is wanted, in rounds; recover in between and after."""
        goal = max(1, int(8 * (self.settings.target_bytes - SHARED) / self.settings.bits))
        wanted = sparsify.counts(len(self.trainer.params["means"]), goal, self.settings.rounds)
        for number, count in enumerate(wanted):
            sparsify.drop_least(self.trainer, self.trainer.cameras, count)
            if number + 1 < len(wanted):
                sparsify.split_wanted(self.trainer, int(SPLIT * count))
            self.train(SPARSIFY * (number + 1) / (len(wanted) + 1), "sparsify")
        self.train(SPARSIFY, "recover")

    def quantised(self) -> None:
        """All values with the codec in the loop; steps shared anew from time to time."""
        for number in range(PLANS):
            self.plan()
            self.train(SPARSIFY + (COLORS - SPARSIFY) * (number + 1) / PLANS, "quantise")

    def colors(self) -> None:
        """Colours on the geometry that the file will have."""
        self.plan()
        self.trainer.frozen = GEOMETRY
        self.train(1.0, "colors")

    def plan(self) -> None:
        """Classes, frame, bases and steps for the size, from the splats as they are now."""
        trainer, target = self.trainer, self.settings.target_bytes
        views = trainer.cameras
        model = visible_latents(trainer)
        measured = Measured.of(model, views, self.settings.seed)
        source = replace(measured.source(model), alone=ALONE)
        few = views[:: max(1, len(views) // ALLOCATION_VIEWS)]
        steps = replace(trainer.steps, prune=0.0)
        steps, slope = share_bits(source, self.sized(source, steps, target), few)
        steps = self.sized(source, bounded(steps), target)
        if self.exchange is None:
            self.exchange = loss_per_error(trainer, source, steps)
        trainer.aim(source, steps, self.settings.rate * self.exchange * slope)
        give_back()

    def sized(self, source: Source, steps: Steps, target: int) -> Steps:
        """Steps times one factor such that the file is about as large as asked for."""

        def excess(x: float) -> float:
            return math.log(self.size(source, steps.scaled(math.exp(x))) / target)

        return bounded(steps.scaled(math.exp(solve(excess, -SIZE_SLOPE, (-ROOM, ROOM), 5))))

    def size(self, source: Source, steps: Steps) -> int:
        return len(encode_source(source, steps, self.header))

    def encode(self) -> bytes:
        """The file: colour steps to the size, all steps where that is not enough."""
        trainer, target = self.trainer, self.settings.target_bytes
        assert trainer.source is not None
        source, steps = trainer.source.moved(trainer.model()), trainer.steps

        def colored(x: float) -> Steps:
            factor = math.exp(x)
            return replace(steps, dc=steps.dc * factor, ac=steps.ac * factor)

        for vary in (colored, lambda x: steps.scaled(math.exp(x))):

            def excess(x: float, vary: Callable[[float], Steps] = vary) -> float:
                return math.log(self.size(source, vary(x)) / target)

            trainer.steps = vary(solve(excess, -0.5 * SIZE_SLOPE, (-BYTES_TOLERANCE, 0.0), 10))
            data = encode_source(source, trainer.steps, self.header)
            if len(data) <= target:
                return data
        raise ValueError(
            f"target size: expected at most {target} bytes, the smallest file found has {len(data)}"
        )


def bounded(steps: Steps) -> Steps:
    """Steps within the range of those that captures take; a generous size needs no finer ones."""
    least, most = (vars(Steps().scaled(factor)) for factor in FACTOR_RANGE)
    found = {name: min(max(x, least[name]), most[name]) for name, x in vars(steps).items()}
    return replace(Steps(**found), prune=steps.prune)


def visible_latents(trainer: Trainer) -> SplatModel:
    """The trainer's splats, after it has let go of those that became invisible."""
    model = trainer.model()
    chosen = model.opacities.sigmoid() >= 1 / 255
    if bool(chosen.all()):
        return model
    sparsify.keep(trainer, chosen)
    return trainer.model()


@torch.no_grad()
def loss_per_error(trainer: QuantisedTrainer, source: Source, steps: Steps) -> float:
    """What a unit of mean squared quantisation error costs in the training loss, measured."""
    few = range(0, len(trainer.cameras), max(1, len(trainer.cameras) // ALLOCATION_VIEWS))
    decoded = rounded(source, steps).model
    views = trainer.cameras[list(few)]
    pictures = source.model.render(views)
    error = squared_error(decoded, views, pictures)
    render = decoded.renderer()
    cost = 0.0
    for place, index in enumerate(few):
        photo = trainer.images[index : index + 1]
        mask = None if trainer.masks is None else trainer.masks[index : index + 1]
        weight = trainer.settings.ssim_weight
        ours = photometric_loss(render(views[place : place + 1]), photo, weight, mask)
        cost += float(ours - photometric_loss(pictures[place : place + 1], photo, weight, mask))
    low, high = EXCHANGE_RANGE
    return min(max(cost / len(views) / max(error, 1e-12), low), high)

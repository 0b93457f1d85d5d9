"""LightGaussian step by step (Fan et al. 2024): prune, recover, distil, quantise, fine-tune.

A clean-room reproduction, and the baseline that our own codec is measured against. Where the
paper and its released code differ, the settings say which is followed.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from ..render.photometric import photometric_loss
from ..render.splat import rasterize
from ..scenes.cameras import Cameras, Scene
from ..scenes.evaluate import evaluate
from .codec import decode
from .model import SplatModel, truncated
from .ply import ply_blocks
from .sanitize import sanitize
from .significance import FORMS, keep_mask, significance
from .train import ADAM_BETAS, ADAM_EPS, Trainer, TrainSettings, camera_extent
from .vectree import VecTree, VecTreeSettings, quantise
from .vectree_file import encode

Progress = Callable[[str, float], None]

RECOVERY_FALL = 0.95 ** (5000 / 400)  # What the released code's schedule leaves of all rates.
DISTIL_FALL = 0.9 ** (5000 / 500)
CODEBOOK_FALL = 0.1  # Ours: the released code has no such step.
SH0_LR, SHN_LR = 2.5e-3, 1.25e-4


@dataclass(frozen=True)
class LightGaussianSettings:
    """The published settings, but for the steps that a caller may shorten.

    Attributes:
        form: of the significance, "released" or "published".
        prune: share of the Gaussians that go; 0.66 is the released script's.
        recovery_steps, distil_steps, codebook_steps: training steps of one view each.
        sh_degree: of the distilled colours; a model of less keeps its own.
        jitter: deviation of pseudo-views along each axis, as a share of the cameras' extent. The
            released 0.05 world units are a hundredth of an extent of 5, which is the order of
            Mip-NeRF 360's scenes in their COLMAP frames; other frames have other units.
        means_lr: times the extent. The released 1.6e-6 is where training of 30,000 steps left off
            (Kerbl et al. 2023); a model of few steps or few Gaussians recovers more with 1e-4.
        vectree: what quantisation keeps; its codebook's own seed is not used.
        seed: of all that is drawn.
    """

    form: str = "released"
    prune: float = 0.66
    recovery_steps: int = 5000
    distil_steps: int = 5000
    codebook_steps: int = 5000
    sh_degree: int = 2
    jitter: float = 0.01
    means_lr: float = 1.6e-6
    vectree: VecTreeSettings = field(default_factory=VecTreeSettings)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.form not in FORMS:
            raise ValueError(f"form: expected one of {', '.join(FORMS)}, got {self.form!r}")
        if not 0 <= self.prune < 1:
            raise ValueError(f"prune: expected a share in [0, 1), got {self.prune}")
        for name in ("recovery_steps", "distil_steps", "codebook_steps", "jitter", "means_lr"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name}: expected at least 0, got {getattr(self, name)}")
        if self.sh_degree not in range(5):
            raise ValueError(f"sh_degree: expected 0..4, got {self.sh_degree}")


@dataclass(frozen=True)
class Stage:
    """One row of the ablation table, measured on the test photographs.

    Attributes:
        name: of what was done last.
        count: Gaussians left.
        size_bytes: of the file on disk: a float PLY, from VQ on a .fpz, decoded again.
        psnr, ssim: means over the test views.
        fps, fps_baseline: of this stage and of the input, view by view in turn; only their ratio
            is free of what else the machine does.
        seconds: that the stage took, without this measuring.
    """

    name: str
    count: int
    size_bytes: int
    psnr: float | None
    ssim: float | None
    fps: float | None
    fps_baseline: float | None
    seconds: float


@dataclass(frozen=True)
class LightGaussianResult:
    """The finished file, every stage, and what its numbers take when packed without our coder."""

    data: bytes
    stages: tuple[Stage, ...]
    packed_bytes: int


def run_lightgaussian(
    model: SplatModel,
    scene: Scene,
    settings: LightGaussianSettings,
    progress: Progress | None = None,
) -> LightGaussianResult:
    """Compress a trained model with its photographs, and measure every stage.

    `progress` is called with a stage's name and the share of all training steps done. Raises
    ValueError for a scene without photographs and where pruning leaves nothing.
    """
    if scene.train_images is None or scene.test_images is None or not len(scene.train):
        raise ValueError(f"{scene.name}: expected training and test photographs, got none")
    teacher, _ = sanitize(model)
    job = _Job(scene, settings, progress or (lambda stage, done: None), teacher)
    job.float_row("baseline", teacher)
    keep = keep_mask(significance(teacher, scene.train, form=settings.form), settings.prune)
    if not bool(keep.any()):
        raise ValueError(f"prune: all {len(teacher)} Gaussians are equally significant")
    student = teacher[keep]
    job.float_row("prune", student)
    student = recover(student, scene, settings, job.step)
    job.float_row("recovery", student)
    student = truncated(student, settings.sh_degree)
    job.float_row("SH truncation", student)
    student = distil(student, teacher, scene, settings, job.step)
    job.float_row("distillation", student)
    scores = significance(student, scene.train, form=settings.form)
    book = replace(settings.vectree.codebook, seed=settings.seed)
    tree = quantise(student, scores, replace(settings.vectree, codebook=book))
    job.file_row("VQ", tree)
    tree = finetune_codebook(tree, scene, settings, job.step)
    data = job.file_row("VQ fine-tune", tree)
    return LightGaussianResult(data, tuple(job.stages), tree.packed_bytes)


@dataclass
class _Job:
    """Rows so far, steps so far, and the clock."""

    scene: Scene
    settings: LightGaussianSettings
    say: Progress
    teacher: SplatModel
    stages: list[Stage] = field(default_factory=list)
    steps: int = 0
    began: float = field(default_factory=time.perf_counter)

    def step(self, stage: str) -> None:
        """One training step is done."""
        s = self.settings
        self.steps += 1
        total = s.recovery_steps + s.distil_steps + s.codebook_steps
        self.say(stage, self.steps / max(total, 1))

    def float_row(self, name: str, model: SplatModel) -> None:
        self._row(name, model, sum(len(block) for block in ply_blocks(model)))

    def file_row(self, name: str, tree: VecTree) -> bytes:
        data = encode(tree, {"recipe": "lightgaussian", "seed": self.settings.seed})
        self._row(name, decode(data), len(data))
        return data

    def _row(self, name: str, model: SplatModel, size: int) -> None:
        seconds = time.perf_counter() - self.began
        scene, baseline = self.scene, self.teacher.renderer()
        found = evaluate(model.renderer(), scene.test, reference=baseline, photos=scene.test_images)
        scores = (found.psnr, found.ssim, found.fps, found.fps_reference)
        self.stages.append(Stage(name, len(model), size, *scores, seconds))
        self.began = time.perf_counter()


# The stages


class _Falling(Trainer):
    """A trainer whose rates fall exponentially to `fall` of themselves over all steps."""

    fall = 1.0

    def rates(self) -> dict[str, float]:
        share = self.fall ** (self.number / self.settings.steps)
        return {name: rate * share for name, rate in super().rates().items()}


def recover(
    model: SplatModel,
    scene: Scene,
    settings: LightGaussianSettings,
    step: Callable[[str], None] = lambda stage: None,
) -> SplatModel:
    """Fine-tune what pruning left on the training photographs, without densification."""
    if not settings.recovery_steps:
        return model
    trainer = _trainer(model, scene, settings, settings.recovery_steps, RECOVERY_FALL)
    for _ in range(settings.recovery_steps):
        trainer.step()
        step("recovery")
    return trainer.model()


def distil(
    student: SplatModel,
    teacher: SplatModel,
    scene: Scene,
    settings: LightGaussianSettings,
    step: Callable[[str], None] = lambda stage: None,
) -> SplatModel:
    """Teach a student of fewer colour coefficients what the teacher shows; opacities are frozen.

    Two of three steps take a pseudo-view: a training camera moved by N(0, sigma^2) along each
    world axis, sigma being `jitter` of the cameras' extent. No photographs take part.
    """
    if not settings.distil_steps:
        return student
    trainer = _trainer(student, scene, settings, settings.distil_steps, DISTIL_FALL, 0.0)
    teach, rng = teacher.renderer(), torch.Generator().manual_seed(settings.seed + 1)
    sigma, order = settings.jitter * camera_extent(scene.train), _views(len(scene.train), rng)
    for number in range(settings.distil_steps):
        view = next(order)
        camera = scene.train[view : view + 1]
        if number % 3:
            camera = moved(camera, sigma * torch.randn(1, 3, generator=rng))
        with torch.no_grad():
            target = teach(camera)
        trainer.step(camera, target)
        step("distillation")
    return trainer.model()


def moved(cameras: Cameras, offsets: Tensor) -> Cameras:
    """The same views from centres moved by offsets [C, 3], world units."""
    viewmats = cameras.viewmats.clone()
    viewmats[:, :3, 3] -= (viewmats[:, :3, :3] @ offsets[:, :, None])[:, :, 0]
    return replace(cameras, viewmats=viewmats)


def finetune_codebook(
    tree: VecTree,
    scene: Scene,
    settings: LightGaussianSettings,
    step: Callable[[str], None] = lambda stage: None,
) -> VecTree:
    """Train the codewords on the training photographs, all assignments and other values fixed.

    The paper's step, which its released code does not have: Adam at the rates of colours, falling
    to a tenth.
    """
    if not settings.codebook_steps or not len(tree.codebook):
        return tree
    assert scene.train_images is not None
    model, rows = tree.model(), tree.rows()
    means, quats, scales, opacities, _ = model.activated()
    book, kept = tree.table().tensor_split([len(tree.codebook)])
    parts = [book[:, :3].clone().requires_grad_(True), book[:, 3:].clone().requires_grad_(True)]
    rates = (SH0_LR, SHN_LR)
    groups = [{"params": [p], "lr": rate} for p, rate in zip(parts, rates, strict=True)]
    optimizer = torch.optim.Adam(groups, betas=ADAM_BETAS, eps=ADAM_EPS, fused=True)
    order = _views(len(scene.train), torch.Generator().manual_seed(settings.seed + 2))
    for number in range(settings.codebook_steps):
        for group, rate in zip(optimizer.param_groups, rates, strict=True):
            group["lr"] = rate * CODEBOOK_FALL ** (number / settings.codebook_steps)
        view = next(order)
        camera = scene.train[view : view + 1]
        colors = torch.cat([torch.cat(parts, 1), kept])[rows].unflatten(1, (-1, 3))
        image, _, _ = rasterize(
            means, quats, scales, opacities, colors,
            camera.viewmats, camera.Ks, camera.width, camera.height, model.options(),
        )  # fmt: skip
        mask = None if scene.train_masks is None else scene.train_masks[view : view + 1]
        target = scene.train_images[view : view + 1]
        photometric_loss(image, target, mask=mask).backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step("VQ fine-tune")
    return tree.with_codebook(torch.cat(parts, 1))


def _trainer(
    model: SplatModel,
    scene: Scene,
    settings: LightGaussianSettings,
    steps: int,
    fall: float,
    opacities_lr: float = 5e-2,
) -> Trainer:
    assert scene.train_images is not None
    rates = TrainSettings(
        steps=steps,
        means_lr=settings.means_lr,
        means_lr_final=settings.means_lr,
        opacities_lr=opacities_lr,
        sh0_lr=SH0_LR,
        shN_lr=SHN_LR,
        seed=settings.seed,
    )
    trainer = _Falling(model, scene.train, scene.train_images, rates, scene.train_masks)
    trainer.fall = fall
    return trainer


def _views(count: int, rng: torch.Generator) -> Iterator[int]:
    """Indices of views without end: every one once, in a new random order, again and again."""
    while True:
        yield from torch.randperm(count, generator=rng).tolist()

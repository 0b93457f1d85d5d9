"""The ways in which `compress` presses splats: by our codec alone, with training, or a paper's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace

from torch import Tensor

from .console import Progress
from .gaussians.codec import decode
from .gaussians.compress import (
    Compressed,
    CompressSettings,
    drafted,
    encode_to_goal,
    prepare,
)
from .gaussians.finetune import (
    PRESET_RATIOS,
    FinetuneSettings,
    compress_finetuned,
    distillation_views,
)
from .gaussians.lightgaussian import LightGaussianSettings, run_lightgaussian
from .gaussians.model import SplatModel
from .scenes.cameras import Cameras, Scene

METHODS = ("fieldpress", "lightgaussian")


@dataclass(frozen=True)
class Recipe:
    """What is to be done to a scene.

    Attributes:
        settings: the goal; LightGaussian has none but its own settings.
        method: fieldpress or lightgaussian.
        finetune: training steps on the scene's photographs, our codec in the loop.
        self_distil: training steps on renders of the input itself; not both.
    """

    settings: CompressSettings
    method: str = "fieldpress"
    finetune: int = 0
    self_distil: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"method: expected one of {', '.join(METHODS)}, got {self.method!r}")
        if self.finetune < 0 or self.self_distil < 0:
            raise ValueError("finetune, self-distil: expected a number of steps, got less than 0")
        if self.finetune and self.self_distil:
            raise ValueError("finetune, self-distil: expected one of them, got both")
        if self.trains and self.settings.target_db is not None:
            raise ValueError("target-db: training is steered to a size; give target-mb or a preset")
        if self.method == "lightgaussian" and self.self_distil:
            raise ValueError("self-distil: lightgaussian trains on photographs; give a scene")

    @property
    def trains(self) -> bool:
        return bool(self.finetune or self.self_distil)

    @property
    def plain(self) -> bool:
        """Whether it is our codec, without training."""
        return self.method == "fieldpress" and not self.trains

    @property
    def needs_photos(self) -> bool:
        return bool(self.finetune) or self.method == "lightgaussian"

    def begin(
        self,
        model: SplatModel,
        scene: Scene | None,
        views: Cameras,
        holdout: Cameras,
        pictures: Tensor,
        progress: Progress,
    ) -> Callable[[], Compressed]:
        """Begin to compress a sanitised model; the call that is returned ends it.

        `pictures` [C, H, W, 3] are renders of the model from the `holdout` views. What is returned
        holds the model no longer than its method needs it. Raises ValueError without the
        photographs that a method trains on.
        """
        if self.needs_photos and (scene is None or scene.train_images is None):
            raise ValueError("expected training photographs, got none; --scene names their folder")
        if not self.plain:
            return lambda: self._train(model, scene, views, holdout, progress)
        if self.settings.is_draft:
            return lambda: drafted(model, self.settings)
        prepared = prepare(
            model, self.settings, views=views, holdout=holdout, pictures=pictures,
            progress=progress,
        )  # fmt: skip
        return lambda: encode_to_goal(prepared, self.settings, progress=progress)

    def _train(
        self,
        model: SplatModel,
        scene: Scene | None,
        views: Cameras,
        holdout: Cameras,
        progress: Progress,
    ) -> Compressed:
        if self.method == "lightgaussian":
            assert scene is not None
            return self._lightgaussian(model, scene, progress)
        if self.finetune:
            assert scene is not None
            assert scene.train_images is not None
            return compress_finetuned(
                model, scene.train, scene.train_images, holdout, self._training(model),
                masks=scene.train_masks, progress=progress,
            )  # fmt: skip
        if scene is None:
            views, holdout = distillation_views(model, self.settings.seed)
        images = model.render(views).clamp(0, 1)  # As a screen shows them, and metrics see them.
        return compress_finetuned(
            model, views, images, holdout, self._training(model), progress=progress
        )

    def _training(self, model: SplatModel) -> FinetuneSettings:
        ratio = PRESET_RATIOS[self.settings.preset]
        target = self.settings.target_bytes or max(1, int(model.float_bytes / ratio))
        steps = self.finetune or self.self_distil
        return FinetuneSettings(target_bytes=target, steps=steps, seed=self.settings.seed)

    def _lightgaussian(self, model: SplatModel, scene: Scene, progress: Progress) -> Compressed:
        settings = LightGaussianSettings(seed=self.settings.seed)
        if self.finetune:
            each = max(1, self.finetune // 3)
            settings = replace(
                settings, recovery_steps=each, distil_steps=each, codebook_steps=each
            )
        result = run_lightgaussian(model, scene, settings, progress)
        report = {
            "count_out": len(decode(result.data)),
            "stages": [asdict(stage) for stage in result.stages],
        }
        return Compressed(result.data, report)

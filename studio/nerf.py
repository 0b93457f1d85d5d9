"""`ns-train fieldpress-nerf`: our radiance field, on the CPU as well as on a GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from nerfstudio.cameras.rays import RayBundle
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.models.base_model import Model, ModelConfig
from pytorch_msssim import SSIM
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from ..fields.levels import Encoding
from .radiance import Radiance

COLORS = {"black": (0.0, 0.0, 0.0), "white": (1.0, 1.0, 1.0)}


@dataclass
class NerfModelConfig(ModelConfig):
    """Options of our radiance field.

    Attributes:
        otype, levels, growth, log2_hashmap_size: of the encoding, as of `fieldpress fit nerf`.
        neurons: of the hidden layers.
        reach: the cube's edge over that of nerfstudio's scene box.
        background: what lies behind.
    """

    _target: type = field(default_factory=lambda: NerfModel)
    enable_collider: bool = False
    otype: Literal["HashGrid", "KuhnGrid", "SimplexGrid", "PermutoGrid"] = "SimplexGrid"
    levels: int = 10
    growth: float = 1.5
    log2_hashmap_size: int = 16
    neurons: int = 32
    reach: float = 1.0
    background: Literal["black", "white"] = "black"


class NerfModel(Model):
    """Rays of nerfstudio through `Radiance`; `fieldpress compress` reads its checkpoints."""

    config: NerfModelConfig

    def populate_modules(self) -> None:
        """The field in a cube around the scene box, and metrics."""
        super().populate_modules()
        c, box = self.config, self.scene_box.aabb
        encoding = Encoding(3, c.otype, c.levels, 2, c.log2_hashmap_size, 16, c.growth)
        edge = c.reach * float((box[1] - box[0]).max())
        low = box.float().mean(0) - edge / 2
        self.radiance = Radiance(encoding, c.neurons, low, edge, COLORS[c.background])
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim = SSIM(data_range=1.0, size_average=True, channel=3)

    def get_param_groups(self) -> dict[str, list[torch.nn.Parameter]]:
        """The table, and the networks, which learn more slowly."""
        field = self.radiance
        return {"table": [field.table], "networks": [*field.weights, *field.head]}

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Look for occupied cells now and then."""
        where = [TrainingCallbackLocation.BEFORE_TRAIN_ITERATION]
        return [TrainingCallback(where, lambda step: self.radiance.look(step))]

    def get_outputs(self, ray_bundle: RayBundle) -> dict[str, Tensor]:
        """Colours and opacities of rays."""
        rgb, opacity = self.radiance(ray_bundle.origins, ray_bundle.directions)
        return {"rgb": rgb, "accumulation": opacity}

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: Any = None
    ) -> dict[str, Tensor]:
        """The mean squared error of the pixels."""
        return {"rgb_loss": (outputs["rgb"] - self._truth(batch)).square().mean()}

    def get_metrics_dict(self, outputs: dict[str, Any], batch: dict[str, Any]) -> dict[str, Any]:
        """PSNR of the pixels."""
        return {"psnr": self.psnr(outputs["rgb"].detach(), self._truth(batch))}

    def get_image_metrics_and_images(
        self, outputs: dict[str, Any], batch: dict[str, Any]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """PSNR and SSIM of a view, and it beside the photograph."""
        shown, truth = outputs["rgb"].clamp(0, 1), self._truth(batch)
        stacks = [image.movedim(-1, 0)[None] for image in (truth, shown)]
        metrics = {"psnr": float(self.psnr(*stacks)), "ssim": float(self.ssim(*stacks))}
        return metrics, {"img": torch.cat([truth, shown], 1)}

    def _truth(self, batch: dict[str, Any]) -> Tensor:
        """Pixels [..., 3] of photographs, transparent ones over the background."""
        pixels = batch["image"].to(self.device)
        if pixels.shape[-1] == 3:
            return pixels
        alpha = pixels[..., 3:]
        return pixels[..., :3] * alpha + self.radiance.background * (1 - alpha)

"""`ns-train fieldpress-splats`: splatfacto with our rasteriser, which needs no GPU."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from nerfstudio.cameras.cameras import Cameras
from nerfstudio.engine.callbacks import (
    TrainingCallback,
    TrainingCallbackAttributes,
    TrainingCallbackLocation,
)
from nerfstudio.models.splatfacto import SplatfactoModel, SplatfactoModelConfig
from nerfstudio.utils.colors import get_color
from pytorch_msssim import SSIM
from torch import Tensor
from torchmetrics.image import PeakSignalNoiseRatio

from ..gaussians.densify import DensifySettings
from ..gaussians.initialise import from_points
from ..render.splat import RasterOptions, rasterize
from .axes import viewmats_of
from .growth import Growth, to_splatfacto


@dataclass
class SplatsModelConfig(SplatfactoModelConfig):
    """Options of our splats; those of splatfacto's own densification count for nothing.

    Attributes:
        budget: Gaussians at the end, never more.
    """

    _target: type = field(default_factory=lambda: SplatsModel)
    background_color: Any = "black"
    budget: int = 100_000


class SplatsModel(SplatfactoModel):
    """Splatfacto's parameters and losses, drawn by `render.splat` and grown by `densify`.

    Its checkpoints are splatfacto's: `ns-export gaussian-splat`, ns-viewer and
    `fieldpress compress` read them.
    """

    config: SplatsModelConfig
    growth: Growth | None = None

    def populate_modules(self) -> None:
        """Parameters from the capture's points or from chance, and metrics."""
        config = self.config
        if config.use_bilateral_grid:
            raise ValueError("use_bilateral_grid: expected False, our splats have none")
        self.gauss_params = torch.nn.ParameterDict(
            {name: torch.nn.Parameter(value) for name, value in self._initial().items()}
        )
        self.camera_optimizer = config.camera_optimizer.setup(
            num_cameras=self.num_train_data, device="cpu"
        )
        self.psnr = PeakSignalNoiseRatio(data_range=1.0)
        self.ssim = SSIM(data_range=1.0, size_average=True, channel=3)
        self.lpips = _not_measured
        self.step, self.crop_box = 0, None
        random = config.background_color == "random"
        self.background_color = torch.zeros(3) if random else get_color(config.background_color)

    def _initial(self) -> dict[str, Tensor]:
        points, colors = None, None
        if self.seed_points is not None and not self.config.random_init:
            points, colors = self.seed_points
            colors = colors.float() / 255 if len(colors) else None
        if points is None:
            rng = torch.Generator().manual_seed(0)
            points = torch.rand(min(self.config.num_random, self.config.budget), 3, generator=rng)
            points = (points - 0.5) * self.config.random_scale
        degree, budget = self.config.sh_degree, self.config.budget
        return to_splatfacto(from_points(points, colors, sh_degree=degree, budget=budget))

    def get_training_callbacks(
        self, training_callback_attributes: TrainingCallbackAttributes
    ) -> list[TrainingCallback]:
        """Note the step before it, grow after it."""
        given = training_callback_attributes
        assert given.optimizers is not None
        assert given.trainer is not None
        self.growth = Growth(
            self.gauss_params, given.optimizers.optimizers, given.trainer.config.max_num_iterations,
            DensifySettings(budget=self.config.budget),
        )  # fmt: skip
        where = TrainingCallbackLocation
        return [
            TrainingCallback([where.BEFORE_TRAIN_ITERATION], self.step_cb, args=[given.optimizers]),
            TrainingCallback([where.AFTER_TRAIN_ITERATION], self.step_post_backward),
        ]

    def step_post_backward(self, step: int) -> None:
        """Move and add Gaussians."""
        assert self.growth is not None
        self.growth.after_step(step + 1)
        for name, value in self.gauss_params.items():
            self.optimizers[name].param_groups[0]["params"] = [value]

    def get_outputs(self, camera: Cameras) -> dict[str, Any]:
        """Colour, depth and opacity of one camera, over the background."""
        poses = camera.camera_to_worlds
        if self.training:
            poses = self.camera_optimizer.apply_to_camera(camera)
        shrink = self._get_downscale_factor()
        camera.rescale_output_resolution(1 / shrink)
        Ks = camera.get_intrinsics_matrices().to(self.device)
        width, height = int(camera.width.item()), int(camera.height.item())
        camera.rescale_output_resolution(shrink)
        options = RasterOptions(
            sh_degree=min(self.step // self.config.sh_degree_interval, self.config.sh_degree),
            render_mode="RGB" if self.training else "RGB+ED",
            rasterize_mode=self.config.rasterize_mode,
        )
        image, alpha, _ = rasterize(
            *self._shown(), viewmats_of(poses), Ks, width, height, options
        )  # fmt: skip
        background = self._get_background_color()
        rgb = (image[0, ..., :3] + (1 - alpha[0]) * background).clamp(0, 1)
        depth = None if self.training else image[0, ..., 3:]
        if not self.training:
            background = background.expand(height, width, 3)
        return {"rgb": rgb, "depth": depth, "accumulation": alpha[0], "background": background}

    def _shown(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, quats, scales, opacities and colours, of what lies in the crop box if any."""
        colors = torch.cat([self.shs_0[:, None, :], self.shs_rest], 1)
        opacities = self.opacities[:, 0].sigmoid()
        if self.crop_box is not None and not self.training:
            opacities = opacities * self.crop_box.within(self.means).reshape(-1)
        return self.means, self.quats, self.scales.exp(), opacities, colors

    def get_loss_dict(
        self, outputs: dict[str, Any], batch: dict[str, Any], metrics_dict: Any = None
    ) -> dict[str, Tensor]:
        """Splatfacto's, and the regularisers that growing under a budget wants."""
        losses = super().get_loss_dict(outputs, batch, metrics_dict)
        if self.training:
            wanted = DensifySettings()
            losses["opacity_reg"] = wanted.opacity_weight * self.opacities.sigmoid().mean()
            losses["size_reg"] = wanted.scale_weight * self.scales.exp().mean()
        return losses


def _not_measured(*images: Tensor) -> float:
    """LPIPS: its weights would be downloaded, also where nobody looks at it."""
    return float("nan")

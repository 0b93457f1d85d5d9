"""What nerfstudio's entry points `nerfstudio.method_configs` load."""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from ..gaussians.train import ADAM_EPS, TrainSettings
from .splats import SplatsModelConfig

SPLAT_STEPS = 10_000
RATES = TrainSettings()


def _adam(rate: float, last: float | None = None, steps: int = 0) -> dict[str, object]:
    """Adam at a rate that falls exponentially to `last` over the steps, if there is one."""
    falling = None
    if last is not None:
        falling = ExponentialDecaySchedulerConfig(lr_final=last, max_steps=steps)
    return {"optimizer": AdamOptimizerConfig(lr=rate, eps=ADAM_EPS), "scheduler": falling}


splats = MethodSpecification(
    config=TrainerConfig(
        method_name="fieldpress-splats",
        max_num_iterations=SPLAT_STEPS,
        steps_per_eval_batch=0,
        steps_per_eval_all_images=1000,
        pipeline=VanillaPipelineConfig(
            datamanager=FullImageDatamanagerConfig(
                dataparser=NerfstudioDataParserConfig(load_3D_points=True),
                cache_images_type="uint8",
            ),
            model=SplatsModelConfig(),
        ),
        optimizers={
            "means": _adam(RATES.means_lr, RATES.means_lr_final, SPLAT_STEPS),
            "features_dc": _adam(RATES.sh0_lr),
            "features_rest": _adam(RATES.shN_lr),
            "opacities": _adam(RATES.opacities_lr),
            "scales": _adam(RATES.scales_lr),
            "quats": _adam(RATES.quats_lr),
            "camera_opt": _adam(1e-4, 5e-7, SPLAT_STEPS),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 15),
        vis="viewer",
    ),
    description="Gaussian splats by fieldpress: no GPU needed; fieldpress compresses what it saves",
)

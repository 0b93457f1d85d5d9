"""What nerfstudio's entry points `nerfstudio.method_configs` load."""

from __future__ import annotations

from nerfstudio.configs.base_config import ViewerConfig
from nerfstudio.data.datamanagers.base_datamanager import VanillaDataManagerConfig
from nerfstudio.data.datamanagers.full_images_datamanager import FullImageDatamanagerConfig
from nerfstudio.data.dataparsers.nerfstudio_dataparser import NerfstudioDataParserConfig
from nerfstudio.engine.optimizers import AdamOptimizerConfig
from nerfstudio.engine.schedulers import ExponentialDecaySchedulerConfig
from nerfstudio.engine.trainer import TrainerConfig
from nerfstudio.pipelines.base_pipeline import VanillaPipelineConfig
from nerfstudio.plugins.types import MethodSpecification

from ..fields.network import WEIGHT_RATE
from ..gaussians.train import ADAM_EPS, TrainSettings
from .nerf import NerfModelConfig
from .splats import SplatsModelConfig

SPLAT_STEPS, NERF_STEPS = 10_000, 5_000
RATES, TABLE_RATE = TrainSettings(), 1e-2
COOLED = 0.02  # Of a rate, at the end.


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

nerf = MethodSpecification(
    config=TrainerConfig(
        method_name="fieldpress-nerf",
        max_num_iterations=NERF_STEPS,
        steps_per_eval_all_images=NERF_STEPS,
        pipeline=VanillaPipelineConfig(
            datamanager=VanillaDataManagerConfig(
                dataparser=NerfstudioDataParserConfig(), train_num_rays_per_batch=1024
            ),
            model=NerfModelConfig(),
        ),
        optimizers={
            "table": _adam(TABLE_RATE, COOLED * TABLE_RATE, NERF_STEPS),
            "networks": _adam(
                WEIGHT_RATE * TABLE_RATE, COOLED * WEIGHT_RATE * TABLE_RATE, NERF_STEPS
            ),
        },
        viewer=ViewerConfig(num_rays_per_chunk=1 << 12),
        vis="viewer",
    ),
    description="A small radiance field by fieldpress: no GPU needed; fieldpress compresses it",
)

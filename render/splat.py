"""The splat rasteriser: gsplat's argument order, on the CPU."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class RasterOptions:
    """What may be asked of the rasteriser beyond the scene and the cameras."""

    sh_degree: int | None = None
    near_plane: float = 0.01
    far_plane: float = 1e10
    eps2d: float = 0.3
    alpha_clamp: float = 0.99
    render_mode: str = "RGB"
    rasterize_mode: str = "classic"
    backgrounds: Tensor | None = None


def rasterize(means, quats, scales, opacities, colors, viewmats, Ks, width, height, options):  # noqa
    raise NotImplementedError

"""The splat model: named tensors of stored values, and a way to see them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..quant import budget
from ..render.sh import basis_count
from ..render.splat import RasterOptions, rasterize
from ..scenes.cameras import Cameras
from .paint import painted
from .shelf import on_shelf

FLOATS_WITHOUT_COLOR = 3 + 3 + 1 + 3 + 4  # means, normals, opacity, scales, quats: INRIA's PLY


def check_room(count: int, rest: int, where: str) -> None:
    """Raise ValueError where `count` Gaussians of `rest` SH coefficients beside DC are too many."""
    size = 4 * count * (FLOATS_WITHOUT_COLOR + 3 * (1 + rest))
    budget.check(size, f"{where}: {min(count, budget.HUGE)} Gaussians")


@dataclass(frozen=True)
class SplatModel:
    """N Gaussians with spherical-harmonic colour (Kerbl et al. 2023), as stored in files.

    Attributes:
        means: [N, 3] float32 centres, world units.
        quats: [N, 4] float32 rotations wxyz, not normalised.
        scales: [N, 3] float32, natural log of the standard deviations.
        opacities: [N] float32 logits.
        sh0: [N, 1, 3] float32 DC coefficients.
        shN: [N, K-1, 3] float32 the rest, K = (sh_degree + 1)^2.
        antialiased: trained with the Mip-Splatting 2-D filter.
        extra: numbers and strings that travel with the model (provenance).
    """

    means: Tensor
    quats: Tensor
    scales: Tensor
    opacities: Tensor
    sh0: Tensor
    shN: Tensor
    antialiased: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)

    kind = "gaussians"

    def __post_init__(self) -> None:
        n = len(self.means)
        rest = self.shN.shape[1] if self.shN.ndim == 3 else -1
        expected = {
            "means": (n, 3),
            "quats": (n, 4),
            "scales": (n, 3),
            "opacities": (n,),
            "sh0": (n, 1, 3),
            "shN": (n, rest, 3),
        }
        for name, shape in expected.items():
            got = tuple(getattr(self, name).shape)
            if got != shape:
                raise ValueError(f"{name}: expected shape {list(shape)}, got {list(got)}")
        if rest not in (0, 3, 8, 15, 24):
            raise ValueError(f"shN: expected 0, 3, 8, 15 or 24 coefficients, got {rest}")

    def __len__(self) -> int:
        return len(self.means)

    @property
    def sh_degree(self) -> int:
        return {0: 0, 3: 1, 8: 2, 15: 3, 24: 4}[self.shN.shape[1]]

    @property
    def float_bytes(self) -> int:
        """Bytes of this model at 4 per stored float in INRIA's layout (248 per SH3 Gaussian)."""
        return len(self) * 4 * (FLOATS_WITHOUT_COLOR + 3 * (1 + self.shN.shape[1]))

    def tensors(self) -> dict[str, Tensor]:
        return {
            name: getattr(self, name)
            for name in ("means", "quats", "scales", "opacities", "sh0", "shN")
        }

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, "antialiased": self.antialiased, **self.extra}

    def to(self, device: torch.device | str) -> SplatModel:
        """The same model on another device."""
        moved = {name: value.to(device) for name, value in self.tensors().items()}
        return replace(self, **moved)

    def __getitem__(self, index: Tensor | slice) -> SplatModel:
        """The Gaussians that a mask, a slice or an index tensor selects, in that order."""
        parts = {name: getattr(self, name)[index] for name in ("means", "quats", "scales")}
        colors = torch.empty(len(parts["means"]), self.shN.shape[1] + 1, 3, dtype=self.sh0.dtype)
        colors[:, :1], colors[:, 1:] = self.sh0[index], self.shN[index]
        return replace(
            self, **parts, opacities=self.opacities[index], sh0=colors[:, :1], shN=colors[:, 1:]
        )

    def colors(self) -> Tensor:
        """[N, K, 3] all SH coefficients; no copy where shN follows sh0 in memory."""
        sh0, shN = self.sh0, self.shN
        k = shN.shape[1] + 1
        strides = (3 * k, 3, 1)
        adjacent = (
            k > 1
            and sh0.stride() == shN.stride() == strides
            and sh0.untyped_storage().data_ptr() == shN.untyped_storage().data_ptr()
            and shN.storage_offset() == sh0.storage_offset() + 3
        )
        if adjacent:
            return sh0.as_strided((len(sh0), k, 3), strides)
        return torch.cat([sh0, shN], dim=1)

    def activated(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Means, unit quats, linear scales, opacities in [0, 1], SH colors [N, K, 3].

        The only place that applies exp, sigmoid and normalisation.
        """
        quats = torch.nn.functional.normalize(self.quats, dim=1)
        return self.means, quats, self.scales.exp(), self.opacities.sigmoid(), self.colors()

    def options(self) -> RasterOptions:
        """How this model wants to be rasterised."""
        mode = "antialiased" if self.antialiased else "classic"
        return RasterOptions(sh_degree=self.sh_degree, rasterize_mode=mode)

    def renderer(self, options: RasterOptions | None = None) -> Callable[[Cameras], Tensor]:
        """A function from C cameras to images [C, H, W, 3] float32 on black, on the model's device.

        Activation happens once, here: render many views, or time them, through one renderer.
        """
        means, quats, scales, opacities, colors = self.activated()
        options = options or self.options()

        def draw(cameras: Cameras, colors: Tensor, options: RasterOptions) -> Tensor:
            image, _, _ = rasterize(
                means, quats, scales, opacities, colors, cameras.viewmats.to(means.device),
                cameras.Ks.to(means.device), cameras.width, cameras.height, options,
            )  # fmt: skip
            return image

        def draw_from_shelf(cameras: Cameras) -> Tensor:
            used = colors[:, : basis_count(options.sh_degree or 0)]
            plain = replace(options, sh_degree=None)
            views = [cameras[c : c + 1] for c in range(len(cameras))]
            return torch.cat([draw(v, painted(means, used, v.positions), plain) for v in views])

        if on_shelf(self):
            return draw_from_shelf
        return lambda cameras: draw(cameras, colors, options)

    def render(self, cameras: Cameras, options: RasterOptions | None = None) -> Tensor:
        """[C, H, W, 3] float32 images on a black background."""
        return self.renderer(options)(cameras)


def truncated(model: SplatModel, sh_degree: int) -> SplatModel:
    """The same without the colour coefficients above a degree."""
    if sh_degree >= model.sh_degree:
        return model
    rest = (sh_degree + 1) ** 2 - 1
    return replace(model, sh0=model.sh0.clone(), shN=model.shN[:, :rest].clone())

"""Gaussians from sampled surfaces: flat discs on the surface, coloured by least squares."""

from __future__ import annotations

import dataclasses
import math

import torch
from torch import Tensor

from ..render.sh import sh_bases
from ..render.splat import RasterOptions, rasterize
from ..scenes.cameras import Cameras
from ..scenes.surface_samples import SurfaceSamples
from .model import SplatModel

SPREAD = 0.53  # Standard deviation across the surface, in sample spacings: few holes, little blur.
THICKNESS = 0.04  # Standard deviation along the normal, in sample spacings.
OPACITY = (0.90, 0.985)
RIDGE = 0.002  # On the SH fit, times the squared degree: few directions must not run wild.
SH_C0 = 0.28209479177387814  # The constant basis, 1 / (2 sqrt(pi)).
BLUR_LEVELS = 5
CHUNK = 16_384  # Gaussians solved at a time; bounds memory.


def from_surface(samples: SurfaceSamples, *, sh_degree: int = 3, seed: int = 0) -> SplatModel:
    """One Gaussian for each surface sample, looking like the surface from every sampled side.

    Args:
        samples: P points with normals, spacing and colours from D directions.
        sh_degree: 0 to 3 (the fit needs D of about (sh_degree + 1)^2 or more directions).
        seed: of the small random turn, size and opacity that keep the discs from lining up.

    Returns:
        P Gaussians with stored values (logs, logits).
    """
    count = len(samples.points)
    generator = torch.Generator().manual_seed(seed)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(*shape, generator=generator)

    across = samples.spacing[:, None] * SPREAD * uniform(0.9, 1.1, count, 2)
    along = samples.spacing[:, None] * THICKNESS
    alpha = uniform(*OPACITY, count)
    coefficients = fit_sh(samples.toward, samples.colors, sh_degree)
    return SplatModel(
        means=samples.points.clone(),
        quats=facing(samples.normals, uniform(0, 2 * math.pi, count)),
        scales=torch.cat([across, along], dim=1).clamp_min(1e-9).log(),
        opacities=torch.logit(alpha),
        sh0=coefficients[:, :1].contiguous(),
        shN=coefficients[:, 1:].contiguous(),
    )


def refine_colors(
    model: SplatModel, cameras: Cameras, photos: Tensor, *, rounds: int = 2
) -> SplatModel:
    """The same Gaussians with base colours moved until their renders meet the photographs.

    Each round renders every view and gives each Gaussian the mean of what is left of the error
    around its centre, in the views that see it (a Jacobi step). Undoes the blur of overlapping
    discs; view-dependent coefficients stay as they are.

    Args:
        model: N Gaussians.
        cameras: C views, and
        photos: [C, H, W, 3] in [0, 1] what they saw.
        rounds: number of passes over all views.
    """
    if photos.shape != (len(cameras), cameras.height, cameras.width, 3):
        expected = [len(cameras), cameras.height, cameras.width, 3]
        raise ValueError(f"photos: expected {expected}, got {list(photos.shape)}")
    for _ in range(rounds):
        total, seen = torch.zeros_like(model.means), torch.full((len(model), 1), 1e-3)
        for i in range(len(cameras)):
            error, share = _error_at_centers(model, cameras[i : i + 1], photos[i])
            total += share[:, None] * error
            seen += share[:, None]
        step = (total / seen / SH_C0)[:, None]
        model = dataclasses.replace(model, sh0=model.sh0 + step)
    return model


def _error_at_centers(model: SplatModel, camera: Cameras, photo: Tensor) -> tuple[Tensor, Tensor]:
    """Photograph minus render around each Gaussian's centre [N, 3], and how far it is seen [N]."""
    means, quats, scales, opacities, colors = model.activated()
    options = RasterOptions(sh_degree=model.sh_degree, render_mode="RGB+ED")
    image, _, _ = rasterize(
        means, quats, scales, opacities, colors,
        camera.viewmats, camera.Ks, camera.width, camera.height, options,
    )  # fmt: skip
    local = means @ camera.viewmats[0, :3, :3].T + camera.viewmats[0, :3, 3]
    depth = local[:, 2].clamp_min(1e-6)
    frame = torch.tensor([camera.width, camera.height], dtype=torch.float32)
    place = local[:, :2] / depth[:, None] * camera.Ks[0, [0, 1], [0, 1]] + camera.Ks[0, :2, 2]
    place = place / frame * 2 - 1
    size = scales.amax(1)
    inside = (local[:, 2] > 0.01) & (place.abs() < 1).all(1)
    surface = _lookup(image[0, ..., 3:], place)[:, 0]
    seen = inside & (depth < 1.02 * surface + 2 * size)
    error = _lookup_blurred(photo - image[0, ..., :3], place, size / depth * camera.Ks[0, 0, 0])
    return error, seen.float()


def _lookup(image: Tensor, place: Tensor) -> Tensor:
    """Bilinear samples [P, D] of a picture [H, W, D] at places [P, 2] in -1..1."""
    planes = image.permute(2, 0, 1)[None]
    values = torch.nn.functional.grid_sample(
        planes, place[None, None], padding_mode="border", align_corners=False
    )
    return values[0, :, 0].T


def _lookup_blurred(image: Tensor, place: Tensor, sigma: Tensor) -> Tensor:
    """As `_lookup`, each from a copy about as blurred as a Gaussian of `sigma` [P] pixels."""
    level = torch.log2(sigma.clamp_min(1e-3)).round().clamp(0, BLUR_LEVELS - 1)
    result = torch.zeros(len(place), image.shape[2])
    for i in range(BLUR_LEVELS):
        index = (level == i).nonzero()[:, 0]
        result[index] = _lookup(image, place[index])
        image = torch.nn.functional.avg_pool2d(
            image.permute(2, 0, 1), 2, ceil_mode=True, count_include_pad=False
        ).permute(1, 2, 0)
    return result


def fit_sh(toward: Tensor, colors: Tensor, sh_degree: int) -> Tensor:
    """SH coefficients [P, K, 3] whose colours, seen from `toward`, are nearest to `colors`.

    Regularised least squares, each Gaussian for itself. Splat colour is 0.5 + SH in the direction
    from the camera to the Gaussian (Kerbl et al. 2023).

    Args:
        toward: [P, D, 3] unit directions from the Gaussian to the eye.
        colors: [P, D, 3] in [0, 1].
        sh_degree: highest degree that is fitted.
    """
    degrees = torch.cat([torch.full((2 * d + 1,), float(d)) for d in range(sh_degree + 1)])
    penalty = torch.diag(1e-6 + RIDGE * degrees**2)
    result = []
    for eye, color in zip(toward.split(CHUNK), colors.split(CHUNK), strict=True):
        bases = sh_bases(sh_degree, -eye)
        normal = bases.transpose(1, 2) @ bases / bases.shape[1] + penalty
        right = bases.transpose(1, 2) @ (color - 0.5) / bases.shape[1]
        result.append(torch.linalg.solve(normal, right))
    if not result:
        return torch.zeros(0, (sh_degree + 1) ** 2, 3)
    return torch.cat(result)


def facing(normals: Tensor, turn: Tensor) -> Tensor:
    """Quaternions [P, 4] wxyz that turn about z by `turn` [P] radians, then z onto normals."""
    # Half-way quaternion from z to n: (1 + z.n, z x n). Opposite vectors: any half turn across z.
    opposite = normals[:, 2] < -1 + 1e-6
    zero = torch.zeros_like(turn)
    tilt = torch.stack([1 + normals[:, 2], -normals[:, 1], normals[:, 0], zero], dim=1)
    tilt = torch.where(opposite[:, None], tilt.new_tensor([0, 1.0, 0, 0]), tilt)
    w, x, y, z = torch.nn.functional.normalize(tilt, dim=1).unbind(1)
    c, s = torch.cos(0.5 * turn), torch.sin(0.5 * turn)
    return torch.stack([w * c - z * s, x * c + y * s, y * c - x * s, z * c + w * s], dim=1)

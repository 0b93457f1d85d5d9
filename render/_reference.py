"""Plain torch twin of the rasteriser: the oracle. Small images only; any float dtype; autograd.

No tiles and no extents: every pixel sees every Gaussian that the culls leave, in depth order.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from . import _native
from .sh import sh_colors
from .splat import DEFAULTS, RasterOptions
from .statistics import SplatStatistics

PAIRS = 1 << 22  # Pixel-Gaussian pairs held at once.


@dataclass(frozen=True)
class Projection:
    """The survivors of one camera, front to back."""

    index: Tensor  # [M] into the N Gaussians
    means2d: Tensor  # [M, 2] pixels
    conics: Tensor  # [M, 3] inverse covariance: xx, xy, yy
    opacities: Tensor  # [M], compensated in antialiased mode
    depths: Tensor  # [M] camera z


def rasterize(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    options: RasterOptions = DEFAULTS,
) -> tuple[Tensor, Tensor, dict]:
    """`splat.rasterize` in the dtype of `means`, differentiable, without checks."""
    images, alphas = [], []
    for c in range(len(viewmats)):
        p = _project(means, quats, scales, opacities, viewmats[c], Ks[c], width, height, options)
        values = _channels(means, colors, viewmats, c, p, options)
        image, alpha = _compose(p, values, width, height, options)
        if options.backgrounds is not None and options.has_color:
            behind = options.backgrounds.to(image.dtype)
            behind = (1 - alpha) * (behind[c] if behind.ndim == 2 else behind)
            painted = image[..., : behind.shape[-1]] + behind
            image = torch.cat([painted, image[..., behind.shape[-1] :]], -1)
        images.append(image)
        alphas.append(alpha)
    return torch.stack(images), torch.stack(alphas), {}


def statistics(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    viewmats: Tensor,
    Ks: Tensor,
    width: int,
    height: int,
    options: RasterOptions = DEFAULTS,
) -> SplatStatistics:
    """`statistics.statistics` from the twin's weights."""
    n = len(means)
    hits = torch.zeros(n, dtype=torch.int64)
    sums = {k: torch.zeros(n, dtype=torch.float64) for k in ("opacity_hits", "weight", "square")}
    peak = torch.zeros(n, dtype=torch.float64)
    for c in range(len(viewmats)):
        p = _project(means, quats, scales, opacities, viewmats[c], Ks[c], width, height, options)
        for _, weights in _weights(p, width, height, options):
            drawn = (weights > 0).sum(0)
            hits[p.index] += drawn
            sums["opacity_hits"][p.index] += (drawn * p.opacities).double()
            sums["weight"][p.index] += weights.sum(0).double()
            sums["square"][p.index] += weights.square().sum(0).double()
            peak[p.index] = torch.maximum(peak[p.index], weights.max(0).values.double())
    return SplatStatistics(hits, sums["opacity_hits"], sums["weight"], sums["square"], peak.float())


def _project(
    means: Tensor,
    quats: Tensor,
    scales: Tensor,
    opacities: Tensor,
    view: Tensor,
    K: Tensor,
    width: int,
    height: int,
    options: RasterOptions,
) -> Projection:
    """EWA projection (Kerbl et al. 2023, eq. 5) of those Gaussians that can be seen."""
    view, K = view.to(means.dtype), K.to(means.dtype)
    camera = means @ view[:3, :3].T + view[:3, 3]
    z = camera[:, 2]
    known = torch.isfinite(torch.cat([means, quats, scales, opacities[:, None]], 1)).all(1)
    known &= (quats != 0).any(1)
    near = (z >= options.near_plane) & (z <= options.far_plane) & (z > 0)
    index = torch.nonzero(known & near)[:, 0]

    camera, opacity = camera[index], opacities[index]
    covariance = _screen_covariance(camera, quats[index], scales[index], view, K, width, height)
    raw_det = torch.det(covariance)
    covariance = covariance + options.eps2d * torch.eye(2, dtype=means.dtype)
    det = torch.det(covariance)
    if options.rasterize_mode == "antialiased":
        floor = options.compensation_floor**2
        opacity = opacity * (raw_det / det).clamp_min(floor).sqrt()
    extent = (2 * (opacity / _native.ALPHA_CUTOFF).clamp_min(1).log()).sqrt()
    extent = extent.clamp_max(_native.EXTENT_SIGMAS)
    radii = torch.ceil(extent[:, None] * covariance.diagonal(dim1=1, dim2=2).sqrt())
    clipped = (radii <= options.radius_clip).all(1)
    keep = (opacity >= _native.ALPHA_CUTOFF) & (det > 0) & torch.isfinite(det) & ~clipped
    keep = torch.nonzero(keep)[:, 0]
    keep = keep[torch.argsort(camera[keep, 2].float(), stable=True)]
    camera, covariance, det = camera[keep], covariance[keep], det[keep]
    focal, center = K[(0, 1), (0, 1)], K[:2, 2]
    inverse = [covariance[:, 1, 1], -covariance[:, 0, 1], covariance[:, 0, 0]]
    return Projection(
        index=index[keep],
        means2d=camera[:, :2] / camera[:, 2:] * focal + center,
        conics=torch.stack(inverse, 1) / det[:, None],
        opacities=opacity[keep],
        depths=camera[:, 2],
    )


def _screen_covariance(
    camera: Tensor, quats: Tensor, scales: Tensor, view: Tensor, K: Tensor, width: int, height: int
) -> Tensor:
    """[M, 2, 2] pixels squared, before the blur; the Jacobian's slope is clamped as in gsplat."""
    size = torch.tensor([width, height], dtype=camera.dtype)
    focal, center = K[(0, 1), (0, 1)], K[:2, 2]
    margin = _native.FRUSTUM_MARGIN * 0.5 * size / focal
    slope = camera[:, :2] / camera[:, 2:]
    slope = torch.minimum(torch.maximum(slope, -(center / focal + margin)),
                          (size - center) / focal + margin)  # fmt: skip
    z = camera[:, 2]
    zero = torch.zeros_like(z)
    jacobian = torch.stack([
        torch.stack([focal[0] / z, zero, -focal[0] * slope[:, 0] / z], 1),
        torch.stack([zero, focal[1] / z, -focal[1] * slope[:, 1] / z], 1),
    ], 1)  # fmt: skip
    factor = jacobian @ view[:3, :3] @ _rotations(quats) * scales[:, None, :]
    return factor @ factor.transpose(1, 2)


def _rotations(quats: Tensor) -> Tensor:
    """[M, 3, 3] from quaternions wxyz of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats, dim=1).unbind(1)
    rows = [
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    ]  # fmt: skip
    return torch.stack(rows, 1).reshape(-1, 3, 3)


def _channels(
    means: Tensor,
    colors: Tensor | None,
    viewmats: Tensor,
    c: int,
    p: Projection,
    options: RasterOptions,
) -> Tensor:
    """[M, channels] of the survivors; depth last."""
    parts = []
    if options.has_color:
        assert colors is not None
        if options.sh_degree is None:
            parts.append((colors[c] if colors.ndim == 3 else colors)[p.index])
        else:
            view = viewmats[c].to(means.dtype)
            position = -torch.linalg.inv(view[:3, :3]) @ view[:3, 3]
            directions = torch.nn.functional.normalize(means[p.index] - position, dim=1)
            parts.append(sh_colors(options.sh_degree, directions, colors[p.index]))
    if options.has_depth:
        parts.append(p.depths[:, None])
    return torch.cat(parts, 1)


def _weights(
    p: Projection, width: int, height: int, options: RasterOptions
) -> Iterator[tuple[Tensor, Tensor]]:
    """Row by row: alphas [W, M] and weights alpha * T [W, M] where drawn, else 0."""
    dtype = p.means2d.dtype
    x = torch.arange(width, dtype=dtype) + 0.5
    rows = max(1, PAIRS // max(1, width * len(p.index)))
    for top in range(0, height, rows):
        y = torch.arange(top, min(top + rows, height), dtype=dtype) + 0.5
        pixels = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 1, 2)
        dx, dy = (pixels - p.means2d).unbind(-1)
        xx, xy, yy = p.conics.unbind(1)
        sigma = 0.5 * (xx * dx * dx + yy * dy * dy) + xy * dx * dy
        alpha = (p.opacities * torch.exp(-sigma)).clamp_max(options.alpha_clamp)
        alpha = torch.where((sigma >= 0) & (alpha >= _native.ALPHA_CUTOFF), alpha, 0.0)
        after = torch.cumprod(1 - alpha, 1)
        # Once T falls to the threshold it stays there: this Gaussian and all later ones are out.
        alpha = torch.where(after > _native.TRANSMITTANCE_STOP, alpha, 0.0)
        before = torch.cat([torch.ones_like(after[:, :1]), after[:, :-1]], 1)
        yield alpha, alpha * before


def _compose(
    p: Projection, values: Tensor, width: int, height: int, options: RasterOptions
) -> tuple[Tensor, Tensor]:
    images, opacities = [], []
    for alpha, weights in _weights(p, width, height, options):
        images.append(weights @ values)
        opacities.append(1 - torch.prod(1 - alpha, 1, keepdim=True))
    image = torch.cat(images).reshape(height, width, -1)
    alpha = torch.cat(opacities).reshape(height, width, 1)
    if options.render_mode.endswith("ED"):
        depth = image[..., -1:] / alpha.clamp_min(_native.DEPTH_ALPHA_FLOOR)
        image = torch.cat([image[..., :-1], depth], -1)
    return image, alpha

"""Plain torch twin of the photometric loss: the oracle. Any float dtype; autograd."""

from __future__ import annotations

import torch
from torch import Tensor

WINDOW = 11  # Pixels; Wang et al. 2004.
SIGMA = 1.5  # Pixels.
C1, C2 = 0.01**2, 0.03**2  # For a data range of 1.


def photometric_loss(
    image: Tensor, target: Tensor, ssim_weight: float = 0.2, mask: Tensor | None = None
) -> Tensor:
    """`photometric.photometric_loss` in the dtype of `image`, without checks."""
    weights = torch.ones_like(image[..., 0]) if mask is None else mask.to(image.dtype)
    weights = weights[..., None].expand_as(image)
    if not bool((weights > 0).any()):
        return 0 * image.sum()
    target = target.to(image.dtype)
    l1 = (weights * (image - target).abs()).sum() / weights.sum()
    ssim = (weights * ssim_map(image, target)).sum() / weights.sum()
    return (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim)


def ssim_map(x: Tensor, y: Tensor) -> Tensor:
    """SSIM at each value of images [C, H, W, 3], which are black beyond their border."""
    mean_x, mean_y = blur(x), blur(y)
    var_x, var_y = blur(x * x) - mean_x**2, blur(y * y) - mean_y**2
    covariance = blur(x * y) - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    return luminance * (2 * covariance + C2) / (var_x + var_y + C2)


def blur(images: Tensor) -> Tensor:
    """Gaussian sums of [C, H, W, 3] by one banded matrix for each axis; 0 beyond the border."""
    down = _bands(images.shape[1], images.dtype)
    across = _bands(images.shape[2], images.dtype)
    return torch.einsum("ij,cjkd,lk->cild", down, images, across)


def _bands(n: int, dtype: torch.dtype) -> Tensor:
    offsets = torch.arange(n, dtype=dtype)[:, None] - torch.arange(n, dtype=dtype)
    weights = torch.exp(-0.5 * (offsets / SIGMA) ** 2) * (offsets.abs() <= WINDOW // 2)
    taps = torch.arange(WINDOW, dtype=dtype) - WINDOW // 2
    return weights / torch.exp(-0.5 * (taps / SIGMA) ** 2).sum()

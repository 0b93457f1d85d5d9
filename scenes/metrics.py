"""Image quality: PSNR, SSIM and LPIPS of pictures [..., H, W, 3] float in [0, 1].

A figure for several views is the mean over views of each view's figure. (torchmetrics' PSNR pools
the squared error of all views first, which gives another, larger-loss-weighted number.)
"""

from __future__ import annotations

import contextlib
import functools
import io
import math
import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

PSNR_CAP = 100.0  # dB; what identical pictures get, so that means and JSON stay finite.
WINDOW = 11  # Pixels; Wang et al. 2004.
SIGMA = 1.5  # Pixels.
C1, C2 = 0.01**2, 0.03**2  # For a data range of 1.
LPIPS_WEIGHTS = "alexnet-owt-7be5be79.pth"  # torchvision's file name, in torch.hub's folder.


def psnr(image: Tensor, reference: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB of each view, data range 1, at most 100 dB.

    Args:
        image: [..., H, W, 3] float; clamped to [0, 1] as a screen would.
        reference: the same shape.

    Returns:
        [...] float32, one number for each view.
    """
    _check(image, reference)
    error = (image.float().clamp(0, 1) - reference.float().clamp(0, 1)).double()
    mse = error.square().mean(dim=(-3, -2, -1))
    return (-10 * torch.log10(mse.clamp_min(10 ** (-PSNR_CAP / 10)))).float()


def ssim(image: Tensor, reference: Tensor) -> Tensor:
    """Structural similarity (Wang et al. 2004) of each view: Gaussian window of 11, sigma 1.5.

    The same as torchmetrics' `structural_similarity_index_measure` with data range 1. Pictures
    smaller than the window get the largest window that mirroring the edge allows.

    Args:
        image: [..., H, W, 3] float; clamped to [0, 1].
        reference: the same shape.

    Returns:
        [...] float32, one number for each view.
    """
    _check(image, reference)
    views, (height, width, channels) = image.shape[:-3], image.shape[-3:]
    x = image.float().clamp(0, 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    y = reference.float().clamp(0, 1).reshape(-1, height, width, channels).permute(0, 3, 1, 2)
    mean_x, mean_y, xx, yy, xy = _blur(torch.stack([x, y, x * x, y * y, x * y]))
    var_x, var_y = (xx - mean_x**2).clamp_min(0), (yy - mean_y**2).clamp_min(0)
    covariance = xy - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    structure = (2 * covariance + C2) / (var_x + var_y + C2)
    return (luminance * structure).mean(dim=(1, 2, 3)).reshape(views)


@functools.lru_cache(maxsize=1)
def load_lpips() -> Callable[[Tensor, Tensor], Tensor] | None:
    """LPIPS (AlexNet; Zhang et al. 2018) of each view, or None where it is not installed.

    Both the package `lpips` and torchvision's AlexNet weights must already be there: nothing is
    downloaded. A warning says once what is missing.
    """
    weights = Path(torch.hub.get_dir()) / "checkpoints" / LPIPS_WEIGHTS
    try:
        import lpips
    except ImportError:
        warnings.warn("LPIPS is left out: the package `lpips` is not installed", stacklevel=2)
        return None
    if not weights.is_file():
        warnings.warn(f"LPIPS is left out: {weights} is not there", stacklevel=2)
        return None
    with contextlib.redirect_stdout(io.StringIO()):  # It prints where it finds its weights.
        network = lpips.LPIPS(net="alex", verbose=False).eval().requires_grad_(False)

    def measure(image: Tensor, reference: Tensor) -> Tensor:
        _check(image, reference)
        pair = [
            t.float().clamp(0, 1).reshape(-1, *t.shape[-3:]).permute(0, 3, 1, 2)
            for t in (image, reference)
        ]
        return network(*pair, normalize=True).reshape(image.shape[:-3])

    return measure


def _check(image: Tensor, reference: Tensor) -> None:
    if image.shape != reference.shape or image.ndim < 3:
        raise ValueError(
            f"image and reference: expected the same [..., H, W, 3], got {list(image.shape)} "
            f"and {list(reference.shape)}"
        )


def _blur(images: Tensor) -> Tensor:
    """Gaussian means of [..., H, W] around every pixel, the edge mirrored as in torchmetrics."""
    shape = images.shape
    half = [min(WINDOW // 2, length - 1) for length in shape[-2:]]
    blurred = []
    for flat in images.reshape(-1, 1, 1, *shape[-2:]):  # One by one: a batch is padded sixteenfold.
        flat = torch.nn.functional.pad(flat, (half[1], half[1], half[0], half[0]), mode="reflect")
        for reach, view in ((half[0], (1, 1, -1, 1)), (half[1], (1, 1, 1, -1))):
            offset = torch.arange(-reach, reach + 1, dtype=torch.float32, device=images.device)
            kernel = torch.exp(-0.5 * (offset / SIGMA) ** 2)
            flat = torch.nn.functional.conv2d(flat, (kernel / kernel.sum()).reshape(view))
        blurred.append(flat)
    return torch.cat(blurred).reshape(shape)


def mean(values: list[float]) -> float | None:
    """The mean of each view's figure, or None without views."""
    return math.fsum(values) / len(values) if values else None

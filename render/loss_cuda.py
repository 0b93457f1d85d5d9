"""The photometric loss on CUDA: the same calls as `_native` has for the CPU."""

from __future__ import annotations

import torch
from torch import Tensor

from . import _native, cuda

BLOCK = _native.CUDA["block"]


def moments(kernels: cuda.Kernels, target: Tensor, mean: Tensor, variance: Tensor) -> None:
    """`_native.photometric_moments`."""
    views = _views(target, target, mean, variance, None)
    frame = _frame(kernels, views, [mean.data_ptr(), variance.data_ptr(), *[0] * 5], 0.0)
    kernels.launch("loss_moments", _blocks(target), BLOCK, frame.data_ptr())


def loss(
    kernels: cuda.Kernels,
    image: Tensor,
    target: Tensor,
    moments: tuple[Tensor, Tensor],
    mask: Tensor | None,
    ssim_weight: float,
    gradient: Tensor | None,
) -> Tensor:
    """`_native.photometric_loss` as a float32 scalar on the device, which nobody waits for.

    Raises ValueError where a weight of the mask is not in [0, 1]; asking that waits.
    """
    if mask is not None and not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError("mask: expected weights in [0, 1], got one that is not")
    sums = torch.zeros(3, dtype=torch.float64, device=image.device)
    sums[2] = image.numel() if mask is None else 3 * mask.sum(dtype=torch.float64)
    maps = torch.empty(3 if gradient is not None else 0, *image.shape, device=image.device)
    at = [part.data_ptr() for part in maps] or [0, 0, 0]
    work = [0, 0, *at, sums.data_ptr(), 0 if gradient is None else gradient.data_ptr()]
    frame = _frame(kernels, _views(image, target, *moments, mask), work, ssim_weight)
    kernels.launch("loss_compare", _blocks(image), BLOCK, frame.data_ptr())
    if gradient is not None:
        kernels.launch("loss_gradient", _blocks(image), BLOCK, frame.data_ptr())
    l1, ssim = sums[:2] / sums[2]
    value = (1 - ssim_weight) * l1 + ssim_weight * (1 - ssim)
    return torch.where(sums[2] > 0, value, 0.0).float()


def _views(
    image: Tensor, target: Tensor, mean: Tensor, variance: Tensor, mask: Tensor | None
) -> list[int]:
    """As `_native.cuda_loss` takes them."""
    tensors = [t.data_ptr() for t in (image, target, mean, variance)]
    return [*image.shape[:3], *tensors, 0 if mask is None else mask.data_ptr()]


def _frame(kernels: cuda.Kernels, views: list[int], work: list[int], ssim_weight: float) -> Tensor:
    return cuda.uploaded(_native.cuda_loss(views, work, ssim_weight), kernels.device)


def _blocks(image: Tensor) -> int:
    """A block a tile of a view."""
    views, height, width, _ = image.shape
    return views * -(-height // _native.TILE) * -(-width // _native.TILE)

"""The loss that splats are trained with: L1 and SSIM against photographs, in one native call."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from . import _native
from .splat import backend_of, check


@dataclass(frozen=True)
class PhotometricTarget:
    """Photographs with the half of SSIM that does not depend on the render; from `prepare`.

    Attributes:
        image: [C, H, W, 3] float32.
        mean: [C, H, W, 3] float32 Gaussian mean of image - 0.5 in the window of 11, sigma 1.5;
            the kernels take moments of value - 0.5, which rounds finer.
        variance: [C, H, W, 3] float32 Gaussian variance in the same window.
    """

    image: Tensor
    mean: Tensor
    variance: Tensor

    @classmethod
    def prepare(cls, image: Tensor) -> PhotometricTarget:
        """Blurs photographs [C, H, W, 3] float32 once; three times their memory.

        Raises:
            ValueError: a shape, dtype or device that does not fit, or a tensor with gradients.
        """
        check("target", image, _views("target", image), image.device)
        photo = _constant("target", image)
        mean, variance = torch.empty_like(photo), torch.empty_like(photo)
        if photo.numel():
            backend = backend_of(photo.device)
            backend.photometric_moments(photo, mean, variance, torch.get_num_threads())
        return cls(photo, mean, variance)


def photometric_loss(
    image: Tensor,
    target: Tensor | PhotometricTarget,
    ssim_weight: float = 0.2,
    mask: Tensor | None = None,
) -> Tensor:
    """(1 - w) * L1 + w * (1 - SSIM), means over all values (Kerbl et al. 2023, eq. 7).

    SSIM after Wang et al. 2004: window of 11, sigma 1.5, C1 = 0.01^2, C2 = 0.03^2, each channel by
    itself, no clamping. Beyond the border both images are black, as in the code of Kerbl et al.;
    `scenes.metrics.ssim`, which measures, mirrors the border instead. The gradient is found in the
    same pass as the value where `image` wants one; where image == target, |x - y| has slope 0. The
    same bits whatever the number of threads. A NaN in the image makes the loss NaN.

    Args:
        image: [C, H, W, 3] float32, the render; may require a gradient.
        target: the same shape, or a `PhotometricTarget`, which spares blurring it again.
        ssim_weight: w in [0, 1].
        mask: [C, H, W] float32 weights in [0, 1] of |x - y| and of the SSIM map at each pixel, so
            that a mean is sum(m * v) / sum(m). All 0: the loss and its gradient are 0.

    Returns:
        A float32 scalar; 0 where there are no views.

    Raises:
        ValueError: a shape, dtype, device or value that does not fit, by argument.
    """
    shape = _views("image", image)
    on = image.device
    check("image", image, shape, on)
    weight = float(ssim_weight)
    if not 0 <= weight <= 1:
        raise ValueError(f"ssim_weight: expected in [0, 1], got {ssim_weight}")
    if mask is not None:
        check("mask", mask, shape[:3], on)
        mask = _constant("mask", mask)
    if not isinstance(target, PhotometricTarget):
        check("target", target, shape, on)
        target = PhotometricTarget.prepare(target)
    for name in ("image", "mean", "variance"):
        check(f"target.{name}", getattr(target, name), shape, on)
    if image.numel() == 0:
        return image.sum()
    if image.requires_grad and torch.is_grad_enabled():
        return _Photometric.apply(image, target, weight, mask)
    return _measure(image, target, weight, mask, None)


def _measure(
    image: Tensor,
    target: PhotometricTarget,
    weight: float,
    mask: Tensor | None,
    gradient: Tensor | None,
) -> Tensor:
    """The loss; fills `gradient` unless it is None."""
    tensors = (image, target.image, target.mean, target.variance)
    x, y, mean, variance = (t.detach().contiguous() for t in tensors)
    threads = torch.get_num_threads()
    found = backend_of(image.device).photometric_loss(
        x, y, mean, variance, mask, weight, gradient, threads
    )
    return torch.as_tensor(found, dtype=torch.float32)


class _Photometric(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, image: Tensor, target: PhotometricTarget, weight: float, mask: Tensor | None
    ) -> Tensor:
        gradient = torch.empty(image.shape, dtype=torch.float32, device=image.device)
        loss = _measure(image, target, weight, mask, gradient)
        ctx.save_for_backward(gradient)
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, upstream: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore
        (gradient,) = ctx.saved_tensors
        # 1 where this is the whole loss: spares a copy, which on CUDA is cheaper than to ask.
        if upstream.device.type != "cpu" or float(upstream) != 1:
            gradient = gradient * upstream
        return gradient, None, None, None


def _views(name: str, value: Tensor) -> tuple[int, ...]:
    """The shape of a tensor that must be [C, H, W, 3]."""
    shape = tuple(value.shape) if isinstance(value, Tensor) else None
    if shape is None or len(shape) != 4 or shape[3] != 3:
        got = type(value).__name__ if shape is None else list(shape)
        raise ValueError(f"{name}: expected a tensor [C, H, W, 3], got {got}")
    if not all(1 <= side <= _native.MAX_SIDE for side in shape[1:3]):
        raise ValueError(f"{name}: expected sides of 1 to {_native.MAX_SIDE}, got {list(shape)}")
    return shape


def _constant(name: str, value: Tensor) -> Tensor:
    """The tensor, contiguous; there are no gradients towards it."""
    if value.requires_grad and torch.is_grad_enabled():
        raise ValueError(f"{name}: expected a tensor without gradients; only `image` has them")
    return value.detach().contiguous()

"""Vector-quantised latent pictures: convolutions, a codebook, and the way back to pixels.

Nothing has a bias, and a zero stays what it is: where there is nothing to see, pictures are black.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

KERNEL = 3
TAPS = KERNEL**2


def new_decoder(basis: Tensor, width: int, seed: int) -> tuple[Tensor, ...]:
    """Two hidden layers that at first do just what a linear decoder does.

    Latents go through them once as they are and once negative, so that rectifiers lose nothing; a
    decoder that has to find this by itself takes hundreds of steps to do so.

    Args:
        basis: [3 ratio^2, d], columns that latents weigh.
        width: of the layers, at least 2 d.
        seed: of the kernels that latents do not go through at first.
    """
    pixels, latent = basis.shape
    if width < 2 * latent:
        raise ValueError(f"width: expected at least twice the {latent} latents, got {width}")
    kernels = [
        matrix.reshape(len(matrix), -1, TAPS)
        for matrix in new_convolutions([3 + latent, width, width, pixels], seed)
    ]
    one, middle = torch.eye(latent), TAPS // 2
    kernels[0][: 2 * latent] = 0
    kernels[0][:latent, 3:, middle], kernels[0][latent : 2 * latent, 3:, middle] = one, -one
    kernels[1][: 2 * latent] = 0
    kernels[1][: 2 * latent, : 2 * latent, middle] = torch.eye(2 * latent)
    kernels[2].zero_()
    kernels[2][:, : 2 * latent, middle] = torch.cat([basis, -basis], 1)
    return tuple(kernel.flatten(1) for kernel in kernels)


def new_convolutions(widths: Sequence[int], seed: int) -> tuple[Tensor, ...]:
    """Matrices [out, 9 in] for layers of these widths, uniform as He et al. 2015 have it."""
    rng = torch.Generator().manual_seed(seed)
    return tuple(
        torch.empty(out, TAPS * into).uniform_(-1, 1, generator=rng) * math.sqrt(6 / (TAPS * into))
        for into, out in pairwise(widths)
    )


def convolve(x: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Maps [B, C, H, W] through 3x3 convolutions, rectified but for the last; zeros around."""
    for i, weight in enumerate(weights):
        kernel = weight.reshape(len(weight), -1, KERNEL, KERNEL)
        x = functional.conv2d(x, kernel, padding=KERNEL // 2)
        x = x.relu_() if i + 1 < len(weights) else x
    return x


def detail_of(pictures: Tensor, ratio: int) -> Tensor:
    """[B, 3 ratio^2, H / ratio, W / ratio] of pictures [B, 3, H, W] what their centres lack."""
    smooth = stretched(centers_of(pictures, ratio), ratio)
    return functional.pixel_unshuffle(pictures - smooth, ratio)


def latents_of(pictures: Tensor, encoder: Sequence[Tensor], ratio: int) -> Tensor:
    """[B, d, H / ratio, W / ratio] latents of the detail of pictures [B, 3, H, W]."""
    return convolve(detail_of(pictures, ratio), encoder)


def stretched(centers: Tensor, ratio: int) -> Tensor:
    """Maps [B, C, h, w] at `ratio` times the size, bilinear."""
    return functional.interpolate(centers, scale_factor=ratio, mode="bilinear", align_corners=False)


def centers_of(pictures: Tensor, ratio: int) -> Tensor:
    """[B, 3, H / ratio, W / ratio] what a ray through the middle of each block would see."""
    edge = ratio // 2 - 1 if ratio % 2 == 0 else ratio // 2
    inner = functional.pad(pictures, [-edge] * 4) if edge else pictures
    return functional.avg_pool2d(inner, ratio - 2 * edge, ratio)


def pixels_of(latents: Tensor, centers: Tensor, decoder: Sequence[Tensor], ratio: int) -> Tensor:
    """Pictures [B, 3, H, W], not clamped, of latents [B, d, h, w] and colours [B, 3, h, w].

    What the decoder adds to the colours, stretched, is what they do not show: detail.
    """
    detail = convolve(torch.cat([centers, latents], 1), decoder)
    return stretched(centers, ratio) + functional.pixel_shuffle(detail, ratio)


def nearest(latents: Tensor, codes: Tensor) -> Tensor:
    """[N, G] which code of each group is nearest to that part of latents [N, G * s].

    Args:
        latents: [N, d].
        codes: [G, K, s], d = G * s.
    """
    parts = latents.detach().reshape(len(latents), len(codes), -1).transpose(0, 1)
    halves = 0.5 * codes.square().sum(2)
    # Its `argmin` is half as fast as `min`.
    return (halves[:, None] - parts @ codes.transpose(1, 2)).min(2).indices.T


def looked_up(index: Tensor, codes: Tensor) -> Tensor:
    """[N, G * s] the codes of indices [N, G]."""
    groups = torch.arange(len(codes), device=codes.device)
    return codes[groups, index].flatten(1)


def quantised(latents: Tensor, codes: Tensor) -> Tensor:
    """Maps [B, d, h, w] with every latent replaced by its codes."""
    flat = latents.movedim(1, 3).flatten(0, 2)
    batch, _, height, width = latents.shape
    seen = flat.any(1).nonzero()[:, 0]  # Rays that met nothing bring back nothing: one search.
    index = nearest(flat.new_zeros(1, flat.shape[1]), codes).repeat(len(flat), 1)
    index[seen] = nearest(flat[seen], codes)
    back = looked_up(index, codes).reshape(batch, height, width, -1)
    return back.movedim(3, 1)

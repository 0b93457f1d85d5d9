"""Losses on features of pictures rather than on pixels; whose features is up to the caller."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional

Features = Callable[[Tensor], Sequence[Tensor]]
"""Pictures [B, 3, H, W] to maps [B, C, h, w] of features, differentiable."""

WIDTHS = (3, 16, 32)
EPSILON = 1e-4


def random_features(seed: int = 0) -> Features:
    """Two strided convolutions with fixed random weights: no training, nothing to download.

    Random filters keep distances between textures well enough to compare them (Saxe et al. 2011);
    features of CLIP, DINO or VGG can take their place where they are at hand.
    """
    rng = torch.Generator().manual_seed(seed)
    kernels = []
    for into, out in pairwise(WIDTHS):
        kernel = torch.randn(out, into, 4, 4, generator=rng)
        kernels.append(kernel - kernel.mean((1, 2, 3), keepdim=True))  # Blind to plain brightness.

    def features(pictures: Tensor) -> list[Tensor]:
        found, x = [], pictures
        for kernel in kernels:
            x = functional.conv2d(x, kernel, stride=2, padding=1).relu()
            found.append(x)
        return found

    return features


def semantic_loss(found: Tensor, wanted: Tensor, features: Features) -> Tensor:
    """1 - cosine of the features of two stacks of pictures [B, 3, H, W], the mean over places."""
    losses = []
    for ours, theirs in zip(features(found), features(wanted), strict=True):
        product = (ours * theirs).sum(1)
        size = (ours.square().sum(1) + EPSILON).sqrt() * (theirs.square().sum(1) + EPSILON).sqrt()
        losses.append(((size - product) / size).mean())
    return torch.stack(losses).mean()

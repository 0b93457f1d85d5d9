"""How far a decoded clip is from its original: RGB, YUV 6:1:1, SSIM and MS-SSIM.

Every figure is the mean over frames of each frame's figure, but `psnr_pooled`, whose squared error
is pooled over all frames first: the two rank codecs differently.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from . import metrics
from .metrics import C1, C2, PSNR_CAP, SIGMA, WINDOW
from .yuv import halved, yuv_from_rgb

SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003.
LUMA_SHARE = (6, 1, 1)  # Of Y, U and V in the YUV figure.


def compare(
    found: Iterable[NDArray[np.uint8]], truth: NDArray[np.uint8], matrix: str
) -> dict[str, float]:
    """Quality of frames, [H, W, 3] uint8 one after the other, against others [T, H, W, 3].

    `psnr_y` and `psnr_yuv` are of both converted to 4:2:0 in floating point, `psnr_yuv` is
    (6 Y + U + V) / 8 in dB. Raises ValueError for another size or number.
    """
    rows: list[dict[str, float]] = []
    for one, other in itertools.zip_longest(found, truth):
        if one is None or other is None or one.shape != other.shape:
            got = "none" if one is None else str(list(one.shape))
            raise ValueError(f"clip: expected {list(truth.shape)}, got {got} as frame {len(rows)}")
        pair = [torch.from_numpy(np.array(x)).float()[None] / 255 for x in (one, other)]
        planes = [_planes(x, matrix) for x in pair]
        y, u, v = (_psnr(a, b) for a, b in zip(*planes, strict=True))
        mse = float((pair[0] - pair[1]).double().square().mean())
        rows.append({
            "psnr": float(metrics.psnr(*pair)),
            "psnr_y": y,
            "psnr_yuv": (LUMA_SHARE[0] * y + u + v) / sum(LUMA_SHARE),
            "ssim": float(metrics.ssim(*pair)),
            "ms_ssim": ms_ssim(*pair),
            "mse": mse,
        })  # fmt: skip
    means = {key: math.fsum(row[key] for row in rows) / len(rows) for key in rows[0]}
    pooled = _decibels(means.pop("mse"))
    return {**means, "psnr_pooled": pooled}


def _planes(rgb: Tensor, matrix: str) -> tuple[Tensor, Tensor, Tensor]:
    y, u, v = yuv_from_rgb(rgb, matrix).unbind(-1)
    return y, halved(u), halved(v)


def _psnr(found: Tensor, truth: Tensor) -> float:
    return _decibels(float((found - truth).double().square().mean()))


def _decibels(mse: float) -> float:
    return -10 * math.log10(max(mse, 10 ** (-PSNR_CAP / 10)))


def ms_ssim(image: Tensor, reference: Tensor) -> float:
    """Multi-scale structural similarity (Wang et al. 2003) of pictures [1, H, W, 3] in [0, 1].

    Pictures with a side below 11 * 2^4 pixels have only the scales that the window fits in, their
    exponents made to add up to 1.
    """
    x, y = (t.permute(3, 0, 1, 2) for t in (image, reference))  # Colours as a batch.
    scales = 1 + max(0, int(math.log2(max(min(x.shape[2:]) / WINDOW, 1))))
    weights = SCALE_WEIGHTS[: min(scales, len(SCALE_WEIGHTS))]
    total = torch.ones(len(x), dtype=torch.float64)
    for scale, weight in enumerate(weights):
        if scale:
            x, y = F.avg_pool2d(x, 2), F.avg_pool2d(y, 2)
        luminance, structure = _similarity(x, y)
        last = scale == len(weights) - 1
        value = (luminance * structure if last else structure).double().mean(dim=(1, 2, 3))
        total *= value.clamp_min(0) ** (weight / sum(weights))
    return float(total.mean())


def _similarity(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Luminance and contrast-structure of [N, 1, H, W], where the window lies inside."""
    reach = min(WINDOW, *x.shape[2:])
    offset = torch.arange(reach, dtype=torch.float32) - (reach - 1) / 2
    kernel = torch.exp(-0.5 * (offset / SIGMA) ** 2)
    kernel = kernel / kernel.sum()
    stacked = torch.stack([x, y, x * x, y * y, x * y]).reshape(-1, 1, *x.shape[2:])
    blurred = F.conv2d(F.conv2d(stacked, kernel.reshape(1, 1, -1, 1)), kernel.reshape(1, 1, 1, -1))
    mean_x, mean_y, xx, yy, xy = blurred.reshape(5, len(x), 1, *blurred.shape[2:])
    luminance = (2 * mean_x * mean_y + C1) / (mean_x**2 + mean_y**2 + C1)
    variance = xx - mean_x**2 + yy - mean_y**2
    return luminance, (2 * (xy - mean_x * mean_y) + C2) / (variance + C2)

"""RGB and YUV pictures of 8 bits: the matrices of BT.601 and BT.709, both ranges, 4:2:0 and 4:4:4.

Chroma of 4:2:0 is the mean of each 2x2 pixels and comes back by linear interpolation between
those centres (the siting of JPEG), the edge repeated.
"""

from __future__ import annotations

import torch
from numpy.typing import NDArray
from torch import Tensor

WEIGHTS = {"bt601": (0.299, 0.114), "bt709": (0.2126, 0.0722)}  # Of red and blue in luma.
HIGH_DEFINITION = 720  # Lines from which an unnamed matrix is taken to be BT.709.


def usual_matrix(height: int) -> str:
    """The matrix of a video that does not say its own, as players take it."""
    return "bt709" if height >= HIGH_DEFINITION else "bt601"


def yuv_from_rgb(rgb: Tensor, matrix: str) -> Tensor:
    """[..., 3] luma in [0, 1] and chroma in [-1/2, 1/2] of RGB [..., 3] float in [0, 1]."""
    red, blue = WEIGHTS[matrix]
    r, g, b = rgb.unbind(-1)
    y = red * r + (1 - red - blue) * g + blue * b
    return torch.stack([y, (b - y) / (2 * (1 - blue)), (r - y) / (2 * (1 - red))], -1)


def rgb_from_yuv(yuv: Tensor, matrix: str) -> Tensor:
    """[..., 3], the inverse of `yuv_from_rgb`."""
    red, blue = WEIGHTS[matrix]
    y, u, v = yuv.unbind(-1)
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    return torch.stack([r, (y - red * r - blue * b) / (1 - red - blue), b], -1)


def halved(plane: Tensor) -> Tensor:
    """[N, H/2, W/2] (rounded up): means of 2x2 pixels of [N, H, W]."""
    pad = (0, plane.shape[-1] % 2, 0, plane.shape[-2] % 2)
    padded = torch.nn.functional.pad(plane[:, None], pad, mode="replicate")
    return torch.nn.functional.avg_pool2d(padded, 2)[:, 0]


def doubled(plane: Tensor, height: int, width: int) -> Tensor:
    """[N, height, width]: linear interpolation of the centres that `halved` leaves."""
    size = (2 * plane.shape[-2], 2 * plane.shape[-1])
    large = torch.nn.functional.interpolate(
        plane[:, None], size=size, mode="bilinear", align_corners=False
    )
    return large[:, 0, :height, :width]


def planes_of(
    frames: NDArray, matrix: str, *, full: bool, subsample: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Planes Y [N, H, W], U, V uint8 of frames [N, H, W, 3] uint8; U, V halved if `subsample`."""
    y, u, v = yuv_from_rgb(torch.from_numpy(frames).float() / 255, matrix).unbind(-1)
    if subsample:
        u, v = halved(u), halved(v)
    (low, luma), chroma = ((0, 255), 255) if full else ((16, 219), 224)
    return _bytes(low + luma * y), _bytes(128 + chroma * u), _bytes(128 + chroma * v)


def frames_of(y: Tensor, u: Tensor, v: Tensor, matrix: str, *, full: bool) -> NDArray:
    """Frames [N, H, W, 3] uint8 of planes uint8, chroma as large as luma or halved."""
    (low, luma), chroma = ((0, 255), 255) if full else ((16, 219), 224)
    height, width = y.shape[-2:]
    color = [(plane.float() - 128) / chroma for plane in (u, v)]
    if u.shape != y.shape:
        color = [doubled(plane, height, width) for plane in color]
    rgb = rgb_from_yuv(torch.stack([(y.float() - low) / luma, *color], -1), matrix)
    return _bytes(255 * rgb).numpy()


def _bytes(values: Tensor) -> Tensor:
    return values.round().clamp(0, 255).byte()

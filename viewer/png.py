"""A PNG writer of a few lines, so that reports need no imaging package."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from torch import Tensor

SIGNATURE = b"\x89PNG\r\n\x1a\n"
TRUE_COLOR, UP = 2, 2  # Colour type, and the filter that predicts each row from the one above.


def encode_png(image: Tensor) -> bytes:
    """Lossless PNG of a picture [H, W, 3], float in [0, 1] (clamped) or uint8."""
    if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise ValueError(f"image: expected [H, W, 3], got {list(image.shape)}")
    pixels = image.detach().cpu()
    if pixels.is_floating_point():
        pixels = (pixels.nan_to_num(0.0).clamp(0, 1) * 255).round()
    rows = pixels.numpy().astype(np.uint8).reshape(image.shape[0], -1)
    filtered = np.empty((rows.shape[0], rows.shape[1] + 1), np.uint8)
    filtered[:, 0] = UP
    filtered[:, 1:] = rows
    filtered[1:, 1:] -= rows[:-1]  # Modulo 256, as PNG wants it.
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, TRUE_COLOR, 0, 0, 0)
    body = zlib.compress(filtered.tobytes(), 6)
    return SIGNATURE + _chunk(b"IHDR", header) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

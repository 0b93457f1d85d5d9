"""Pictures that are fitted without being in memory as a whole."""

from __future__ import annotations

import contextlib
import io
import math
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from .fields.image import MAX_SIDE, ImageField, places
from .fields.pixels import BAND, COLOR_SCALE, FiledPixels, HeldPixels, Pixels, rows_of_npy
from .quant import budget
from .scenes import metrics
from .scenes.upright import is_turned, turned, upright, upright_size

HELD = 1 << 26  # Bytes of pixels that stay in memory.


@contextmanager
def opened(path: str, held: int = HELD) -> Iterator[Pixels]:
    """The pixels of a picture file while the block lasts.

    A .npy of [H, W, 3] uint8 is read where it lies, band by band, whatever its size. Others are
    decoded by Pillow, which does that as a whole, four bytes a pixel; those of more than `held`
    bytes go row by row to a scratch file (in TMPDIR, ten bytes a pixel), and only a part of it is
    in memory from then on.

    Raises ValueError or OSError naming the file.
    """
    from .field_jobs import read_picture

    if Path(path).suffix.lower() == ".npy":
        offset, width, height = rows_of_npy(Path(path))
        if max(width, height) > MAX_SIDE:
            raise ValueError(f"{path}: expected sides up to {MAX_SIDE}, got {width}x{height}")
        with Path(path).open("rb") as file, tempfile.TemporaryFile() as scratch:
            yield FiledPixels(file, offset, scratch, width, height)
        return
    size = _size(path)
    if size is None or 3 * size[0] * size[1] <= held:
        yield HeldPixels(read_picture(path))
        return
    with tempfile.TemporaryFile() as file:
        _spool(path, file)
        yield FiledPixels(file, 0, file, *size)


def _size(path: str) -> tuple[int, int] | None:
    """Columns and rows; None for what is to be complained about in the usual way."""
    with contextlib.suppress(Exception):
        from PIL import Image

        with _large_ones(), Image.open(path) as picture:
            return upright_size(picture)
    return None


def _spool(path: str, file: Any) -> None:
    """Write a picture's rows, three bytes a pixel."""
    from PIL import Image

    try:
        data = io.BytesIO(Path(path).read_bytes())
        with _large_ones(), Image.open(data) as picture:
            width, height = picture.size
            if max(picture.size) > MAX_SIDE:
                raise ValueError(f"{path}: expected sides up to {MAX_SIDE}, got {picture.size}")
            each = 8 if is_turned(picture) else 4  # Bytes of a pixel; a turned one is another.
            budget.check(each * width * height + len(data.getbuffer()), path)
            picture = turned(picture)
            width, height = picture.size
            for y in range(0, height, BAND):
                part = picture.crop((0, y, width, min(y + BAND, height)))
                file.write(upright(part, path).tobytes())
            file.flush()
    except (OSError, SyntaxError) as error:
        if getattr(error, "filename", None) is not None:  # No such file, say.
            raise
        raise ValueError(f"{path}: not readable: {error}") from None


@contextmanager
def _large_ones() -> Iterator[None]:
    """Pillow's limit lifted: ours asks for the memory itself, before it is taken."""
    from PIL import Image

    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def compare_bands(model: ImageField, pixels: Pixels) -> dict[str, float]:
    """PSNR and SSIM of a field against pixels, some rows at a time, and pictures a second.

    PSNR is that of the whole; SSIM the mean over bands, whose windows end at their edges.
    """
    squares, similar, seconds = 0.0, 0.0, 0.0
    device = model.network.table.device
    for y, rows in pixels.bands():
        start = time.perf_counter()
        index = torch.arange(y * pixels.width, (y + len(rows)) * pixels.width, device=device)
        found = model.network(places(index, pixels.width, pixels.height)).T
        seconds += time.perf_counter() - start
        found, truth = found.cpu().clamp(0, 1).reshape(rows.shape), rows.cpu().float() / COLOR_SCALE
        squares += float((found - truth).double().square().sum())
        similar += float(metrics.ssim(found, truth)) * len(rows)
    mse = squares / (3 * pixels.width * pixels.height)
    psnr = -10 * math.log10(max(mse, 1e-20))
    return {"psnr": psnr, "ssim": similar / pixels.height, "fps": 1 / seconds}


def peak_memory() -> int | None:
    """The most bytes of memory that this process had so far; None where that is not told."""
    try:
        import resource
    except ImportError:  # Windows.
        return None
    found = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found if sys.platform == "darwin" else 1024 * found

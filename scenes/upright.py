"""Pictures that Pillow reads, as they are meant to be seen: turned by cameras, of 16 bits."""

from __future__ import annotations

import contextlib
from typing import Any

ORIENTATION = 0x0112  # Of EXIF.
LYING = (5, 6, 7, 8)  # Its values of pictures whose rows are columns.
DEEP = ("I;16", "I;16B", "I;16L", "I;16N")


def upright_size(picture: Any) -> tuple[int, int]:
    """Columns and rows of a Pillow image as `upright` gives it, before its pixels are read."""
    width, height = picture.size
    return (height, width) if _orientation(picture) in LYING else (width, height)


def upright(picture: Any, name: str) -> Any:
    """A Pillow image in RGB, turned as its EXIF says; greys of 16 bits are scaled.

    Raises ValueError for greys of 32 bits, whose range nobody states.
    """
    if picture.mode in ("I", "F"):
        raise ValueError(f"{name}: expected 8 or 16 bits a channel, got 32")
    picture = turned(picture)
    if picture.mode in DEEP:  # Pillow would cut them off at 255.
        import numpy as np
        from PIL import Image

        grey = np.asarray(picture).astype(np.uint32)
        picture = Image.fromarray(((grey * 255 + 32767) // 65535).astype(np.uint8))
    return picture.convert("RGB")


def is_turned(picture: Any) -> bool:
    """Whether `turned` makes another image of a Pillow image."""
    return _orientation(picture) != 1


def turned(picture: Any) -> Any:
    """A Pillow image turned as its EXIF says; itself where that says nothing."""
    if not is_turned(picture):
        return picture
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture)


def _orientation(picture: Any) -> int:
    """As EXIF numbers them; 1, as it lies, where that is damaged or missing."""
    with contextlib.suppress(Exception):  # Pillow's reader of EXIF fails in many ways.
        found = picture.getexif().get(ORIENTATION)
        return found if found in range(1, 9) else 1
    return 1

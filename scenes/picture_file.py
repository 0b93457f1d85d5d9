"""Pictures by Pillow, carefully: no more is taken than the file has, and errors are one line."""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

# What Pillow's readers fail with, beside OSError.
_DAMAGE = (SyntaxError, ValueError, TypeError, LookupError, OverflowError, struct.error)


class _Bounded(io.BufferedReader):
    """A file that is never asked for more than is left of it: Pillow asks for what chunks claim."""

    def __init__(self, path: str | Path) -> None:
        super().__init__(io.FileIO(path))
        self._size = os.fstat(self.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        left = max(0, self._size - self.tell())
        return super().read(left if size is None or size < 0 else min(size, left))


@contextmanager
def open_picture(path: str | Path) -> Iterator[Any]:
    """Pillow's picture of a file, for as long as the block takes; decoded when it asks for pixels.

    Raises ValueError, one line that names the file, for what is no picture or is damaged, also
    where the block finds out; OSError where the file cannot be opened.
    """
    try:
        from PIL import Image, UnidentifiedImageError
    except ImportError:
        raise ValueError(
            f"{path}: pictures need Pillow: pip install 'fieldpress[images]'"
        ) from None
    try:
        with _Bounded(path) as file, Image.open(file) as picture:
            yield picture
    except UnidentifiedImageError:
        raise ValueError(f"{path}: not a picture that Pillow reads") from None
    except (OSError, *_DAMAGE, Image.DecompressionBombError) as error:
        if getattr(error, "filename", None) is not None or str(error).startswith(str(path)):
            raise  # No such file, say; or what the block said itself.
        raise ValueError(f"{path}: not readable: {error}") from None

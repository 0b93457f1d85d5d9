"""Pixels that a field is fitted to: in memory, or shuffled into a file of which parts are."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .image import places

COLOR_SCALE = 255.0
CHANNELS = 3
BUCKET = 1 << 21  # Pixels that are in memory.
TURNS = 4  # Draws from a bucket before the next one is read.
NPY_HEADER = 512  # Bytes; NumPy writes some hundred, and parses thousands for seconds.
BAND = 256  # Rows that are looked at together.
PIXEL = np.dtype([("index", "<u4"), ("color", "u1", CHANNELS)])  # In a bucket.


class Pixels(Protocol):
    """Colours of a picture of `width` x `height`, a share of them at a time."""

    width: int
    height: int

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Places [count, 2] of random pixels and their colours [3, count] in [0, 1]."""
        ...

    def bands(self) -> Iterator[tuple[int, Tensor]]:
        """First row, and the rows [n, W, 3] uint8 from it on, of the whole picture in turn."""
        ...


class HeldPixels:
    """A picture in memory.

    Attributes:
        picture: [H, W, 3] uint8, on the device. Raises ValueError for another shape or dtype.
    """

    def __init__(self, picture: Tensor, device: torch.device | str = "cpu") -> None:
        if picture.ndim != 3 or picture.shape[2] != CHANNELS or picture.dtype != torch.uint8:
            raise ValueError(f"picture: expected [H, W, 3] uint8, got {list(picture.shape)}")
        self.height, self.width = picture.shape[:2]
        self.picture = picture.to(device)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of all pixels, with replacement."""
        size = self.height * self.width
        index = torch.randint(size, (count,), generator=rng).to(self.picture.device)
        target = (self.picture.reshape(-1, CHANNELS)[index].float() / COLOR_SCALE).T.contiguous()
        return places(index, self.width, self.height), target

    def bands(self) -> Iterator[tuple[int, Tensor]]:
        """Some rows at a time."""
        return ((y, self.picture[y : y + BAND]) for y in range(0, self.height, BAND))


class FiledPixels:
    """A picture in a file, its pixels once more in buckets, each a random sample of the whole.

    Draws are from one bucket at a time, and buckets take turns: batches are as good as of all
    pixels, which those of a few tiles are not. Memory is a bucket and a band of rows.

    Args:
        rows: open for reading, three bytes a pixel, row by row from `offset` on.
        scratch: open for reading and writing, to which buckets are appended: 7 bytes a pixel.
        width, height: pixels. Both files are closed by their owner.
    """

    def __init__(
        self, rows: BinaryIO, offset: int, scratch: BinaryIO, width: int, height: int
    ) -> None:
        self.width, self.height = width, height
        self._rows, self._offset, self._scratch = rows, offset, scratch
        self._ends = self._shuffle()
        self._order: list[int] = []
        self._left = 0
        self._index, self._colors = torch.empty(0), torch.empty(0)

    def draw(self, count: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Of the bucket at hand, with replacement."""
        if not self._left:
            if not self._order:
                self._order = torch.randperm(len(self._ends) - 1, generator=rng).tolist()
            self._load(self._order.pop())
            self._left = TURNS
        self._left -= 1
        pick = torch.randint(len(self._index), (count,), generator=rng)
        target = (self._colors[pick].float() / COLOR_SCALE).T.contiguous()
        return places(self._index[pick], self.width, self.height), target

    def bands(self) -> Iterator[tuple[int, Tensor]]:
        """Some rows at a time."""
        for y in range(0, self.height, BAND):
            rows = min(BAND, self.height - y)
            size = CHANNELS * rows * self.width
            data = _read(self._rows, self._offset + CHANNELS * y * self.width, size)
            found = np.frombuffer(data, np.uint8).reshape(rows, self.width, CHANNELS)
            yield y, torch.from_numpy(found)

    def _shuffle(self) -> list[int]:
        """Deal the pixels of each band out to all buckets; where each bucket begins, bytes."""
        total = self.width * self.height
        buckets = -(-total // BUCKET)
        sizes = np.zeros(buckets, np.int64)
        for y in range(0, self.height, BAND):
            sizes += _shares(min(BAND, self.height - y) * self.width, buckets)
        start = self._scratch.seek(0, os.SEEK_END)
        ends = start + PIXEL.itemsize * np.concatenate([[0], np.cumsum(sizes)])
        at, rng = ends[:-1].copy(), np.random.default_rng(0)
        for y, rows in self.bands():
            band = np.empty(rows.shape[0] * self.width, PIXEL)
            band["index"] = np.arange(y * self.width, y * self.width + len(band))
            band["color"] = rows.numpy().reshape(-1, CHANNELS)
            rng.shuffle(band)
            shares = np.cumsum(_shares(len(band), buckets))[:-1]
            for number, part in enumerate(np.split(band, shares)):
                self._scratch.seek(at[number])
                self._scratch.write(part.tobytes())
                at[number] += part.nbytes
        self._scratch.flush()
        return ends.tolist()

    def _load(self, bucket: int) -> None:
        first, end = self._ends[bucket], self._ends[bucket + 1]
        found = np.frombuffer(_read(self._scratch, first, end - first), PIXEL)
        self._index = torch.from_numpy(found["index"].astype(np.int64))
        self._colors = torch.from_numpy(found["color"].copy())


def _shares(count: int, buckets: int) -> NDArray[np.int64]:
    """[buckets] as even as can be, of so many pixels."""
    return np.full(buckets, count // buckets) + (np.arange(buckets) < count % buckets)


def _read(file: BinaryIO, first: int, size: int) -> bytearray:
    """Bytes of a file. Raises ValueError where it is shorter."""
    file.seek(first)
    data = bytearray(size)
    got = file.readinto(data)  # pyright: ignore[reportAttributeAccessIssue]
    if got != size:
        raise ValueError(f"picture: expected {size} more bytes, got {got}")
    return data


def rows_of_npy(path: Path) -> tuple[int, int, int]:
    """Offset of the first row, width and height of a .npy picture [H, W, 3] uint8.

    Raises ValueError naming the file for any other.
    """
    try:
        found = np.load(path, mmap_mode="r", allow_pickle=False, max_header_size=NPY_HEADER)
    except FileNotFoundError:
        raise
    except (ValueError, EOFError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"{path}: not a .npy file that can be mapped: {reason:.100}") from None
    good = isinstance(found, np.memmap) and found.dtype == np.uint8 and found.ndim == 3
    if not good or found.shape[2] != CHANNELS or not found.flags.c_contiguous or not found.size:
        raise ValueError(f"{path}: expected [H, W, 3] uint8 in C order, got {found.dtype} "
                         f"{list(found.shape)}")  # fmt: skip
    return found.offset, found.shape[1], found.shape[0]

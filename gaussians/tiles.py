"""Many .fpz streams in one file, each of a spatial tile at a level of detail (docs/format.md 5)."""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from ..quant import container
from .model import SplatModel

KIND = "tiles"
INDEX = "index"
MOST_LEVELS = 8
REACH = 3.33  # Standard deviations to where an opaque Gaussian is no longer drawn.
BOX = struct.Struct("<7f")  # low, high, reach
COUNT = struct.Struct("<I")


@dataclass(frozen=True)
class Tile:
    """A part of a scene.

    Attributes:
        low, high: corners of a box that holds the centres of all its levels.
        reach: of its largest Gaussian, to where alpha falls below 1/255.
        counts: Gaussians at each level, the finest first.
    """

    low: tuple[float, float, float]
    high: tuple[float, float, float]
    reach: float
    counts: tuple[int, ...]

    @staticmethod
    def of(levels: Sequence[SplatModel]) -> Tile:
        """That of decoded levels, none of them empty."""
        means = torch.cat([level.means for level in levels])
        scale = max(float(level.scales.max()) for level in levels)
        reach = min(REACH * math.exp(min(scale, 80.0)), 3e38)
        low, high = means.amin(0).tolist(), means.amax(0).tolist()
        counts = tuple(len(level) for level in levels)
        return Tile((low[0], low[1], low[2]), (high[0], high[1], high[2]), reach, counts)

    def pack(self) -> bytes:
        counts = b"".join(COUNT.pack(count) for count in self.counts)
        return BOX.pack(*self.low, *self.high, self.reach) + counts


@dataclass(frozen=True)
class TiledFile:
    """A file at hand: what its index says, and streams that are read when they are asked for.

    Attributes:
        name: of the file, for messages.
        header: its JSON.
        tiles: in the file's order.
        streams: entry and offset of each (tile, level).
    """

    name: str
    header: Mapping[str, Any]
    tiles: tuple[Tile, ...]
    levels: int
    streams: Mapping[tuple[int, int], tuple[container.Entry, int]]
    data: memoryview

    @staticmethod
    def open(path: str | Path) -> TiledFile | None:
        """A file of tiles, mapped; None for any other. Raises ValueError for a damaged one."""
        try:
            with Path(path).open("rb") as file:
                if file.read(len(container.MAGIC)) != container.MAGIC:
                    return None
                data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        except OSError:
            return None  # Who reads it as anything else says what is wrong.
        header, _ = container.locate(data, name=str(path))
        return TiledFile.of(data, str(path)) if header.get("kind") == KIND else None

    @staticmethod
    def of(data: bytes | memoryview, name: str, *, partial: bool = False) -> TiledFile:
        """A file from its bytes. With `partial` streams beyond their end are left out.

        Raises ValueError, one line, for an index that does not fit the sections.
        """
        view = memoryview(data)
        header, places = container.locate(view, name=name)
        levels = header.get("levels")
        if type(levels) is not int or not 1 <= levels <= MOST_LEVELS:
            raise ValueError(f"{name}: header: expected 1..{MOST_LEVELS} levels, got {levels!r}")
        if not places or (len(places) - 1) % levels:
            raise ValueError(
                f"{name}: section table: expected an index and {levels} streams a tile, "
                f"got {len(places)} sections"
            )
        tiles = _read_index(places[0], view, (len(places) - 1) // levels, levels, name)
        names = [(t, level) for level in reversed(range(levels)) for t in range(len(tiles))]
        streams = {}
        for key, place in zip(names, places[1:], strict=True):
            entry, offset = place
            wanted = f"level{key[1]}/{key[0]}"
            if (entry.name, entry.codec) != (wanted, "raw"):
                raise ValueError(
                    f"{name}: section {entry.name!a}: expected {wanted!a} by 'raw', "
                    f"got {entry.codec!r}"
                )
            if offset + entry.coded_size <= len(view):
                streams[key] = place
        whole = places[-1][1] + places[-1][0].coded_size
        if not partial and whole != len(view):
            raise ValueError(f"{name}: end of file: expected {whole} bytes, got {len(view)}")
        return TiledFile(name, header, tiles, levels, streams, view)

    @property
    def count(self) -> int:
        """Gaussians at the finest level."""
        return sum(tile.counts[0] for tile in self.tiles)

    def stream(self, tile: int, level: int) -> bytes:
        """A whole .fpz file of its own. Raises ValueError for a damaged one."""
        entry, offset = self.streams[tile, level]
        data = bytes(self.data[offset : offset + entry.coded_size])
        return container.payload(entry, data, name=self.name)

    def verify(self) -> None:
        """Raises ValueError for a damaged stream, whether it is to be decoded or not."""
        for tile, level in self.streams:
            self.stream(tile, level)

    def read(self, tile: int, level: int = 0) -> SplatModel:
        """The Gaussians of a tile. Raises ValueError where they are not what the index says."""
        from .codec import decode_one

        name = f"{self.name}: level {level} of tile {tile}"
        model = decode_one(self.stream(tile, level), name=name)
        here = self.tiles[tile]
        if len(model) != here.counts[level]:
            raise ValueError(f"{name}: expected {here.counts[level]} Gaussians, got {len(model)}")
        low, high = (torch.tensor(corner) for corner in (here.low, here.high))
        if not bool(((model.means >= low) & (model.means <= high)).all()):
            raise ValueError(f"{name}: expected centres in the box of its tile, got one outside")
        return model

    def finest(self) -> Iterator[SplatModel]:
        """Tile after tile, each at the finest level that is there; others are left out."""
        for tile in range(len(self.tiles)):
            for level in range(self.levels):
                if (tile, level) in self.streams:
                    yield self.read(tile, level)
                    break


def _read_index(
    place: tuple[container.Entry, int], view: memoryview, count: int, levels: int, name: str
) -> tuple[Tile, ...]:
    entry, offset = place
    size = BOX.size + levels * COUNT.size
    if (entry.name, entry.codec, entry.coded_size) != (INDEX, "raw", count * size):
        raise ValueError(
            f"{name}: section {entry.name!a}: expected {INDEX!a}, {count * size} bytes by 'raw', "
            f"got {entry.coded_size} by {entry.codec!r}"
        )
    data = container.payload(entry, bytes(view[offset : offset + entry.coded_size]), name=name)
    tiles = []
    for number in range(count):
        at = number * size
        values = BOX.unpack_from(data, at)
        counts = [COUNT.unpack_from(data, at + BOX.size + COUNT.size * k)[0] for k in range(levels)]
        low, high, reach = values[:3], values[3:6], values[6]
        fine = all(map(math.isfinite, values)) and reach >= 0
        if not fine or any(a > b for a, b in zip(low, high, strict=True)):
            raise ValueError(f"{name}: section 'index': tile {number}: expected a finite box")
        tiles.append(Tile(low, high, reach, tuple(counts)))
    return tuple(tiles)


def file_blocks(
    header: Mapping[str, Any], tiles: Sequence[Tile], streams: Mapping[tuple[int, int], Path]
) -> Iterator[bytes]:
    """The bytes of a file of tiles, a stream at a time; the coarsest level of all tiles first."""
    levels = len(tiles[0].counts)
    index = b"".join(tile.pack() for tile in tiles)
    keys = [(t, level) for level in reversed(range(levels)) for t in range(len(tiles))]
    entries = [container.Entry.of(container.Section(INDEX, "raw", index, len(index)))]
    for tile, level in keys:
        data = streams[tile, level].read_bytes()
        section = container.Section(f"level{level}/{tile}", "raw", data, len(data))
        entries.append(container.Entry.of(section))
    yield container.head({**header, "kind": KIND, "levels": levels}, entries)
    yield index
    for key in keys:
        yield streams[key].read_bytes()


def joined(models: Sequence[SplatModel]) -> SplatModel:
    """All Gaussians of models of one SH degree, in order. Raises ValueError for another."""
    first = models[0]
    if any((m.sh_degree, m.antialiased) != (first.sh_degree, first.antialiased) for m in models):
        raise ValueError("tiles: expected one SH degree and one filter, got several")
    parts = {key: [model.tensors()[key] for model in models] for key in first.tensors()}
    return replace(first, **{key: torch.cat(values) for key, values in parts.items()})

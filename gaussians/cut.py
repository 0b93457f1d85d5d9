"""A PLY too large for memory, cut into the PLY files of spatial tiles: two passes over its rows."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from .ply import check_columns
from .ply_header import SCALAR_TYPES, PlyHeader, open_bytes, parse_header

STRIP = 1 << 16  # Rows that are read at once: 16 MB at SH degree 3.
SAMPLES = 1 << 20  # Centres that the cuts are laid by.
DIGITS = 12  # Of a count, which is known when all rows are written.
TYPE_NAMES = {code: name for name, code in SCALAR_TYPES.items() if name[-1].isalpha()}
ORDER_NAMES = {"<": "binary_little_endian", ">": "binary_big_endian"}


@dataclass(frozen=True)
class Rows:
    """The Gaussians of a binary PLY, a strip of rows at a time.

    Attributes:
        n_rest: f_rest columns.
        count: rows.
    """

    path: Path
    header: PlyHeader
    n_rest: int
    count: int
    dtype: np.dtype
    offset: int

    @staticmethod
    def open(path: str | Path) -> Rows:
        """Raises ValueError, one line, for what is not a whole binary PLY of Gaussians."""
        path = Path(path)
        try:
            name, data = open_bytes(path, None)
        except OSError as error:
            raise ValueError(f"{path}: not readable: {(error.strerror or '').lower()}") from None
        header = parse_header(data, name)
        n_rest = check_columns(header)
        if not header.mappable("vertex"):
            raise ValueError(f"{path}: cut into tiles: expected a binary PLY without lists")
        header.check_size(len(data))
        rows = header.rows("vertex", data)
        before = header.elements[: [e.name for e in header.elements].index("vertex")]
        offset = header.offset + sum(e.count * e.row_bytes for e in before)
        return Rows(path, header, n_rest, len(rows), rows.dtype, offset)

    def strips(self) -> Iterator[np.ndarray]:
        """Structured arrays of STRIP rows; read, not mapped, so that no page of them stays."""
        with self.path.open("rb", buffering=0) as file:
            file.seek(self.offset)
            for start in range(0, self.count, STRIP):
                rows = np.empty(min(STRIP, self.count - start), self.dtype)
                left = memoryview(rows.view(np.uint8).data)
                while left:
                    got = file.readinto(left)
                    if not got:
                        raise ValueError(f"{self.path}: was cut short while it was read")
                    left = left[got:]
                yield rows

    def head(self, count: int) -> bytes:
        """A header for `count` of these rows; as long for any count."""
        vertex = self.header.element("vertex")
        assert vertex is not None
        lines = ["ply", f"format {ORDER_NAMES[self.header.byte_order]} 1.0"]
        lines += [f"comment {text}" for text in self.header.comments]
        lines.append(f"element vertex {count:0{DIGITS}d}")
        lines += [f"property {TYPE_NAMES[p.code]} {p.name}" for p in vertex.properties]
        return ("\n".join([*lines, "end_header"]) + "\n").encode("ascii", "replace")


def centers(rows: np.ndarray) -> NDArray[np.float32]:
    """[n, 3] of structured rows."""
    with np.errstate(over="ignore"):
        return np.stack([rows[axis] for axis in "xyz"], axis=1).astype(np.float32)


@dataclass(frozen=True)
class Tree:
    """A k-d tree over space: node i sends x to children[i, x[axis[i]] >= at[i]]; ~t is tile t."""

    axis: NDArray[np.int64]
    at: NDArray[np.float32]
    children: NDArray[np.int64]
    tiles: int

    def find(self, points: NDArray[np.float32]) -> NDArray[np.int64]:
        """[n] tiles of [n, 3] points; one that is not a number goes left."""
        node = np.zeros(len(points), np.int64) if len(self.axis) else np.full(len(points), ~0)
        while (inner := np.flatnonzero(node >= 0)).size:
            here = node[inner]
            right = points[inner, self.axis[here]] >= self.at[here]
            node[inner] = self.children[here, right.astype(np.int64)]
        return ~node


def grow(points: NDArray[np.float32], most: int) -> Tree:
    """The tree whose tiles hold at most so many of [n, 3] finite points, but for equal ones.

    Halved at the median along the longest axis that can be cut; neighbouring tiles have near
    numbers.
    """
    axis: list[int] = []
    at: list[float] = []
    children: list[list[int]] = []
    tiles = 0

    def node(index: NDArray[np.int64]) -> int:
        nonlocal tiles
        cut = _cut(points[index]) if len(index) > most else None
        if cut is None:
            tiles += 1
            return ~(tiles - 1)
        number = len(axis)
        axis.append(cut[0])
        at.append(cut[1])
        children.append([0, 0])
        right = points[index, cut[0]] >= np.float32(cut[1])
        children[number][0] = node(index[~right])
        children[number][1] = node(index[right])
        return number

    node(np.arange(len(points)))
    kids = np.array(children, np.int64).reshape(-1, 2)
    return Tree(np.array(axis, np.int64), np.array(at, np.float32), kids, tiles)


def _cut(points: NDArray[np.float32]) -> tuple[int, float] | None:
    """The axis and place that halve points; None where they are all the same."""
    low, high = np.percentile(points, (2, 98), axis=0)
    for axis in np.argsort(low - high, kind="stable"):
        at = np.median(points[:, axis]).astype(np.float32)
        if at <= points[:, axis].min():  # Many lie at the least: cut above them.
            above = points[points[:, axis] > at, axis]
            if not len(above):
                continue
            at = above.min()
        return int(axis), float(at)
    return None


def cut(source: Rows, folder: Path, most: int) -> list[tuple[Path, int]]:
    """Write the tiles of a PLY, about `most` Gaussians in each at most, as PLY files.

    Memory is that of a strip and of the sample; the disk needs the room of the input once more.
    Returns paths and counts, in the tree's order, without empty ones. Raises ValueError for
    too little disk.
    """
    size = source.count * source.dtype.itemsize
    free = shutil.disk_usage(folder).free
    if free < size:
        raise ValueError(f"{folder}: tiles need {size} bytes there, {free} are free")
    tree = _tree(source, most)
    paths = [folder / f"{tile:06d}.ply" for tile in range(tree.tiles)]
    counts = np.zeros(tree.tiles, np.int64)
    head = source.head(0)
    for rows in source.strips():
        tiles = tree.find(centers(rows))
        order = np.argsort(tiles, kind="stable")
        here, starts = np.unique(tiles[order], return_index=True)
        for tile, index in zip(here, np.split(order, starts[1:]), strict=True):
            with paths[tile].open("ab") as file:
                if not counts[tile]:
                    file.write(head)
                file.write(rows[index].tobytes())
            counts[tile] += len(index)
    for path, count in zip(paths, counts, strict=True):
        if count:
            with path.open("r+b") as file:
                file.write(source.head(int(count)))
    return [(path, int(count)) for path, count in zip(paths, counts, strict=True) if count]


def _tree(source: Rows, most: int) -> Tree:
    """The tree of the file by an even sample of its centres."""
    stride = max(1, -(-source.count // SAMPLES))
    found, start = [], 0
    for rows in source.strips():
        found.append(centers(rows[(-start) % stride :: stride]))
        start += len(rows)
    points = np.concatenate(found) if found else np.empty((0, 3), np.float32)
    return grow(points[np.isfinite(points).all(1)], max(1, most // stride))

"""One routine that codes a block of Gaussians, run forwards to encode and backwards to decode.

The encoder passes what it wants to keep and learns what the decoder will see; the decoder passes
nothing and gets the same. Since both run the same lines, they cannot drift apart.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ..quant import entropy
from ..quant.container import Section
from .frames import is_needle
from .layout import CLASSES, DEPTH, NEIGHBORS, UNITS, Layout, Predictor

Int = NDArray[np.int32]

# How much coarser (in 1/64) an angle about an axis may be, by the log ratio of the two scales that
# it mixes in steps of 1/8: 64 / (2 sinh(bin / 8 + 1 / 16)), clipped to 4..1024. Part of the format.
ANGLE_TABLE = np.array(
    [512, 170, 101, 71, 54, 43, 35, 30, 25, 22, 19, 16, 14, 12, 11, 9, 8, 7, 6, 6, 5, 4], np.int64
)
# Where the encoder rounds up, in 1/64 of a step: to nearest, ties to zero; AC has many zeros.
ROUND = {"opa": 33, "scl": 33, "tlt": 33, "rol": 33, "dc": 33, "ac": 38}
CLASS_SIDE = 64  # A class enters predictions as this many units.


@dataclass(frozen=True)
class Wanted:
    """What the encoder wants of one block; integer values are in the layout's units.

    Attributes:
        codes: [n] full-depth Morton codes, sorted.
        classes: [n, 2] 0..9, of colour and of geometry; opacity: [n, 1] of ln alpha;
            scales: [n, 3]; dc: [n, 3]; ac: [n, R].
        angles: needle mask [n] -> tilt [n, 2] and roll [n, 1].
    """

    codes: NDArray[np.uint64]
    classes: Int
    opacity: Int
    scales: Int
    dc: Int
    ac: Int
    angles: Callable[[NDArray[np.bool_]], tuple[Int, Int]]


@dataclass
class Values:
    """What the decoder sees of one block, in integer units; None where the stream was cut."""

    cells: Int  # [n, 3] finest-grid coordinates, doubled, of the centre of each position cell
    opacity: Int
    scales: Int
    tilt: Int
    roll: Int
    dc: Int | None = None
    ac: Int | None = None


class Missing(Exception):
    """A section that a cut file does not have."""


class Stream(Protocol):
    """Either direction of a block's streams."""

    def octree(self, level: int, codes: NDArray[np.uint64] | None) -> NDArray[np.uint64]: ...

    def neighbors(self, level: int, codes: NDArray[np.uint64]) -> Int: ...

    def ints(self, key: str, wanted: Int | None, row: Row) -> Int: ...

    def values(self, key: str, wanted: Int | None, row: Row) -> Int: ...

    def limited(self, key: str, wanted: Int | None, row: Row) -> Int: ...

    def bits(self, key: str, wanted: NDArray | None, widths: NDArray) -> NDArray: ...


@dataclass(frozen=True)
class Row:
    """Side information of one attribute's rows, known to both directions before its symbols."""

    scale: Int
    context: NDArray[np.uint8]
    neighbors: Int
    channels: int
    side: Int
    predictor: Predictor | None = None
    bias: int = 0
    limits: Int | None = None


def quantise(key: str, wanted: Int | None, row: Row) -> tuple[Int, Int]:
    """Symbols and restored values of one attribute, as the encoder rounds it."""
    assert wanted is not None
    assert row.predictor is not None
    return entropy.quantise_predicted(
        wanted, row.scale, row.neighbors, row.side,
        row.predictor.weights, row.predictor.fill, ROUND[key], row.bias,
    )  # fmt: skip


@dataclass
class Writer:
    """Collects the sections of one block."""

    block: int
    near: Int
    sections: dict[str, Section] = field(default_factory=dict)

    def _add(self, key: str, codec: str, payload: bytes, raw: int) -> None:
        self.sections[key] = Section(f"{key}/{self.block}", codec, payload, raw)

    def octree(self, level: int, codes: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        assert codes is not None
        leaves = codes >> np.uint64(3 * (DEPTH - level))
        self._add("pos", "octree", entropy.encode_octree(leaves, level), 8 * len(leaves))
        return leaves

    def neighbors(self, level: int, codes: NDArray[np.uint64]) -> Int:
        return self.near

    def ints(self, key: str, wanted: Int | None, row: Row) -> Int:
        assert wanted is not None
        data = entropy.encode_ints(wanted, row.scale, row.context, row.neighbors, row.limits)
        self._add(key, "ints", data, 4 * wanted.size)
        return wanted

    def values(self, key: str, wanted: Int | None, row: Row) -> Int:
        symbols, values = quantise(key, wanted, row)
        self.ints(key, symbols, row)
        return values

    def limited(self, key: str, wanted: Int | None, row: Row) -> Int:
        symbols, values = quantise(key, wanted, row)
        used = (symbols != 0) * np.arange(1, symbols.shape[1] + 1, dtype=np.int32)
        limits = self.ints("lim", used.max(1, keepdims=True), _limits_row(row))
        self.ints(key, symbols, _limited_row(row, limits[:, 0]))
        return values

    def bits(self, key: str, wanted: NDArray | None, widths: NDArray) -> NDArray:
        assert wanted is not None
        self._add(key, "bits", entropy.pack_bits(wanted, widths), 4 * len(wanted))
        return wanted


@dataclass(frozen=True)
class Dry:
    """Quantises as `Writer` does but codes nothing: what a decoder would see, for much less."""

    near: Int

    def octree(self, level: int, codes: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        assert codes is not None
        return codes >> np.uint64(3 * (DEPTH - level))

    def neighbors(self, level: int, codes: NDArray[np.uint64]) -> Int:
        return self.near

    def ints(self, key: str, wanted: Int | None, row: Row) -> Int:
        assert wanted is not None
        return wanted

    def values(self, key: str, wanted: Int | None, row: Row) -> Int:
        return quantise(key, wanted, row)[1]

    limited = values

    def bits(self, key: str, wanted: NDArray | None, widths: NDArray) -> NDArray:
        assert wanted is not None
        return wanted


@dataclass(frozen=True)
class Reader:
    """Decodes the sections of one block of `count` Gaussians."""

    block: int
    count: int
    sections: dict[str, Section]
    name: str

    def _get(self, key: str, codec: str, raw: int) -> bytes:
        section = self.sections.get(f"{key}/{self.block}")
        if section is None:
            raise Missing(f"{self.name}: section '{key}/{self.block}': expected, got none")
        if section.codec != codec or section.raw_size != raw:
            raise ValueError(
                f"{self.name}: section {section.name!r}: expected {raw} bytes by {codec!r}, "
                f"got {section.raw_size} by {section.codec!r}"
            )
        return section.payload

    def _guard(self, key: str, decode: Callable[[], NDArray]) -> NDArray:
        try:
            return decode()
        except ValueError as error:
            where = f"{self.name}: section '{key}/{self.block}'"
            raise ValueError(f"{where}: expected a decodable stream, got: {error}") from None

    def octree(self, level: int, codes: NDArray[np.uint64] | None) -> NDArray[np.uint64]:
        data = self._get("pos", "octree", 8 * self.count)
        return self._guard("pos", lambda: entropy.decode_octree(data, level, self.count))

    def neighbors(self, level: int, codes: NDArray[np.uint64]) -> Int:
        return entropy.causal_neighbors(codes, level, NEIGHBORS)

    def ints(self, key: str, wanted: Int | None, row: Row) -> Int:
        data = self._get(key, "ints", 4 * self.count * row.channels)
        return self._guard(
            key,
            lambda: entropy.decode_ints(
                data, row.channels, row.scale, row.context, row.neighbors, row.limits
            ),
        )

    def values(self, key: str, wanted: Int | None, row: Row) -> Int:
        assert row.predictor is not None
        symbols = self.ints(key, None, row)
        predictor = row.predictor
        return self._guard(
            key,
            lambda: entropy.reconstruct_predicted(
                symbols, row.scale, row.neighbors, row.side,
                predictor.weights, predictor.fill, row.bias,
            ),
        )  # fmt: skip

    def limited(self, key: str, wanted: Int | None, row: Row) -> Int:
        limits = self.ints("lim", None, _limits_row(row))[:, 0]
        if limits.min(initial=0) < 0 or limits.max(initial=0) > row.channels:
            raise ValueError(
                f"{self.name}: section 'lim/{self.block}': expected 0..{row.channels}, got "
                f"{limits.min()}..{limits.max()}"
            )
        return self.values(key, None, _limited_row(row, limits))

    def bits(self, key: str, wanted: NDArray | None, widths: NDArray) -> NDArray:
        data = self._get(key, "bits", 4 * len(widths))
        return self._guard(key, lambda: entropy.unpack_bits(data, widths))


def _limits_row(row: Row) -> Row:
    return replace(row, scale=np.ones_like(row.scale), channels=1)


def _limited_row(row: Row, limits: Int) -> Row:
    context = row.context.copy()
    context[:, 1] = np.minimum(limits >> 1, 31)
    return replace(row, context=context, limits=limits)


def row_scale(layout: Layout, attribute: str, classes: Int) -> Int:
    """[n] quantisation step of each row in value units: doubles with the class, up to a cap."""
    return np.minimum(UNITS << classes, layout.caps[attribute]).astype(np.int32)


def _turned(scale: Int, log_ratio: NDArray[np.int64]) -> Int:
    """A row scale for an angle that mixes two axes, from 1/8ths of their log ratio."""
    factor = ANGLE_TABLE[np.clip(log_ratio, 0, len(ANGLE_TABLE) - 1)]
    return np.clip((scale.astype(np.int64) * factor) >> 6, 1, 1 << 24).astype(np.int32)


def angle_scales(layout: Layout, classes: Int, scales: Int) -> tuple[Int, Int, NDArray, NDArray]:
    """Row scales of tilt and roll, the needle mask and a context [n], from decoded log scales."""
    eighth = round(layout.units["scl"] * 8 * 65536)
    first = (scales[:, 0].astype(np.int64) - scales[:, 1]) * eighth >> 16
    second = (scales[:, 1].astype(np.int64) - scales[:, 2]) * eighth >> 16
    needle = is_needle(scales)
    # The roll of a needle matters as one radian per radian at the most.
    about = np.where(needle, first, np.minimum(first + second, 16))
    tilt = _turned(row_scale(layout, "tlt", classes), about)
    about = np.where(needle, np.minimum(second, 3), first)
    roll = _turned(row_scale(layout, "rol", classes), about)
    context = needle * 16 + np.clip(np.where(needle, first, first + second) >> 1, 0, 15)
    return tilt, roll, needle, context


def position_widths(layout: Layout, codes: NDArray, classes: Int, scales: Int) -> NDArray:
    """[n, 3] position bits an axis beyond the octree, from what is decoded already.

    A cell is as wide as `precision` allows for the Gaussian's second scale and class, where the
    contraction's stretching at the octree leaf is taken into account; all in 1/256 of log2.
    """
    per_unit = round(layout.units["scl"] * 369.3299304675746 * 65536)  # 256 / ln 2
    size = scales[:, 1].astype(np.int64) * per_unit >> 16
    spare = DEPTH - layout.level
    depth = entropy.morton_cells(codes).astype(np.int64) * 2 + 1 << spare  # doubled centres
    zero = [round(-low / layout.span * (2 << DEPTH)) for low in layout.low]
    slope = round(layout.span * 369.3299304675746 * 65536 / (2 << DEPTH))
    depth -= np.array(zero, np.int64)  # In place from here on: these arrays are large.
    np.abs(depth, out=depth)
    depth *= slope
    depth >>= 16  # the stretch
    allowed = np.minimum(layout.precision + 256 * classes.astype(np.int64), layout.precision_cap)
    depth += (layout.log_span + 128 - size - allowed)[:, None]
    depth >>= 8
    depth -= layout.level
    return np.clip(depth, 0, spare, out=depth).astype(np.uint8)


def _fine_positions(
    stream: Stream, layout: Layout, codes: NDArray, widths: NDArray, wanted: Wanted | None
) -> Int:
    """[n, 3] doubled finest-grid centres of the cells that octree and "fin" bits name."""
    spare = (DEPTH - layout.level - widths.astype(np.int64)).reshape(-1)  # bits not kept
    flat = widths.reshape(-1)
    fine = None
    if wanted:
        cells = entropy.morton_cells(wanted.codes).astype(np.int64).reshape(-1)
        fine = (cells >> spare & (1 << flat.astype(np.int64)) - 1).astype(np.uint32)
    fine = stream.bits("fin", fine, flat).astype(np.int64)
    leaf = entropy.morton_cells(codes).astype(np.int64).reshape(-1)
    cell = (leaf << flat.astype(np.int64) | fine) << spare
    return (2 * cell + (1 << spare)).reshape(-1, 3)


def code_block(
    stream: Stream, layout: Layout, predictors: dict[str, Predictor], wanted: Wanted | None
) -> Values:
    """Code one block in either direction; raises Missing where a cut file lacks its geometry."""
    codes = stream.octree(layout.level, wanted.codes if wanted else None)
    neighbors = stream.neighbors(layout.level, codes)
    n = len(codes)
    context = np.zeros((n, 2), np.uint8)

    def row(key: str, channels: int, scale: Int | None = None, side: Int | None = None) -> Row:
        scale = row_scale(layout, key, classes) if scale is None else scale
        side = np.zeros((n, 0), np.int32) if side is None else side
        return Row(
            scale, context.copy(), neighbors, channels, side, predictors[key], layout.bias[key]
        )

    def coded_classes(key: str, kind: int) -> Int:
        plain = Row(np.ones(n, np.int32), context.copy(), neighbors, 1, np.zeros((n, 0), np.int32))
        found = stream.ints(key, wanted.classes[:, kind, None] if wanted else None, plain)
        return np.clip(found[:, 0], 0, CLASSES - 1)

    colored = coded_classes("cls", 0)
    context[:] = colored[:, None]
    classes = coded_classes("gcl", 1)
    context[:, 0] = classes
    side = np.stack([colored, classes], 1) * np.int32(CLASS_SIDE)
    opacity = stream.values("opa", wanted and wanted.opacity, row("opa", 1, side=side))
    context[:, 1] = np.clip((opacity[:, 0] >> 4) + 31, 0, 31)
    side = np.concatenate([side, opacity], axis=1)
    scales = stream.values("scl", wanted and wanted.scales, row("scl", 3, side=side))
    tilt_scale, roll_scale, needle, context[:, 1] = angle_scales(layout, classes, scales)
    angles = wanted.angles(needle) if wanted else (None, None)
    tilt = stream.values("tlt", angles[0], row("tlt", 2, tilt_scale))
    roll = stream.values("rol", angles[1], row("rol", 1, roll_scale))
    widths = position_widths(layout, codes, classes, scales)
    cells = _fine_positions(stream, layout, codes, widths, wanted)
    out = Values(cells, opacity, scales, tilt, roll)
    context[:, 0] = classes = colored
    context[:, 1] = np.clip((scales[:, 1] - predictors["scl"].fill[1] >> 5) + 16, 0, 31)
    try:
        out.dc = stream.values("dc", wanted and wanted.dc, row("dc", 3))
        if layout.rest:
            out.ac = stream.limited("ac", wanted and wanted.ac, row("ac", layout.rest))
    except Missing:
        pass  # Progressive: a cut file shows what has come.
    return out

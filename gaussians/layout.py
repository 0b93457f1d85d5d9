"""What a compressed splat file says about itself before the first block (docs/format.md)."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

BLOCK = 1 << 16  # most Gaussians in a block
DEPTH = 20  # bits an axis of the finest position
NEIGHBORS = 4
UNITS = 8  # value units in one quantisation step of class 0
CLASSES = 10
ATTRIBUTES = ("opa", "scl", "tlt", "rol", "dc", "ac")
GEOMETRY = ("pos", "cls", "gcl", "opa", "scl", "tlt", "rol", "fin")
MAX_BLOCKS = 1 << 16
UNIT_RANGE = (1e-9, 1e3)
SPAN_RANGE = (1e-7, 300.0)


@dataclass(frozen=True)
class Layout:
    """The header of a splat file: all numbers that the decoder needs besides the tables.

    Attributes:
        counts: Gaussians of each block.
        sh_degree: 0 to 4.
        antialiased: trained with the Mip-Splatting filter.
        level: octree depth, bits an axis; the rest of a position stands in "fin".
        low, span: contracted coordinate of cell 0 on each axis, and the width of the cube.
        log_span: log2, in 1/256, of span times radius: the cube's width near the centre.
        center, radius: of the signed-log contraction t = sign(x - c) ln(1 + |x - c| / r).
        precision: log2, in 1/256, of the position cell over the Gaussian's size at class 0.
        precision_cap: the most that the class may raise it to.
        units: attribute -> worth of one integer value unit (float64).
        caps: attribute -> coarsest row scale, in value units.
        bias: attribute -> reconstruction bias in 1/64 of a step.
        mix: colour transform of the AC coefficients: "color" or "klt".
    """

    counts: tuple[int, ...]
    sh_degree: int
    antialiased: bool
    level: int
    low: tuple[float, float, float]
    span: float
    center: tuple[float, float, float]
    radius: float
    log_span: int
    precision: int
    precision_cap: int
    units: dict[str, float]
    caps: dict[str, int]
    bias: dict[str, int]
    mix: str

    @property
    def rest(self) -> int:
        """AC values of one Gaussian: 3 (K - 1)."""
        return 3 * ((self.sh_degree + 1) ** 2 - 1)

    def place(self, block: int) -> slice:
        """Where a block's Gaussians stand in the file's order."""
        start = sum(self.counts[:block])
        return slice(start, start + self.counts[block])

    def to_header(self) -> dict[str, Any]:
        return asdict(self)

    @staticmethod
    def from_header(header: Mapping[str, Any], name: str) -> Layout:
        """The layout that a header describes, every field checked; ValueError names it."""
        fields = header.get("layout")
        if not isinstance(fields, dict):
            what = type(fields).__name__
            raise ValueError(f"{name}: header: expected a splat layout, got {what}")
        try:
            layout = Layout(
                counts=tuple(_whole(n, 1, BLOCK) for n in fields["counts"]),
                sh_degree=_whole(fields["sh_degree"], 0, 4),
                antialiased=bool(fields["antialiased"]),
                level=_whole(fields["level"], 0, DEPTH),
                low=_three(fields["low"], SPAN_RANGE[1]),
                span=_real(fields["span"], *SPAN_RANGE),
                center=_three(fields["center"], 1e39),
                radius=_real(fields["radius"], 1e-30, 1e39),
                log_span=_whole(fields["log_span"], -(1 << 16), 1 << 16),
                precision=_whole(fields["precision"], -(1 << 16), 1 << 16),
                precision_cap=_whole(fields["precision_cap"], -(1 << 16), 1 << 16),
                units={a: _real(fields["units"][a], *UNIT_RANGE) for a in ATTRIBUTES},
                caps={a: _whole(fields["caps"][a], 1, 1 << 24) for a in ATTRIBUTES},
                bias={a: _whole(fields["bias"][a], 0, 31) for a in ATTRIBUTES},
                mix=str(fields["mix"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            what = f"missing {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"{name}: header: expected a splat layout, got {what}") from None
        if layout.mix not in ("color", "klt") or len(layout.counts) > MAX_BLOCKS:
            raise ValueError(f"{name}: header: expected mix color or klt, got {layout.mix!r:.40}")
        return layout


def _whole(value: Any, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ValueError(f"{value!r:.40} where {low}..{high} is expected")
    return value


def _real(value: Any, low: float, high: float) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise ValueError(f"{value!r:.40} where {low}..{high} is expected")
    return float(value)


def _three(values: Any, most: float) -> tuple[float, float, float]:
    x, y, z = (_real(v, -most, most) for v in values)
    return x, y, z


@dataclass(frozen=True)
class Predictor:
    """Integer linear prediction of one attribute.

    Attributes:
        weights: [C, k + previous + sides + 1] int32 in 1/4096; the last column is the constant.
        fill: [C] int32 value of a neighbour that is not there.
    """

    weights: NDArray[np.int32]
    fill: NDArray[np.int32]


# attribute -> (channels or None for the AC count, previous channels, side values)
SHAPES: dict[str, tuple[int | None, int, int]] = {
    "opa": (1, 0, 2),
    "scl": (3, 2, 3),
    "tlt": (2, 0, 0),
    "rol": (1, 0, 0),
    "dc": (3, 2, 0),
    "ac": (None, 0, 0),
}


def _columns(attribute: str) -> int:
    _, previous, sides = SHAPES[attribute]
    # AC channels share one weight among their neighbours: 45 channels would need a large table.
    return (1 if attribute == "ac" else NEIGHBORS) + previous + sides + 1


def _channels(attribute: str, rest: int) -> int:
    channels = SHAPES[attribute][0]
    return rest if channels is None else channels


def pack_tables(predictors: Mapping[str, Predictor], basis: NDArray[np.int8], rest: int) -> bytes:
    """The "tab" section: predictors in the order of ATTRIBUTES, DC basis, AC basis; zlib."""
    parts = []
    for a in ATTRIBUTES:
        weights, fill = predictors[a].weights, predictors[a].fill
        if a == "ac":
            weights = weights[:, NEIGHBORS - 1 :]
        if weights.shape != (_channels(a, rest), _columns(a)):
            raise ValueError(f"{a}: expected {(_channels(a, rest), _columns(a))} weights")
        parts += [weights.astype("<i4").tobytes(), fill.astype("<i4").tobytes()]
    return zlib.compress(b"".join([*parts, basis.astype("<i1").tobytes()]), 9)


def table_bytes(layout: Layout) -> int:
    """Bytes of the "tab" section once inflated."""
    ints = sum(_channels(a, layout.rest) * (_columns(a) + 1) for a in ATTRIBUTES)
    return 4 * ints + 9 + (layout.rest**2 if layout.mix == "klt" else 0)


def unpack_tables(
    data: bytes, layout: Layout, name: str
) -> tuple[dict[str, Predictor], NDArray[np.int8], NDArray[np.int8]]:
    """Predictors, DC basis [3, 3] and AC basis ([R, R], or empty for "color") of a file."""
    size = table_bytes(layout)
    try:
        raw = zlib.decompressobj().decompress(data, size + 1)
    except zlib.error as error:
        raise ValueError(f"{name}: section 'tab': expected zlib data, got {error}") from None
    if len(raw) != size:
        raise ValueError(f"{name}: section 'tab': expected {size} bytes, got {len(raw)} or more")
    predictors, at = {}, 0
    for a in ATTRIBUTES:
        channels, columns = _channels(a, layout.rest), _columns(a)
        ints = np.frombuffer(raw, "<i4", channels * (columns + 1), at).astype(np.int32)
        at += ints.nbytes
        weights = ints[: channels * columns].reshape(channels, columns)
        if a == "ac":
            weights = np.concatenate([weights[:, :1]] * (NEIGHBORS - 1) + [weights], axis=1)
        predictors[a] = Predictor(weights, ints[channels * columns :])
    dc = np.frombuffer(raw, np.int8, 9, at).reshape(3, 3)
    ac = np.frombuffer(raw, np.int8, -1, at + 9)
    return predictors, dc, ac.reshape(layout.rest, -1) if layout.mix == "klt" else ac

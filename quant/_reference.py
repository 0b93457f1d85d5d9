"""Plain twins of the native operations of `quant`, for tests and for reading.

Each takes and returns what its native namesake does, value for value and byte for byte, a few
hundred rows at a time. Arguments are not checked here; damaged streams are refused alike.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ._reference_coder import (
    SCALE,
    TALLY_START,
    TOKENS,
    Bit,
    Coder,
    Decoder,
    Encoder,
    Mixture,
    Tally,
    code_token,
)
from ._reference_ints import Int, code_ints

# octree.h, neighbors.h, predict.h
MANY = 8  # token of a node with more than one child
POINTS_PER_CELL, MOST_PER_CELL, FINE_BITS = 5, 12, 10
WEIGHT_BITS = 12
VALUE_LIMIT = 1 << 28
BIAS_BITS = 6
MOST_SYMBOL = (1 << 24) - 1

_EVERY_THIRD = 0o111111111111111111111
_CRC32C_POLYNOMIAL = 0x82F63B78  # Castagnoli's, bits reflected
Cell = tuple[int, int, int]


def encode_ints(
    symbols: Int, scale: Int, context: NDArray[np.uint8], neighbors: Int, limits: Int
) -> bytes:
    """Twin of `entropy.encode_ints`; `limits` is empty where there are none."""
    coder = Encoder()
    code_ints(coder, symbols.tolist(), scale, context, neighbors, limits)
    return coder.finish()


def decode_ints(
    data: bytes,
    channels: int,
    scale: Int,
    context: NDArray[np.uint8],
    neighbors: Int,
    limits: Int,
) -> Int:
    """Twin of `entropy.decode_ints`; `limits` is empty where there are none."""
    coder = Decoder(data)
    symbols = [[0] * channels for _ in range(len(scale))]
    code_ints(coder, symbols, scale, context, neighbors, limits)
    if not coder.finished:
        raise ValueError("coded integers: the stream does not end with the last symbol")
    return np.array(symbols, np.int32).reshape(len(scale), channels)


# Prediction


@dataclass
class _Loop:
    """Closed-loop prediction: what is restored so far, and what that says of the next value."""

    scale: Int
    neighbors: Int
    side: Int
    weights: Int
    fill: Int
    bias: int
    values: list[list[int]] = field(default_factory=list)  # the last row is being filled

    def predict(self, c: int) -> int:
        i, row = len(self.values) - 1, self.values[-1]
        k, sides = self.neighbors.shape[1], self.side.shape[1]
        w = self.weights[c].tolist()
        previous = len(w) - k - sides - 1
        inputs = [int(self.fill[c]) if j < 0 else self.values[j][c] for j in self.neighbors[i]]
        inputs += [row[c - 1 - n] if c - 1 - n >= 0 else 0 for n in range(previous)]
        inputs += [*self.side[i].tolist(), 1 << WEIGHT_BITS]
        total = sum(a * b for a, b in zip(w, inputs, strict=True))
        return (total + (1 << WEIGHT_BITS - 1)) // (1 << WEIGHT_BITS)

    def restore(self, prediction: int, symbol: int) -> None:
        scale = int(self.scale[len(self.values) - 1])
        value = prediction + symbol * scale
        pull = scale * self.bias >> BIAS_BITS
        value -= pull * (symbol > 0) - pull * (symbol < 0)
        self.values[-1].append(max(-VALUE_LIMIT, min(VALUE_LIMIT, value)))


def quantise_predicted(
    wanted: Int,
    scale: Int,
    neighbors: Int,
    side: Int,
    weights: Int,
    fill: Int,
    round: int,
    bias: int,
) -> tuple[Int, Int]:
    """Twin of `entropy.quantise_predicted`."""
    loop = _Loop(scale, neighbors, side, weights, fill, bias)
    symbols = np.zeros_like(wanted)
    for i, row in enumerate(wanted.tolist()):
        loop.values.append([])
        step = int(scale[i])
        for c, value in enumerate(row):
            prediction = loop.predict(c)
            rest = value - prediction
            symbol = min(MOST_SYMBOL, (abs(rest) * 64 + step * (64 - round)) // (step * 64))
            symbols[i, c] = symbol if rest >= 0 else -symbol
            loop.restore(prediction, int(symbols[i, c]))
    return symbols, np.array(loop.values, np.int32).reshape(wanted.shape)


def reconstruct_predicted(
    symbols: Int, scale: Int, neighbors: Int, side: Int, weights: Int, fill: Int, bias: int
) -> Int:
    """Twin of `entropy.reconstruct_predicted`."""
    loop = _Loop(scale, neighbors, side, weights, fill, bias)
    for row in symbols.tolist():
        loop.values.append([])
        for c, symbol in enumerate(row):
            loop.restore(loop.predict(c), symbol)
    return np.array(loop.values, np.int32).reshape(symbols.shape)


# Positions


def _code(x: int, y: int, z: int) -> int:
    """x, y and z interleaved bit by bit, x lowest: binary digits read as octal ones."""
    return int(f"{x:b}", 8) | int(f"{y:b}", 8) << 1 | int(f"{z:b}", 8) << 2


def _cell(code: int) -> Cell:
    x, y, z = (int(f"{code >> axis & _EVERY_THIRD:o}", 2) for axis in range(3))
    return x, y, z


def morton_codes(cells: NDArray[np.uint32]) -> NDArray[np.uint64]:
    """Twin of `entropy.morton_codes`."""
    return np.array([_code(x, y, z) for x, y, z in cells.tolist()], np.uint64)


def morton_cells(codes: NDArray[np.uint64]) -> NDArray[np.uint32]:
    """Twin of `entropy.morton_cells`."""
    return np.array([_cell(code) for code in codes.tolist()], np.uint32).reshape(-1, 3)


def _around(cell: Cell, side: int) -> list[Cell]:
    """The up to 27 cells within one step of `cell` in a grid of `side`, itself too; x fastest."""
    x, y, z = cell
    cells = [(x + q % 3 - 1, y + q // 3 % 3 - 1, z + q // 9 - 1) for q in range(27)]
    return [c for c in cells if min(c) >= 0 and max(c) < side]


def neighbors(codes: NDArray[np.uint64], depth: int, k: int) -> Int:
    """Twin of `entropy.causal_neighbors`."""
    points = codes.tolist()
    count = len(points)
    level = 0
    while level < depth:
        if POINTS_PER_CELL * len({p >> 3 * (depth - level) for p in points}) >= count:
            break
        level += 1
    drop = max(0, depth - level - FINE_BITS)
    places = [_cell(p >> 3 * drop) for p in points]
    grid: dict[Cell, list[int]] = {}  # cell -> points so far
    out = np.full((count, k), -1, np.int32)
    for i, place in enumerate(places):
        home = _cell(points[i] >> 3 * (depth - level))
        ranked = []
        for cell in _around(home, 1 << level):
            for j in grid.get(cell, [])[-MOST_PER_CELL:]:
                distance = sum((a - b) ** 2 for a, b in zip(places[j], place, strict=True))
                ranked.append((distance, -j))
        best = [-j for _, j in sorted(ranked)[:k]]
        best += [j for j in range(i - 1, -1, -1) if j not in best][: k - len(best)]
        out[i, : len(best)] = best
        grid.setdefault(home, []).append(i)
    return out


def encode_octree(codes: NDArray[np.uint64], depth: int) -> bytes:
    """Twin of `entropy.encode_octree`."""
    coder = Encoder()
    _code_octree(coder, depth, len(codes), codes.tolist())
    return coder.finish()


def decode_octree(data: bytes, depth: int, count: int) -> NDArray[np.uint64]:
    """Twin of `entropy.decode_octree`."""
    coder = Decoder(data)
    leaves = _code_octree(coder, depth, count, [])
    if not coder.finished:
        raise ValueError("octree: the stream does not end with the last leaf")
    return np.array(leaves, np.uint64)


@dataclass
class _Octree:
    """The models of an octree's nodes."""

    coder: Coder
    mixture: Mixture
    tallies: dict[tuple, Tally] = field(default_factory=dict)

    def code(self, level: int, node: int, occupancy: dict[int, int]) -> int:
        """Code which of the node's children are there, given the nodes around it."""
        around = _Around.of(level, node, occupancy)
        target = occupancy[node]
        token = MANY if target.bit_count() != 1 else target.bit_length() - 1
        beside = around.beside.bit_count()
        contexts = (
            ("level", level, around.faces.bit_count()),
            ("faces", around.faces),
            ("beside", around.beside),
            ("count", beside, around.later),
        )
        even = [2600 * j if j <= MANY else SCALE - 2 * TOKENS + j for j in range(1, TOKENS)]
        tallies = [self.tallies.setdefault(c, Tally([TALLY_START, *even])) for c in contexts]
        token = code_token(self.coder, tallies, token)
        return self._many(level, around, target) if token == MANY else 1 << (token & 7)

    def _many(self, level: int, around: _Around, target: int) -> int:
        """Child by child, for a node that has at least two."""
        got = 0
        for child in range(8):
            siblings = got.bit_count()
            if child - siblings == 6:  # Else there would be one child at most.
                got |= 1 << child
                continue
            outer = inner = 0
            for axis in range(3):
                f, mate = 2 * axis + (child >> axis & 1), child ^ 1 << axis
                outer = outer * 4 + around.states[f] + (around.touched[f] >> mate & 1)
                inner = inner * 3 + (0 if mate > child else 1 + (got >> mate & 1))
            known = min(3, siblings)
            contexts = (
                (level, child, got),
                (child, around.faces, siblings),
                (child, outer, known),
                (outer, inner, min(7, level)),
            )
            selector = (child, known, around.faces.bit_count())
            got |= self.mixture.bit(contexts, selector, target >> child & 1) << child
        return got


@dataclass
class _Around:
    """What is known around a node before its children are."""

    faces: int = 0  # mask: a node touches at x-, x+, y-, y+, z-, z+
    later: int = 0  # mask over axes: the upper one is later in the order of codes
    beside: int = 0  # mask of children that touch an earlier node's
    states: list[int] = field(default_factory=lambda: [0] * 6)  # no node, later, earlier
    touched: list[int] = field(default_factory=lambda: [0] * 6)  # an earlier one's children

    @staticmethod
    def of(level: int, node: int, occupancy: dict[int, int]) -> _Around:
        found, here, side = _Around(), _cell(node), 1 << level
        for f in range(6):
            axis, step = f >> 1, 1 if f & 1 else -1
            x, y, z = (v + step * (a == axis) for a, v in enumerate(here))
            if min(x, y, z) < 0 or max(x, y, z) >= side:
                continue
            other = _code(x, y, z)
            if other not in occupancy:
                continue
            found.faces |= 1 << f
            found.states[f] = 1 if other > node else 2
            if other > node:
                found.later |= 1 << axis
                continue
            found.touched[f] = occupancy[other]
            for child in range(8):
                if child >> axis & 1 == f & 1 and occupancy[other] >> (child ^ 1 << axis) & 1:
                    found.beside |= 1 << child
        return found


def _code_octree(coder: Coder, depth: int, count: int, leaves: list[int]) -> list[int]:
    octree = _Octree(coder, Mixture(coder, 4))
    nodes = [0] if count else []
    for level in range(depth):
        occupancy = dict.fromkeys(nodes, 0)
        for child in {leaf >> 3 * (depth - 1 - level) for leaf in leaves}:
            occupancy[child >> 3] |= 1 << (child & 7)
        children: list[int] = []
        for node in nodes:
            occupancy[node] = octree.code(level, node, occupancy)
            children += [node << 3 | c for c in range(8) if occupancy[node] >> c & 1]
            if len(children) > count:
                raise ValueError("octree holds more leaves than it claims")
        nodes = children
    return _code_repeats(coder, count, leaves, nodes)


def _code_repeats(coder: Coder, count: int, leaves: list[int], nodes: list[int]) -> list[int]:
    """Code how many points share each leaf; the points, sorted."""
    bits: dict[tuple[int, int], Bit] = {}
    left, previous = count - len(nodes), 0
    out: list[int] = []
    for node in nodes:
        extra = leaves.count(node) - 1
        coded = 0
        while left > 0:
            bit = bits.setdefault((previous, min(31, coded)), Bit())
            if not bit.code(coder, int(coded < extra)):
                break
            coded += 1
            left -= 1
        previous = min(3, coded)
        out += [node] * (coded + 1)
    if left:
        raise ValueError("octree holds fewer leaves than it claims")
    return out


# Bits, bases, checksums


def pack_bits(values: NDArray[np.uint32], widths: NDArray[np.uint8]) -> bytes:
    """Twin of `entropy.pack_bits`."""
    text = "".join(
        f"{value:0{width}b}" if width else ""
        for value, width in zip(values.tolist(), widths.tolist(), strict=True)
    )
    text += "0" * (-len(text) % 8)
    return bytes(int(text[at : at + 8], 2) for at in range(0, len(text), 8))


def unpack_bits(data: bytes, widths: NDArray[np.uint8]) -> NDArray[np.uint32]:
    """Twin of `entropy.unpack_bits`."""
    total = int(widths.sum(dtype=np.int64))
    if (total + 7) // 8 != len(data):
        raise ValueError(f"bits: expected {(total + 7) // 8} bytes, got {len(data)}")
    text = "".join(f"{byte:08b}" for byte in data)
    ends = np.cumsum(widths, dtype=np.int64)
    starts = ends - widths
    values = [int(text[a:b] or "0", 2) for a, b in zip(starts, ends, strict=True)]
    return np.array(values, np.uint32)


def apply_basis(
    values: Int, basis: NDArray[np.float64], offset: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Twin of `entropy.apply_basis`: NumPy rounds each product and each sum apart."""
    total = np.repeat(offset[None], len(values), axis=0)
    with np.errstate(over="ignore", invalid="ignore"):
        for column, row in zip(values.T, basis, strict=True):
            used = column != 0
            total[used] += column[used, None].astype(np.float64) * row
        return total.astype(np.float32)


def apply_bytes(
    values: Int, basis: NDArray[np.int8], factor: float, out: NDArray[np.float32], first: int
) -> None:
    """Twin of `entropy.apply_bytes`: sums below 2^53 are exact in doubles."""
    sums = values.astype(np.int64) @ basis.astype(np.int64)
    out[:, first : first + sums.shape[1]] = sums.astype(np.float64) * factor


def _crc32c_row(byte: int) -> int:
    for _ in range(8):
        byte = (byte >> 1) ^ (_CRC32C_POLYNOMIAL if byte & 1 else 0)
    return byte


_CRC32C_TABLE = tuple(_crc32c_row(byte) for byte in range(256))


def crc32c(data: bytes) -> int:
    """CRC-32C of `data` (Castagnoli, reflected, initial value and final xor 0xFFFFFFFF)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = (crc >> 8) ^ _CRC32C_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF

"""Plain twin of quant/native/coder.h and ints.h: the binary coder, its mixing, integer matrices.

Plain Python integers, one bit at a time, for tests and for reading. A context is a tuple of what
it knows; a probability starts when its context is first met, so that no table sizes appear here.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Int = NDArray[np.int32]

# coder.h
PROB_BITS = 16
PROB_FLOOR = 24
STRETCH_LIMIT = 2047
COUNT_LIMIT = 126
MIXER_SHIFT = 16
MIXER_RATE_SHIFT = 20
MIXER_RATE_FLOOR = 10
MIXER_RATE_BOOST = 40
MIXER_WEIGHT_LIMIT = 1 << 22
USES_LIMIT = 65535
SQUASH_TABLE = (
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743,
    32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374,
    65438, 65476, 65500, 65514,
)  # fmt: skip

# ints.h
MAX_EXPONENT = 24
MAGNITUDE_BUCKETS = 16
NODE_ZERO, NODE_SIGN, NODE_EXPONENT, NODE_MANTISSA, NODE_LOW = 0, 1, 2, 27, 102
WINDOW = 8  # channels before this one whose magnitudes are summed

ONE = 1 << PROB_BITS
_TOP = 0xFF000000
_WORD = 0xFFFFFFFF


def divide(a: int, b: int) -> int:
    """Quotient towards zero, as C divides; b > 0."""
    return a // b if a >= 0 else -(-a // b)


def squash(x: int) -> int:
    """65536 / (1 + exp(-x / 256)) by linear interpolation of SQUASH_TABLE."""
    shifted = max(-STRETCH_LIMIT, min(STRETCH_LIMIT, x)) + 2048
    cell, rest = shifted >> 7, shifted & 127
    return (SQUASH_TABLE[cell] * (128 - rest) + SQUASH_TABLE[cell + 1] * rest + 64) >> 7


def _stretch_table() -> tuple[int, ...]:
    table, x = [], -STRETCH_LIMIT
    for p in range(4096):
        while x < STRETCH_LIMIT and squash(x) < p * 16 + 8:
            x += 1
        table.append(x)
    return tuple(table)


STRETCH_TABLE = _stretch_table()  # by the upper 12 bits of a probability


def clamp_probability(p: int) -> int:
    return max(PROB_FLOOR, min(ONE - PROB_FLOOR, p))


class _Interval:
    """The 32-bit interval that encoder and decoder narrow alike."""

    def __init__(self) -> None:
        self.low, self.high = 0, _WORD

    def middle(self, p: int) -> int:
        width = self.high - self.low
        return self.low + (width >> PROB_BITS) * p + ((width & 0xFFFF) * p >> PROB_BITS)

    def narrow(self, y: int, middle: int) -> None:
        if y:
            self.high = middle
        else:
            self.low = middle + 1

    def top_is_settled(self) -> bool:
        return (self.low ^ self.high) & _TOP == 0

    def shift(self) -> None:
        self.low = self.low << 8 & _WORD
        self.high = self.high << 8 & _WORD | 255


class Encoder(_Interval):
    """Bits to bytes."""

    decodes = False

    def __init__(self) -> None:
        super().__init__()
        self.data = bytearray()

    def code(self, y: int, p: int) -> int:
        self.narrow(y, self.middle(p))
        while self.top_is_settled():
            self.data.append(self.high >> 24)
            self.shift()
        return y

    def finish(self) -> bytes:
        """The stream with the shortest end inside the interval, less its trailing zeros."""
        for keep in range(1, 5) if self.low else ():
            mask = _WORD >> 8 * keep
            up = self.low + mask & ~mask
            if up <= self.high:
                self.data += up.to_bytes(4, "big")[:keep]
                break
        return bytes(self.data).rstrip(b"\0")


class Decoder(_Interval):
    """Bytes to bits; zeros follow the last byte."""

    decodes = True

    def __init__(self, data: bytes) -> None:
        super().__init__()
        self.data, self.position = data, 0
        self.window = 0
        for _ in range(4):
            self._next()

    def _next(self) -> None:
        byte = self.data[self.position] if self.position < len(self.data) else 0
        self.position += 1
        self.window = self.window << 8 & _WORD | byte

    def code(self, _: int, p: int) -> int:
        middle = self.middle(p)
        y = int(self.window <= middle)
        self.narrow(y, middle)
        while self.top_is_settled():
            self.shift()
            self._next()
        return y

    @property
    def consumed(self) -> bool:
        return self.position >= len(self.data)


Coder = Encoder | Decoder


class Mixture:
    """Adaptive probabilities by context and logistic mixing by selector: codes one bit a call."""

    def __init__(self, coder: Coder, inputs: int) -> None:
        self.coder = coder
        self.start = (1 << MIXER_SHIFT) * 3 // (2 * inputs)
        self.bits: dict[tuple[int, Hashable], list[int]] = {}  # -> [probability, count]
        self.weights: dict[Hashable, list[int]] = {}
        self.uses: dict[Hashable, int] = {}

    def bit(self, contexts: Sequence[Hashable], selector: Hashable, y: int) -> int:
        """Code y (or decode: y is ignored) under one context per input; returns the bit."""
        bits = [self.bits.setdefault((i, c), [ONE // 2, 0]) for i, c in enumerate(contexts)]
        weights = self.weights.setdefault(selector, [self.start] * len(bits))
        stretched = [STRETCH_TABLE[p >> 4] for p, _ in bits]
        total = sum(x * w for x, w in zip(stretched, weights, strict=True))
        p = clamp_probability(squash(divide(total, 1 << MIXER_SHIFT)))
        y = self.coder.code(y, p)
        target = ONE - 1 if y else 0
        self._learn(selector, weights, stretched, target - p)
        for bit in bits:
            _update(bit, target)
        return y

    def _learn(
        self, selector: Hashable, weights: list[int], stretched: list[int], error: int
    ) -> None:
        uses = self.uses.get(selector, 0)
        rate = MIXER_RATE_FLOOR + MIXER_RATE_BOOST // (1 + (uses >> 4))
        self.uses[selector] = min(USES_LIMIT, uses + 1)
        for k, x in enumerate(stretched):
            w = weights[k] + divide(x * error * rate, 1 << MIXER_RATE_SHIFT)
            weights[k] = max(-MIXER_WEIGHT_LIMIT, min(MIXER_WEIGHT_LIMIT, w))


def _update(bit: list[int], target: int) -> None:
    p, n = bit
    rate = 2 * ONE // (2 * n + 3)
    bit[0] = clamp_probability(p + divide((target - p) * rate, ONE))
    bit[1] = min(COUNT_LIMIT, n + 1)


def bucket(quarters: int) -> int:
    """0..15 for a magnitude in quarters: exact below one, then two buckets an octave."""
    if quarters < 4:
        return quarters
    log = quarters.bit_length() - 1
    half = quarters >> (log - 1) & 1
    return min(MAGNITUDE_BUCKETS - 1, 4 + (log - 2) * 2 + half)


@dataclass
class _Symbol:
    """Codes one symbol: the bits of its binarisation, each under the contexts of its channel."""

    mixture: Mixture
    channel: int
    first: int
    second: int
    near: int  # bucket of the neighbours' magnitudes
    row: int  # magnitudes of the two channels before, each clipped to 3
    seen: int  # bucket of the mean magnitude of the channels before

    def bit(self, node: int, y: int) -> int:
        c = self.channel
        contexts = (
            (c, self.first, node),
            (c, self.second, node),
            (c, self.near, node),
            (c, self.row, node),
            (self.near, self.seen, min(3, c), node),
            (self.first, self.second, node),
        )
        return self.mixture.bit(contexts, (c, node), int(y))

    def code(self, nonzero: bool, symbol: int) -> int:
        if not nonzero and not self.bit(NODE_ZERO, symbol != 0):
            return 0
        negative = self.bit(NODE_SIGN, symbol < 0)
        magnitude = abs(symbol)
        exponent = 0
        while exponent < MAX_EXPONENT and self.bit(
            NODE_EXPONENT + exponent, magnitude >> exponent > 1
        ):
            exponent += 1
        value = 1
        for k in range(exponent - 1, -1, -1):
            depth = exponent - 1 - k
            if depth < 2:
                node = NODE_MANTISSA + 3 * exponent + (1 + (value & 1) if depth else 0)
            else:
                node = NODE_LOW + exponent
            value = value * 2 + self.bit(node, magnitude >> k & 1)
        return -value if negative else value


def code_ints(
    coder: Coder,
    symbols: list[list[int]],
    scale: Int,
    context: NDArray[np.uint8],
    neighbors: Int,
    limits: Int,
) -> None:
    """Code `symbols`, or decode into them (a list of rows of `channels` zeros)."""
    mixture = Mixture(coder, 6)
    scales = [int(s) for s in scale]
    for i, row in enumerate(symbols):
        limit = int(limits[i]) if len(limits) else len(row)
        first, second = (int(x) for x in context[i])
        near = [int(j) for j in neighbors[i] if j >= 0]
        for c in range(limit):
            around = 1
            if near:
                total = sum(abs(symbols[j][c]) * scales[j] for j in near)
                around = 4 * total // (len(near) * scales[i])
            before = [min(3, abs(row[c - d])) if c >= d else 0 for d in (1, 2)]
            seen = 4 * sum(map(abs, row[max(0, c - WINDOW) : c])) // min(c, WINDOW) if c else 0
            symbol = _Symbol(
                mixture, c, first, second, bucket(around), before[0] * 4 + before[1], bucket(seen)
            )
            row[c] = symbol.code(len(limits) > 0 and c == limit - 1, row[c])

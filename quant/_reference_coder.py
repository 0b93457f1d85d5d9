"""Plain twin of the native coder: intervals, adaptive bits and tallies, mixing.

Plain Python integers, one interval at a time, for tests and for reading. A context is a tuple of
what it knows; its tally or bit starts when it is first met, so that no table sizes appear here.
The headers of quant/native hold the same constants under the same names.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

# coder.h
SCALE_BITS = 15
SCALE = 1 << SCALE_BITS
LOWEST = 1 << 31
FASTEST, SLOWEST = 32767, 800
PROB_FLOOR = 32
_WORD = 0xFFFFFFFF

# tally.h
TOKENS = 16
TALLY_START = 29127
TOP = SCALE - TOKENS

# mixing.h
STRETCH_LIMIT = 2047
MIXER_SHIFT = 16
MIXER_LIMIT = 1 << 22
MIXER_RATE_FLOOR, MIXER_RATE_BOOST = 10, 40
USES_LIMIT = 65535
SQUASH_TABLE = (
    22, 36, 60, 98, 162, 267, 439, 720, 1179, 1921, 3108, 4971, 7812, 11955, 17625, 24743,
    32768, 40793, 47911, 53581, 57724, 60565, 62428, 63615, 64357, 64816, 65097, 65269, 65374,
    65438, 65476, 65500, 65514,
)  # fmt: skip


def clip(x: int, low: int, high: int) -> int:
    return max(low, min(high, x))


# Intervals


class Encoder:
    """Collects intervals and codes them last to first, so that a decoder meets them in order."""

    decodes = False

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def token(self, edges: Sequence[int], token: int) -> int:
        """Code a token under edges that rise from 0 to SCALE; returns it."""
        self.steps.append((edges[token], edges[token + 1] - edges[token]))
        return token

    def finish(self) -> bytes:
        state, words = 1, b""
        for start, size in reversed(self.steps):
            if state >= size << 63 - SCALE_BITS:
                words = (state & _WORD).to_bytes(4, "big") + words
                state >>= 32
            state = (state // size << SCALE_BITS) + state % size + start
        if not words and state == 1:
            return b""
        return state.to_bytes(max(5 if words else 0, (state.bit_length() + 7) // 8), "big") + words


class Decoder:
    """The inverse of `Encoder`."""

    decodes = True

    def __init__(self, data: bytes) -> None:
        self.at = len(data) if len(data) <= 8 else 5 + (len(data) + 3) % 4
        self.data = data
        self.state = int.from_bytes(data[: self.at], "big") if data else 1

    def token(self, edges: Sequence[int], _: int) -> int:
        slot = self.state & SCALE - 1
        token = bisect_right(edges, slot) - 1
        start, size = edges[token], edges[token + 1] - edges[token]
        self.state = size * (self.state >> SCALE_BITS) + slot - start
        if self.state < LOWEST and self.at < len(self.data):
            word = self.data[self.at : self.at + 4]
            self.state = self.state << 32 | int.from_bytes(word, "big")
            self.at += 4
        return token

    @property
    def finished(self) -> bool:
        return self.at == len(self.data) and self.state == 1


Coder = Encoder | Decoder


def code_flag(coder: Coder, y: int, p: int) -> int:
    """A bit of which a one has probability p / SCALE."""
    return 1 - coder.token((0, p, SCALE), 1 - y)


def code_raw(coder: Coder, value: int, bits: int) -> int:
    return coder.token(range(0, SCALE + 1, SCALE >> bits), value)


# Adaptation


def part(error: int, rate: int) -> int:
    """A step of error * rate / 2^17, rounded to nearest."""
    return ((error * rate >> 16) + 1) >> 1


@dataclass
class Bit:
    """Adaptive probability of a one, in 1/65536."""

    p: int = 1 << 15
    rate: int = FASTEST

    def update(self, y: int) -> None:
        self.p += part((65536 - PROB_FLOOR if y else PROB_FLOOR) - self.p, self.rate)
        self.rate += part(SLOWEST - self.rate, self.rate)

    def code(self, coder: Coder, y: int) -> int:
        y = code_flag(coder, y, self.p >> 1)
        self.update(y)
        return y


@dataclass
class Tally:
    """Adaptive distribution over the tokens: edges 1..15; place 0 holds the rate."""

    edges: list[int]

    def update(self, token: int) -> None:
        rate = self.edges[0]
        for j in range(TOKENS):
            target = SLOWEST if j == 0 else j if j <= token else SCALE - 2 * TOKENS + j
            self.edges[j] += part(target - self.edges[j], rate)


def _half(a: int, b: int) -> int:
    return (a + b + 1) >> 1


def code_token(coder: Coder, tallies: Sequence[Tally], token: int) -> int:
    """Code a token under the mean of one or four tallies, which learn it."""
    a, b, c, d = (t.edges for t in (tallies if len(tallies) == 4 else [*tallies] * 4))
    mean = [_half(_half(a[j], b[j]), _half(c[j], d[j])) + j for j in range(1, TOKENS)]
    token = coder.token((0, *mean, SCALE), token)
    for tally in tallies:
        tally.update(token)
    return token


# Logistic mixing


def squash(x: int) -> int:
    """65536 / (1 + exp(-x / 256)) by linear interpolation of SQUASH_TABLE."""
    shifted = clip(x, -STRETCH_LIMIT, STRETCH_LIMIT) + 2048
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


class Mixture:
    """Adaptive bits by context and logistic mixing by selector: codes one bit a call."""

    def __init__(self, coder: Coder, inputs: int) -> None:
        self.coder = coder
        self.start = (1 << MIXER_SHIFT) * 3 // (2 * inputs)
        self.bits: dict[tuple[int, Hashable], Bit] = {}
        self.weights: dict[Hashable, list[int]] = {}
        self.uses: dict[Hashable, int] = {}

    def bit(self, contexts: Sequence[Hashable], selector: Hashable, y: int) -> int:
        """Code y (or decode: y is ignored) under one context per input; returns the bit."""
        bits = [self.bits.setdefault((i, c), Bit()) for i, c in enumerate(contexts)]
        weights = self.weights.setdefault(selector, [self.start] * len(bits))
        stretched = [STRETCH_TABLE[bit.p >> 4] for bit in bits]
        total = sum(x * w for x, w in zip(stretched, weights, strict=True))
        p = squash(total >> MIXER_SHIFT)
        y = code_flag(self.coder, y, p >> 1)
        uses = self.uses.get(selector, 0)
        rate = MIXER_RATE_FLOOR + MIXER_RATE_BOOST // (1 + (uses >> 4))
        self.uses[selector] = min(USES_LIMIT, uses + 1)
        error = ((y << 16) - p) * rate >> 8
        for k, x in enumerate(stretched):
            w = weights[k] + ((x * error + 2048) >> 12)
            weights[k] = clip(w, -MIXER_LIMIT, MIXER_LIMIT)
        for bit in bits:
            bit.update(y)
        return y

"""Plain twin of magnitude.h, estimate.h and ints.h: the coding of integer matrices."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from ._reference_coder import (
    TALLY_START,
    TOKENS,
    TOP,
    Bit,
    Coder,
    Tally,
    clip,
    code_flag,
    code_raw,
    code_token,
    part,
)

Int = NDArray[np.int32]

# magnitude.h
LAST_TOKEN = TOKENS - 1
OPEN_OFFSET, OPEN_BITS, MOST_BITS = 128, 6, 23
MODELLED_BITS, EVEN_START = 4, 6096
LEVELS, LEVEL_OFFSET = 40, 768
ROOTS = (256, 215, 181, 152)  # 256 / 2^(r / 4)

# estimate.h, ints.h
MOST_ERROR = 4095
WEIGHTS = (1000, 700, 600, 1200, 0, 0, 0, 0)
MIDDLE_SCALE = 848
CONTEXTS = 32
NEAR = 3
MANY_CHANNELS, GROUP_BITS = 8, 3


# Magnitudes


def log_of(m: int) -> int:
    """log2(m + 0.4) in 1/256, linear between powers of two."""
    v = 5 * m + 2
    power = v.bit_length() - 1
    return 256 * power + ((v << 8 >> power) & 255) - 594


def token_of(m: int) -> int:
    if m < 4:
        return m
    power = m.bit_length() - 1
    return min(LAST_TOKEN, 2 * power + (m >> power - 1 & 1))


def token_bits(token: int) -> int:
    return 0 if token < 4 else token // 2 - 1


def token_low(token: int) -> int:
    return token if token < 4 else 2 + (token & 1) << token_bits(token)


@cache
def level_prior(level: int) -> tuple[int, ...]:
    """A Laplace distribution of the level's size."""
    edges = [TALLY_START]
    for j in range(1, TOKENS):
        fallen = (2 * token_low(j) - 1) * ROOTS[level & 3] * 8 >> (level >> 2)
        tail = (31000 >> min(20, fallen >> 8)) * (512 - (fallen & 255)) >> 9
        edges.append(TOP - 16 * (TOKENS - j) - tail)
    return tuple(edges)


@cache
def last_prior(level: int) -> tuple[int, ...]:
    """The same without zero."""
    edges = level_prior(level)
    zero = edges[1]
    rest = [(edges[j] - zero) * (TOP - 2 * TOKENS) // (TOP - zero) + j for j in range(2, TOKENS)]
    return (TALLY_START, 1, *rest)


@cache
def even_prior(bits: int) -> tuple[int, ...]:
    """2^bits values, all alike."""
    inside = 1 << bits
    edges = [
        (TOP - TOKENS) * j >> bits if j < inside else TOP - TOKENS + j for j in range(1, TOKENS)
    ]
    return (EVEN_START, *edges)


# Matrices


@dataclass
class _Channel:
    """What is learnt of one channel but for its tallies."""

    weights: list[int] = field(default_factory=lambda: list(WEIGHTS))
    center: int = 0
    first_bias: list[int] = field(default_factory=lambda: [0] * CONTEXTS)
    second_bias: list[int] = field(default_factory=lambda: [0] * CONTEXTS)


@dataclass
class _Row:
    """What a row's symbols are coded with, and what they have left so far."""

    scale: int  # its logarithm
    scale_context: int
    first: int
    second: int
    before: int  # of the channel before: token and sign
    mean: int = 0
    mean_before: int = 0
    sign: int = 0  # of the channel before: -1, 0 or 1

    @staticmethod
    def of(scale: int, first: int, second: int) -> _Row:
        log = log_of(scale)
        scale_context = first if scale == 1 else log >> 6 & CONTEXTS - 1
        return _Row(log, scale_context, first, second, first & TOKENS - 1)


class IntModel:
    """Codes rows of symbols; see docs/format.md 2.4."""

    def __init__(self, coder: Coder, channels: int) -> None:
        self.coder = coder
        self.channels = [_Channel() for _ in range(channels)]
        self.many = channels > MANY_CHANNELS
        self.tallies: dict[Hashable, Tally] = {}
        self.bits: dict[Hashable, Bit] = {}

    def tally(self, prior: tuple[int, ...], *context: Hashable) -> Tally:
        return self.tallies.setdefault(context, Tally(list(prior)))

    def bit(self, *context: Hashable) -> Bit:
        return self.bits.setdefault(context, Bit())

    def symbol(
        self, c: int, last: bool, near: list[int | None], nearest: int, row: _Row, s: int
    ) -> int:
        """Code symbol s of channel c given logarithms of three neighbours and one's symbol."""
        channel = self.channels[c]
        center = channel.center >> 4
        around = [0 if log is None else log - center - row.scale for log in near]
        mean = row.mean_before - center if c > 1 else 0
        features = [*around, mean, row.scale - MIDDLE_SCALE, 256, 0, 0]
        dot = sum(f * w for f, w in zip(features, channel.weights, strict=True))
        bias = channel.first_bias[row.first] + channel.second_bias[row.second]
        estimate = (dot >> 12) + (bias >> 4) + center
        level = clip((estimate + LEVEL_OFFSET) >> 6, 0, LEVELS - 1)
        token = code_token(self.coder, self._tallies(c, last, level, row), token_of(abs(s)))
        magnitude = self._below(c, token, abs(s))
        log = log_of(magnitude)
        if not last:
            self._learn(channel, features, clip(log - estimate, -MOST_ERROR, MOST_ERROR), row)
            channel.center += (16 * log - channel.center) >> 7
        row.mean_before = row.mean
        row.mean = row.mean + ((log - row.mean) >> (2 if self.many else 1)) if c else log
        row.sign = self._sign(c, token, nearest, row, s) if magnitude else 0
        row.before = min(TOKENS // 2 - 1, token) * 2 + (row.sign < 0)
        return row.sign * magnitude

    def _tallies(self, c: int, last: bool, level: int, row: _Row) -> list[Tally]:
        group = c >> GROUP_BITS if self.many else c
        if last:
            return [self.tally(last_prior(level), "last", group, level)]
        third, eighth = level // 3, level // 8
        own = level_prior(level)
        of_third, of_eighth = min(LEVELS - 1, third * 3 + 1), eighth * 8 + 4
        return [
            self.tally(own, "level", c, level),
            self.tally(level_prior(of_third), "second", group, row.second, third),
            self.tally(own, "before", group, row.before, level),
            self.tally(level_prior(of_eighth), "scale", group, row.scale_context, eighth),
        ]

    def _learn(self, channel: _Channel, features: list[int], error: int, row: _Row) -> None:
        for k, f in enumerate(features):
            w = channel.weights[k] + part(8 * error, f)
            channel.weights[k] = clip(w, -32768, 32767)
        channel.first_bias[row.first] += error >> 2
        channel.second_bias[row.second] += error >> 3

    def _below(self, c: int, token: int, m: int) -> int:
        """The magnitude of a token, by its lower bits."""
        if token < 4:
            return token
        if token == LAST_TOKEN:
            return self._open(c, m - OPEN_OFFSET) + OPEN_OFFSET
        bits = token_bits(token)
        raw = max(0, bits - MODELLED_BITS)
        tally = self.tally(even_prior(bits - raw), "below", c, token)
        rest = m - token_low(token)
        found = code_token(self.coder, [tally], rest >> raw)
        if raw:
            found = found << raw | code_raw(self.coder, rest & (1 << raw) - 1, raw)
        return token_low(token) + found

    def _open(self, c: int, rest: int) -> int:
        bits = OPEN_BITS
        while bits < MOST_BITS and self.bit("longer", c, bits).code(self.coder, rest >> bits > 1):
            bits += 1
        found, left = 1, bits
        while left:
            some = min(8, left)
            left -= some
            found = found << some | code_raw(self.coder, rest >> left & (1 << some) - 1, some)
        return found

    def _sign(self, c: int, token: int, nearest: int, row: _Row, s: int) -> int:
        size = min(2, (token - 1) // 2)
        near = self.bit("near", c, row.first, (nearest > 0) - (nearest < 0), size)
        before = self.bit("before", c, row.second, row.sign)
        negative = code_flag(self.coder, int(s < 0), (near.p + before.p) >> 2)
        near.update(negative)
        before.update(negative)
        return -1 if negative else 1


def code_ints(
    coder: Coder,
    symbols: list[list[int]],
    scale: Int,
    context: NDArray[np.uint8],
    neighbors: Int,
    limits: Int,
) -> None:
    """Code `symbols`, or decode into them (a list of rows of zeros)."""
    model = IntModel(coder, len(symbols[0]) if symbols else 0)
    logs: list[list[int]] = []
    for i, symbol_row in enumerate(symbols):
        limit = int(limits[i]) if len(limits) else len(symbol_row)
        row = _Row.of(int(scale[i]), int(context[i, 0]), int(context[i, 1]))
        near = [int(j) for j in neighbors[i][:NEAR]]
        for c in range(limit):
            around = [logs[j][c] if j >= 0 else None for j in near]
            around += [None] * (NEAR - len(near))
            nearest = symbols[near[0]][c] if near and near[0] >= 0 else 0
            last = len(limits) > 0 and c == limit - 1
            symbol_row[c] = model.symbol(c, last, around, nearest, row, symbol_row[c])
        logs.append([log_of(abs(s)) + row.scale for s in symbol_row])

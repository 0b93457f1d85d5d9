"""Random numbers of Bayesian fields, whole numbers on every machine (docs/format.md, chapter 8)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..quant._native import crc32c

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORDS = 4  # 32-bit words of a call.
NORMALS = 8  # Of a call: two of each word.
NORMAL_SHIFT, SINE_SHIFT = 12, 14  # Tables are whole multiples of 2^-shift.
TURN = 1 << 14  # Entries of the sine table.
NORMAL_CRC, SINE_CRC = 0xA9F8D647, 0xDCC8087D
MASK = np.uint64(0xFFFFFFFF)
CHUNK = 1 << 13  # Counters that stay in the cache.
ORDER_STREAM = 0xFFFFFFFF  # The third counter word of permutations.

U32 = NDArray[np.uint32]


def philox(counters: tuple[Any, Any, Any, Any], key: tuple[int, int]) -> tuple[U32, U32, U32, U32]:
    """Philox4x32-10 (Salmon et al. 2011): four words [N] for each counter of four words.

    Words of the counter are below 2^32, each [N] or one number for all; some are [N].
    """
    given = np.broadcast_arrays(*(np.asarray(word, np.uint64) for word in counters))
    shape, count = given[0].shape, given[0].size
    out = tuple(np.empty(count, np.uint32) for _ in range(WORDS))
    for first in range(0, count, CHUNK):
        part = slice(first, first + CHUNK)
        words = _rounds([word.reshape(-1)[part] for word in given], key)
        for whole, word in zip(out, words, strict=True):
            whole[part] = word
    a, b, c, d = (word.reshape(shape) for word in out)
    return a, b, c, d


def _rounds(words: list[NDArray[np.uint64]], key: tuple[int, int]) -> list[NDArray[np.uint64]]:
    low, high = np.uint64(MULTIPLIERS[0]), np.uint64(MULTIPLIERS[1])
    half = np.uint64(32)
    a, b, c, d = words
    for turn in range(ROUNDS):
        k0, k1 = (np.uint64((k + turn * w) & 0xFFFFFFFF) for k, w in zip(key, WEYL, strict=True))
        left, right = a * low, c * high
        a, b = (right >> half) ^ b ^ k0, right & MASK
        c, d = (left >> half) ^ d ^ k1, left & MASK
    return [a, b, c, d]


def normals(index: Any, stream: int, block: int, count: int) -> NDArray[np.int16]:
    """Standard normals in units of 2^-12 of candidates by their number: [count, *index.shape].

    Dimension j takes 16 bits of word (j / 2) mod 4 of the call whose counter is (index, j / 8,
    block, stream), low half first; the key is 0. `stream` is the level of the hierarchy.
    """
    index = np.asarray(index, np.uint64)
    table = normal_table()
    out = np.empty((count, *index.shape), np.int16)
    for first in range(0, count, NORMALS):
        words = philox((index, first // NORMALS, block, stream), (0, 0))
        for j in range(min(NORMALS, count - first)):
            out[first + j] = table[(words[j // 2] >> np.uint32(16 * (j % 2))) & np.uint32(0xFFFF)]
    return out


def orders(count: int, numbers: Sequence[int]) -> NDArray[np.int64]:
    """[N, count]: for each number an order of 0 .. count - 1, i sorted by word 0 of (i, number)."""
    each = np.asarray(numbers, np.uint64)[:, None]
    words = philox((np.arange(count)[None], each, ORDER_STREAM, 0), (0, 0))
    return np.argsort(words[0], axis=1, kind="stable")


@cache
def normal_table() -> NDArray[np.int16]:
    """Quantiles of the normal distribution at (i + 1/2) / 2^16, [2^16] in units of 2^-12.

    Raises ArithmeticError where this machine's mathematics give another table than the format's.
    """
    upper = [NormalDist().inv_cdf((i + 0.5) / 65536) for i in range(32768, 65536)]
    half = np.floor(np.array(upper) * (1 << NORMAL_SHIFT) + 0.5)
    return _checked(np.concatenate([-half[::-1], half]).astype("<i2"), NORMAL_CRC, "normal")


@cache
def sine_table() -> NDArray[np.int16]:
    """sin(2 pi i / 2^14), [2^14] in units of 2^-14. Raises ArithmeticError as `normal_table`."""
    values = [math.floor(TURN * math.sin(math.tau * i / TURN) + 0.5) for i in range(TURN // 4 + 1)]
    quarter = np.array(values)
    half = np.concatenate([quarter, quarter[-2:0:-1]])
    return _checked(np.concatenate([half, -half]).astype("<i2"), SINE_CRC, "sine")


def _checked(table: NDArray[np.int16], crc: int, name: str) -> NDArray[np.int16]:
    found = crc32c(table.tobytes())
    if found != crc:
        raise ArithmeticError(f"{name} table: expected checksum {crc:08x}, got {found:08x}")
    return table.astype(np.int16)

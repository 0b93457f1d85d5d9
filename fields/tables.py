"""Feature tables and weights as sections of a .fpz file (docs/format.md, chapter 4).

A level is the rows in use, as run lengths, and their integers, coded with context mixing; levels
come coarsest first, so that a file cut between them decodes to a blurred field.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import budget, entropy
from ..quant.container import Section
from .levels import Encoding
from .prior import row_contexts

MAX_EXPANSION = 4096  # Bytes of floats for each byte of a file: no reader takes more memory.
SLACK_BYTES = 1 << 20
MAX_SYMBOL = (1 << 24) - 1
MAX_STEP = 1e6

Ints = NDArray[np.int32]


def check_expansion(float_bytes: int, file_bytes: int, name: str) -> None:
    """Refuse tables that are out of proportion to the bytes that they are to come from."""
    budget.check(float_bytes, f"{name}: header: its tables")
    most = MAX_EXPANSION * file_bytes + SLACK_BYTES
    if float_bytes > most:
        raise ValueError(
            f"{name}: header: expected tables of at most {most} bytes from {file_bytes} bytes of "
            f"file, got {float_bytes}"
        )


def write_table(
    encoding: Encoding,
    symbols: Sequence[Ints],
    used: Sequence[NDArray[np.bool_]],
    cells: NDArray[np.bool_] | None = None,
) -> list[Section]:
    """Sections of a table: symbols [rows, F] of each level, and which of its rows are in use.

    Where zeros cost less than saying where they are, more rows count as in use, or less. Cells of
    a radiance field tell what to expect of rows.
    """
    sections = []
    for number in range(encoding.levels):
        needed = used[number] & symbols[number].any(1)
        ways = [used[number], needed, np.full_like(needed, True)]
        contexts = _contexts(encoding, number, cells)
        found = [_write_level(encoding, number, symbols[number], way, contexts) for way in ways]
        sections += min(found, key=lambda pair: sum(len(part.payload) for part in pair))
    return sections


def _write_level(
    encoding: Encoding,
    number: int,
    symbols: Ints,
    used: NDArray[np.bool_],
    contexts: NDArray[np.uint8],
) -> list[Section]:
    near = _neighbors(encoding, number, used)
    flags = write_flags(f"runs/{number}", used, _steps_back(encoding, number), contexts)
    return [flags, _ints(f"tab/{number}", symbols[used], near, contexts[used])]


def _contexts(
    encoding: Encoding, number: int, cells: NDArray[np.bool_] | None
) -> NDArray[np.uint8]:
    if cells is None:
        return _no_context(encoding.level[number].rows)
    return row_contexts(encoding, number, cells)


def read_table(
    encoding: Encoding,
    steps: Sequence[float],
    sections: Mapping[str, Section],
    name: str,
    *,
    partial: bool = False,
    cells: NDArray[np.bool_] | None = None,
) -> tuple[Tensor, list[Ints]]:
    """The table [rows, F] float32 and its symbols by level; missing levels are 0 if `partial`."""
    table = np.zeros((encoding.rows, encoding.features), np.float32)
    found = []
    for number, level in enumerate(encoding.level):
        if partial and not {f"runs/{number}", f"tab/{number}"} <= sections.keys():
            break
        back = _steps_back(encoding, number)
        contexts = _contexts(encoding, number, cells)
        used = read_flags(sections, f"runs/{number}", level.rows, back, name, contexts)
        kept = _read_ints(
            _take(sections, f"tab/{number}", name), int(used.sum()), encoding.features,
            _neighbors(encoding, number, used), name, contexts[used],
        )  # fmt: skip
        first = encoding.first_rows[number]
        table[first : first + level.rows][used] = dequantise(kept, steps[number])
        found.append(kept)
    return torch.from_numpy(table), found


def dequantise(symbols: Ints, step: float) -> NDArray[np.float32]:
    """One product in double precision, rounded once: the same bits on every machine."""
    return (symbols.astype(np.float64) * step).astype(np.float32)


def quantise(values: Tensor, step: float, rounding: float = 0.5) -> Ints:
    """The nearest whole multiples of `step`; less `rounding` widens the dead zone around 0."""
    x = values.detach().numpy().astype(np.float64)
    q = np.sign(x) * np.floor(np.abs(x) / step + rounding)
    return np.clip(q, -MAX_SYMBOL, MAX_SYMBOL).astype(np.int32)


def write_matrix(name: str, symbols: Ints) -> Section:
    """A section of a weight matrix's symbols [out, in]."""
    return _ints(name, symbols, _previous(len(symbols)))


def read_matrix(
    sections: Mapping[str, Section], key: str, shape: tuple[int, int], step: float, name: str
) -> Tensor:
    """The weight matrix of a section."""
    return torch.from_numpy(dequantise(read_symbols(sections, key, shape, name), step))


def read_symbols(
    sections: Mapping[str, Section], key: str, shape: tuple[int, int], name: str
) -> Ints:
    """The symbols of a section that `write_matrix` made."""
    section = _take(sections, key, name)
    return _read_ints(section, shape[0], shape[1], _previous(shape[0]), name)


def write_matrices(key: str, weights: Sequence[Tensor], steps: Sequence[float]) -> list[Section]:
    """The sections KEY/0, KEY/1, ... of weight matrices."""
    return [
        write_matrix(f"{key}/{i}", quantise(weight, step))
        for i, (weight, step) in enumerate(zip(weights, steps, strict=True))
    ]


def read_matrices(
    key: str,
    widths: Sequence[int],
    steps: Sequence[float],
    sections: Mapping[str, Section],
    name: str,
) -> tuple[Tensor, ...]:
    """The matrices [out, in] of KEY/0, KEY/1, ..., for layers of these widths."""
    shapes = [(out, into) for into, out in pairwise(widths)]
    return tuple(
        read_matrix(sections, f"{key}/{i}", shape, step, name)
        for i, (shape, step) in enumerate(zip(shapes, steps, strict=True))
    )


def rounded(weights: Sequence[Tensor], steps: Sequence[float]) -> tuple[Tensor, ...]:
    """The matrices that decoding gives."""
    return tuple(
        torch.from_numpy(dequantise(quantise(weight, step), step))
        for weight, step in zip(weights, steps, strict=True)
    )


def whole_numbers(layout: Mapping[str, Any], key: str) -> list[int]:
    """A list of a header. Raises ValueError naming the key."""
    values = layout.get(key)
    if not (isinstance(values, list) and all(type(v) is int for v in values)):
        raise ValueError(f"{key}: expected whole numbers, got {values!r:.40}")
    return values


def positive(layout: Mapping[str, Any], key: str, count: int) -> tuple[float, ...]:
    """A list of `count` steps of a header. Raises ValueError naming the key."""
    values = layout.get(key)
    if not (
        isinstance(values, list)
        and len(values) == count
        and all(type(v) in (int, float) and 0 < v <= MAX_STEP for v in values)
    ):
        raise ValueError(f"{key}: expected {count} positive numbers, got {values!r:.40}")
    return tuple(float(v) for v in values)


def write_flags(
    name: str,
    flags: NDArray[np.bool_],
    back: Sequence[int],
    contexts: NDArray[np.uint8] | None = None,
) -> Section:
    """A section of flags [N], at least one, as they are or as run lengths.

    `back` says how many places before each of them its neighbours are; contexts are [N, 2].
    """
    plain = _ints(name, flags[:, None].astype(np.int32), _behind(len(flags), back), contexts)
    runs = _runs(flags)
    if len(runs) == len(flags):
        return plain
    short = _ints(name, runs[:, None], _previous(len(runs)))
    return min(plain, short, key=lambda section: len(section.payload))


def read_flags(
    sections: Mapping[str, Section],
    key: str,
    count: int,
    back: Sequence[int],
    name: str,
    contexts: NDArray[np.uint8] | None = None,
) -> NDArray[np.bool_]:
    """The flags [count] of a section."""
    section = _take(sections, key, name)
    if section.raw_size != 4 * count:
        return _read_runs(section, count, name)
    flags = _read_ints(section, count, 1, _behind(count, back), name, contexts)[:, 0]
    if flags.min() < 0 or flags.max() > 1:
        raise ValueError(f"{name}: section {key!r}: expected flags of 0 or 1, got others")
    return flags.astype(np.bool_)


def check_sections(expected: Sequence[str], sections: Mapping[str, Section], name: str) -> None:
    """Refuse a section that the model has no use for."""
    extra = sorted(set(sections) - set(expected))
    if extra:
        raise ValueError(f"{name}: section {extra[0]!a}: expected none, got one")


def _take(sections: Mapping[str, Section], key: str, name: str) -> Section:
    if key not in sections:
        raise ValueError(f"{name}: section {key!r}: expected, got none")
    return sections[key]


def _ints(
    name: str, symbols: Ints, near: Ints, contexts: NDArray[np.uint8] | None = None
) -> Section:
    rows = len(symbols)
    contexts = _no_context(rows) if contexts is None else contexts
    payload = entropy.encode_ints(symbols, np.ones(rows, np.int32), contexts, near)
    return Section(name, "ints", payload, 4 * symbols.size)


def _read_ints(
    section: Section,
    rows: int,
    channels: int,
    near: Ints,
    name: str,
    contexts: NDArray[np.uint8] | None = None,
) -> Ints:
    _check_coding(section, 4 * rows * channels, name)
    contexts = _no_context(rows) if contexts is None else contexts
    try:
        return entropy.decode_ints(
            section.payload, channels, np.ones(rows, np.int32), contexts, near
        )
    except ValueError as error:
        raise ValueError(f"{name}: section {section.name!r}: {error}") from None


def _check_coding(section: Section, size: int, name: str) -> None:
    if (section.codec, section.raw_size) != ("ints", size):
        raise ValueError(
            f"{name}: section {section.name!r}: expected {size} bytes by 'ints', got "
            f"{section.raw_size} by {section.codec!r}"
        )


def _no_context(rows: int) -> NDArray[np.uint8]:
    return np.zeros((rows, 2), np.uint8)


def _previous(rows: int) -> Ints:
    return np.arange(-1, rows - 1, dtype=np.int32)[:, None]


def _behind(rows: int, back: Sequence[int]) -> Ints:
    """[rows, len(back)] the rows so many before each, or -1."""
    return np.maximum(np.arange(rows, dtype=np.int32)[:, None] - np.array(back, np.int32), -1)


def _runs(used: NDArray[np.bool_]) -> Ints:
    """Lengths of alternate runs, the first of rows that are not in use."""
    edges = np.flatnonzero(np.diff(used, prepend=False, append=not used[-1]))
    return np.diff(edges, prepend=0).astype(np.int32)


def _read_runs(section: Section, rows: int, name: str) -> NDArray[np.bool_]:
    count = section.raw_size // 4
    if not 1 <= count <= rows + 1:
        raise ValueError(
            f"{name}: section {section.name!r}: expected 1 to {rows + 1} runs, got {count}"
        )
    runs = _read_ints(section, count, 1, _previous(count), name)[:, 0].astype(np.int64)
    if (runs < 0).any() or (runs[1:] == 0).any() or runs.sum() != rows:
        raise ValueError(
            f"{name}: section {section.name!r}: expected runs of {rows} rows, got {runs.sum()}"
        )
    return np.repeat(np.arange(count) % 2 == 1, runs)


def _neighbors(encoding: Encoding, number: int, used: NDArray[np.bool_]) -> Ints:
    """[used rows, 3] places, among those in use, of earlier rows nearby, or -1.

    On a dense level they are the neighbours one step back along the axes; in a hash, where
    neighbours along x lie together, just the rows before.
    """
    index = np.flatnonzero(used)
    place = np.where(used, np.cumsum(used) - 1, -1).astype(np.int32)
    back = _steps_back(encoding, number)
    near = [np.where(index >= b, place[np.maximum(index - b, 0)], -1) for b in back]
    return np.stack(near, 1).astype(np.int32).reshape(-1, 3)


def _steps_back(encoding: Encoding, number: int) -> list[int]:
    level = encoding.level[number]
    if level.side**encoding.dims > level.rows:
        return [1, 2, 3]
    return [1, level.side, level.side**2 if encoding.dims > 2 else level.side + 1]

"""nerfacto's tensors as a .fpz file: tables rounded and entropy-coded, all else bit by bit."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..quant import budget, container
from ..quant.container import Section
from . import tables
from .nerfacto import DTYPES, MAX_DIMS, MAX_NAMES, HashTable, NerfactoFields, table_of

BACK = (1, 2, 3)  # Rows before one that its use is guessed from.
POINTS = 1 << 13
ROUNDS = 12  # Of the search for a factor.
PROBE = 1e-3  # Of a table's largest value: a step whose effect is measured.
LEVEL_ZLIB = 6
Steps = dict[str, tuple[float, ...]]


def encode(model: NerfactoFields, steps: Steps, header: Mapping[str, Any]) -> bytes:
    """The file of a checkpoint's tensors, tables in multiples of a step for each level."""
    sections, listed = [], []
    for number, (name, table) in enumerate(model.tables.items()):
        for level, step in enumerate(steps[name]):
            symbols = tables.quantise(_level(table, level), step)
            used = np.asarray(symbols.any(1))
            sections.append(tables.write_flags(f"runs/{number}/{level}", used, BACK))
            sections.append(tables.write_matrix(f"tab/{number}/{level}", symbols[used]))
        listed.append({"name": name, "features": table.rows.shape[1], "steps": list(steps[name]),
                       "level_rows": table.level_rows})  # fmt: skip
    data = b"".join(t.numpy().tobytes() for t in model.rest.values())
    sections.append(Section("rest", "zlib", zlib.compress(data, LEVEL_ZLIB), len(data)))
    rest = [[n, str(t.dtype).removeprefix("torch."), list(t.shape)] for n, t in model.rest.items()]
    layout = {"tables": listed, "rest": rest, "aliases": model.aliases}
    return container.write({"kind": model.kind, "layout": layout, **header}, sections)


def decode(data: bytes, *, name: str = "<bytes>") -> NerfactoFields:
    """The tensors of a file. Raises ValueError in one line naming it and what is at fault."""
    found = container.read(data, name=name)
    sections = {section.name: section for section in found.sections}
    layout: Any = found.header.get("layout")
    try:
        listed, rest_list, aliases = (layout[key] for key in ("tables", "rest", "aliases"))
        if not isinstance(aliases, dict) or not all(type(v) is str for v in aliases.values()):
            raise ValueError("aliases: expected names")
        rest = _read_rest(rest_list, sections)
        extra = {k: v for k, v in found.header.items() if k not in ("kind", "layout")}
        read = [_read_table(i, e, sections, len(data), name) for i, e in enumerate(_few(listed))]
        rows = dict(read)
        if not set(aliases.values()) <= rows.keys() | rest.keys():
            raise ValueError("aliases: expected names of tensors")
        return NerfactoFields(
            {n: table_of(n, r, rest, aliases) for n, r in rows.items()}, rest, aliases, extra
        )
    except (KeyError, TypeError, ValueError, zlib.error) as error:
        reason = str(error).removeprefix(f"{name}: ")
        raise ValueError(f"{name}: header: {reason}") from None


def rounded(model: NerfactoFields, steps: Steps) -> NerfactoFields:
    """What decoding gives, without coding it."""
    return model.with_rows({n: _rounded(t, steps[n]).rows for n, t in model.tables.items()})


def steps_for(model: NerfactoFields, target_db: float, seed: int = 0) -> Steps:
    """Steps at which each network keeps a PSNR (`fidelity`) of `target_db` at random places.

    All levels of a table cost as much error, which is right where they have as many rows.
    """
    found = {}
    points = _points(seed)
    for name, table in model.tables.items():
        before = model.outputs(name, points)
        largest = max(float(table.rows.abs().max()), 1e-12)
        weights = _weights(model, name, before, points, PROBE * largest)
        low, high = -20.0, 10.0  # Powers of two of the factor.
        for _ in range(ROUNDS):
            middle = (low + high) / 2
            steps = tuple(largest * 2**middle * w for w in weights)
            after = _with(model, name, _rounded(table, steps)).outputs(name, points)
            low, high = (middle, high) if fidelity(before, after) >= target_db else (low, middle)
        found[name] = tuple(largest * 2**low * w for w in weights)
    return found


def measured(model: NerfactoFields, decoded: NerfactoFields, seed: int = 1) -> dict[str, float]:
    """The `fidelity` of each network of a decoded file, at places that no step was searched on."""
    points = _points(seed)
    return {n: fidelity(model.outputs(n, points), decoded.outputs(n, points)) for n in model.tables}


def fidelity(before: Tensor, after: Tensor) -> float:
    """PSNR in dB of outputs [N, out], each in units of its range."""
    span = (before.amax(0) - before.amin(0)).clamp_min(1e-12)
    error = float((((after - before) / span) ** 2).double().mean())
    return -10 * math.log10(max(error, 1e-30))


def _points(seed: int) -> Tensor:
    return torch.rand(POINTS, 3, generator=torch.Generator().manual_seed(seed))


def _weights(
    model: NerfactoFields, name: str, before: Tensor, points: Tensor, step: float
) -> list[float]:
    """How coarse each level may be beside the others, their geometric mean 1."""
    table, logs = model.tables[name], []
    for level in range(table.levels):
        rows = table.rows.clone()
        part = rows[level * table.level_rows : (level + 1) * table.level_rows]
        noise = torch.rand(part.shape, generator=torch.Generator().manual_seed(level)) - 0.5
        part += step * noise
        after = _with(model, name, replace(table, rows=rows)).outputs(name, points)
        error = float((after - before).square().double().mean())
        logs.append(-0.5 * math.log(max(error, 1e-30)))
    mean = sum(logs) / len(logs)
    return [math.exp(min(max(log - mean, -5.0), 5.0)) for log in logs]


def _with(model: NerfactoFields, name: str, table: HashTable) -> NerfactoFields:
    return replace(model, tables=model.tables | {name: table})


def _level(table: HashTable, level: int) -> Tensor:
    return table.rows[level * table.level_rows : (level + 1) * table.level_rows]


def _rounded(table: HashTable, steps: tuple[float, ...]) -> HashTable:
    levels = [
        tables.dequantise(tables.quantise(_level(table, i), step), step)
        for i, step in enumerate(steps)
    ]
    return replace(table, rows=torch.from_numpy(np.concatenate(levels)))


def _few(entries: Any) -> list[Any]:
    if not isinstance(entries, list) or len(entries) > MAX_NAMES:
        raise ValueError(f"tables, rest: expected lists of at most {MAX_NAMES}")
    return entries


def _read_table(
    number: int, entry: Any, sections: Mapping[str, Section], file_bytes: int, name: str
) -> tuple[str, Tensor]:
    size, features = entry["level_rows"], entry["features"]
    if type(size) is not int or not 1 <= size <= 1 << 28 or features not in range(1, 9):
        raise ValueError(f"tables {number}: expected rows and features")
    if not isinstance(entry["steps"], list) or not 1 <= len(entry["steps"]) <= 64:
        raise ValueError(f"tables {number}: expected 1 to 64 steps")
    steps = tables.positive(entry, "steps", len(entry["steps"]))
    tables.check_expansion(4 * size * features * len(steps), file_bytes, name)
    rows = np.zeros((len(steps) * size, features), np.float32)
    for level, step in enumerate(steps):
        used = tables.read_flags(sections, f"runs/{number}/{level}", size, BACK, name)
        shape = (int(used.sum()), features)
        symbols = tables.read_symbols(sections, f"tab/{number}/{level}", shape, name)
        rows[level * size : (level + 1) * size][used] = tables.dequantise(symbols, step)
    if not isinstance(entry["name"], str):
        raise ValueError(f"tables {number}: expected a name")
    return entry["name"], torch.from_numpy(rows)


def _read_rest(entries: Any, sections: Mapping[str, Section]) -> dict[str, Tensor]:
    section = sections.get("rest")
    if section is None or section.codec != "zlib":
        raise ValueError("section 'rest': expected by zlib")
    budget.check(section.raw_size, "section 'rest'")
    data = zlib.decompressobj().decompress(section.payload, max(section.raw_size, 1))
    found, at = {}, 0
    for name, kind, shape in _few(entries):
        if kind not in DTYPES or not isinstance(name, str) or not isinstance(shape, list):
            raise ValueError(f"rest: expected a name, a dtype and a shape, got {name!r:.40}")
        if len(shape) > MAX_DIMS or not all(type(n) is int and 0 <= n < 1 << 40 for n in shape):
            raise ValueError(f"rest {name!a:.60}: expected a shape")
        dtype, count = np.dtype(kind), math.prod(shape)
        if at + count * dtype.itemsize > len(data):
            raise ValueError(f"rest {name!a:.60}: expected {count} values")
        values = np.frombuffer(data, dtype, count, at).reshape(shape)
        found[name] = torch.from_numpy(values.copy())
        at += count * dtype.itemsize
    if at != len(data) or at != section.raw_size:
        raise ValueError(f"section 'rest': expected {at} bytes, got {section.raw_size}")
    return found

"""Fields of nerfstudio's nerfacto and instant-ngp methods (implementation "torch"), as tensors.

Their scenes are contracted and sampled by networks of their own, which our march does not do: they
are not rendered here. Their hash tables are rounded to how well what the networks say survives, all
other tensors are kept bit by bit, and the checkpoint comes back for nerfstudio to load.
"""

from __future__ import annotations

import io
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from ..quant.torch_archive import Stored, TorchArchive

TABLE = "hash_table"  # What names of tables end with.
COARSEST = 16  # Cells of the first level: nerfstudio's default, which checkpoints do not tell.
PRIMES = (1, 2654435761, 805459861)
DTYPES = {"float32": torch.float32, "int64": torch.int64, "bool": torch.bool}
MAX_NAMES, MAX_DIMS = 4096, 8


@dataclass(frozen=True)
class HashTable:
    """The table of a `HashEncoding`, and where the network behind it and its numbers are.

    Attributes:
        rows: [levels * T, F] float32, T a power of two.
        levels: how many.
        finest: cells of the last level, each way.
        network: what names of the network's layers begin with.
    """

    rows: Tensor
    levels: int
    finest: int
    network: str

    @property
    def level_rows(self) -> int:
        return len(self.rows) // self.levels

    def features(self, points: Tensor) -> Tensor:
        """[N, levels * F] of points [N, 3] in [0, 1], as nerfstudio 1.1.5 interpolates."""
        size, found = self.level_rows, []
        growth = math.exp(math.log(self.finest / COARSEST) / max(self.levels - 1, 1))
        cells = torch.floor(COARSEST * growth ** torch.arange(self.levels))  # In theirs' precision.
        for level in range(self.levels):
            scaled = points * cells[level]
            low = scaled.floor()
            part, sums = scaled - low, torch.zeros(len(points), self.rows.shape[1])
            for corner in range(8):
                up = torch.tensor([corner >> i & 1 for i in range(3)])
                cell = torch.where(up.bool(), scaled.ceil(), low).long() * torch.tensor(PRIMES)
                row = (cell[:, 0] ^ cell[:, 1] ^ cell[:, 2]) % size + level * size
                weight = torch.where(up.bool(), part, 1 - part).prod(1)
                sums += weight[:, None] * self.rows[row]
            found.append(sums)
        return torch.cat(found, 1)


@dataclass(frozen=True)
class NerfactoFields:
    """The tensors of a nerfacto or instant-ngp checkpoint of nerfstudio.

    Attributes:
        tables: by name.
        rest: all other tensors by name: float32, int64 or bool.
        aliases: names of tables that are others' again, and of which.
        extra: numbers and strings that travel with the model.
    """

    tables: dict[str, HashTable]
    rest: dict[str, Tensor]
    aliases: dict[str, str] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)

    kind = "nerfacto"

    @property
    def float_bytes(self) -> int:
        """Of all tensors once, as the checkpoint has them."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    def tensors(self) -> dict[str, Tensor]:
        return {name: table.rows for name, table in self.tables.items()} | self.rest

    def meta(self) -> dict[str, Any]:
        return {"kind": self.kind, **self.extra}

    def describe(self) -> dict[str, Any]:
        """What `info` says of it."""
        tables = {
            name: {"levels": t.levels, "level_rows": t.level_rows, "features": t.rows.shape[1]}
            for name, t in self.tables.items()
        }
        sizes = {name: t.numel() * t.element_size() for name, t in self.tensors().items()}
        return {"kind": self.kind, "tables": tables, "float_bytes": self.float_bytes,
                "bytes_by_attribute": sizes, "provenance": dict(self.extra)}  # fmt: skip

    def with_rows(self, rows: Mapping[str, Tensor]) -> NerfactoFields:
        """The same with other rows in its tables."""
        tables = {name: replace(t, rows=rows[name]) for name, t in self.tables.items()}
        return replace(self, tables=tables)

    @torch.no_grad()
    def outputs(self, name: str, points: Tensor) -> Tensor:
        """[N, out] what the network behind a table says at points [N, 3] in [0, 1].

        Before any activation of the last layer: the log of a density, and what a head makes colours
        of. Raises ValueError where layers are missing or do not fit.
        """
        table = self.tables[name]
        x, count = table.features(points), 0
        while (weight := self.rest.get(f"{table.network}layers.{count}.weight")) is not None:
            bias = self.rest.get(f"{table.network}layers.{count}.bias")
            if weight.ndim != 2 or weight.shape[1] != x.shape[1] or bias is None:
                raise ValueError(f"{table.network}layers.{count}: expected a layer that fits")
            x = torch.addmm(bias, x.relu() if count else x, weight.T)
            count += 1
        if not count:
            raise ValueError(f"{table.network}layers.0.weight: expected a tensor")
        return x

    def checkpoint(self) -> bytes:
        """A file for nerfstudio: `pipeline` and `step`, without optimisers."""
        pipeline = self.tensors()
        pipeline |= {alias: pipeline[name] for alias, name in self.aliases.items()}
        out = io.BytesIO()
        torch.save({"step": self.extra.get("step", 0), "pipeline": pipeline}, out)
        return out.getvalue()


def nerfacto_of(archive: TorchArchive) -> NerfactoFields | None:
    """The fields of a checkpoint; None where it has no hash tables of nerfstudio's torch encoding.

    Raises ValueError in one line naming the file and the tensor at fault.
    """
    tensors = _pipeline(archive)
    names = [name for name in tensors if name.endswith(TABLE)]
    if not names:
        return None
    read, aliases = _distinct(tensors)
    rest: dict[str, Tensor] = {}
    for name in read:
        found = torch.from_numpy(archive.array(tensors[name], name))
        if str(found.dtype).removeprefix("torch.") not in DTYPES:
            raise ValueError(f"{archive.name}: {name}: expected float32, int64 or bool")
        if found.is_floating_point() and not found.isfinite().all():
            raise ValueError(f"{archive.name}: {name}: expected finite numbers")
        rest[name] = found
    step = archive.root.get("step")
    extra = {"source_format": "nerfstudio nerfacto checkpoint"}
    try:
        tables = {n: table_of(n, rest.pop(n), rest, aliases) for n in names if n not in aliases}
    except ValueError as error:
        raise ValueError(f"{archive.name}: {error}") from None
    return NerfactoFields(
        tables, rest, aliases, extra | ({"step": step} if type(step) is int else {})
    )


def _pipeline(archive: TorchArchive) -> dict[str, Stored]:
    found = archive.root.get("pipeline") if isinstance(archive.root, dict) else None
    if not isinstance(found, dict):
        return {}
    return {k: v for k, v in found.items() if isinstance(k, str) and isinstance(v, Stored)}


def _distinct(tensors: Mapping[str, Stored]) -> tuple[list[str], dict[str, str]]:
    """Names of different tensors, and the others with whose they are: modules registered twice."""
    first: dict[Stored, str] = {}
    aliases = {}
    for name, stored in tensors.items():
        known = first.setdefault(stored, name)
        if known != name:
            aliases[name] = known
    return list(first.values()), aliases


def table_of(
    name: str, rows: Tensor, rest: Mapping[str, Tensor], aliases: Mapping[str, str]
) -> HashTable:
    """A table and the numbers of its field, which lie beside it. Raises ValueError."""
    if rows.ndim != 2 or rows.dtype != torch.float32 or not 1 <= rows.shape[1] <= 8:
        raise ValueError(f"{name}: expected [rows, features] float32, got {list(rows.shape)}")
    prefix = next((name[: i + 1] for i in _dots(name) if name[: i + 1] + "num_levels" in rest), "")
    levels = _whole(rest, prefix + "num_levels", 1, 64)
    finest = _whole(rest, prefix + "max_res", COARSEST, 1 << 22)
    size = len(rows) // levels
    if size * levels != len(rows) or size & (size - 1) or not size:
        raise ValueError(f"{name}: expected {levels} levels of a power of two of rows each")
    for network in (name, *(alias for alias, of in aliases.items() if of == name)):
        behind = network.removesuffix(f"0.{TABLE}") + "1."  # In a Sequential, behind the encoding.
        if f"{behind}layers.0.weight" in rest:
            return HashTable(rows, levels, finest, behind)
    raise ValueError(f"{name}: expected a network behind it")


def _dots(name: str) -> list[int]:
    return [i for i in reversed(range(len(name))) if name[i] == "."]


def _whole(rest: Mapping[str, Tensor], name: str, least: int, most: int) -> int:
    found = rest.get(name)
    if found is None or found.numel() != 1 or not least <= int(found) <= most:
        raise ValueError(f"{name}: expected a number of {least} to {most}")
    return int(found)

"""Snapshots of instant-ngp (.ingp, .msgpack): its radiance fields, read from its sources' layout.

A snapshot is its configuration in MessagePack, under gzip if it ends in .ingp, and `snapshot` in
it: the parameters, two bytes each (density network, colour network, table: `NerfNetwork`), and the
densities of 128^3 cells for each cube twice as large as the last one (`density_grid`).
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..quant import budget, msgpack
from .levels import Encoding
from .nerf import CELL_SIDE, GEOMETRY, MARCH, NerfField
from .network import Network
from .tcnn_params import matrices_of, network_of

GZIP = b"\x1f\x8b"
SIDE = 128  # Cells of a cube of theirs, each way.
THIN = 0.01  # Cells with less density are empty.
FINEST = 2048.0  # Cells of the finest level over the unit cube, where no growth is told.
STEPS = 1024  # Of theirs along the diagonal of the unit cube.
MOST_PASSES = 12
DTYPES = {"__half": "<f2", "float": "<f4"}
SCALE = 0.33  # Of a capture's coordinates in theirs.
ENCODING_KEYS = ("n_levels", "n_features_per_level", "log2_hashmap_size", "base_resolution",
                 "per_level_scale", "interpolation", "hash")  # fmt: skip


def read_ingp(data: bytes, *, name: str) -> NerfField:
    """The radiance field of a snapshot, in instant-ngp's coordinates.

    The capture's frame comes along as `frame` in `extra`, [3, 4]: x' = linear x + shift. Its
    background is black. Raises ValueError in one line naming the file and the key: for what is
    damaged, for other tasks than NeRF, other networks, and exposures or latents of photographs.
    """
    try:
        root = msgpack.unpack(_inflated(data))
        snapshot, nerf = _map(root, "snapshot"), _map(_map(root, "snapshot"), "nerf")
        dataset = nerf.get("dataset", {})
        if snapshot.get("mode", "nerf") not in ("nerf", "Nerf"):
            raise ValueError(f"mode: expected nerf, got {snapshot['mode']!r:.40}")
        if not isinstance(dataset, dict):
            raise ValueError("dataset: expected a map")
        _check(root, dataset)
        edge = _power_of_two(nerf.get("aabb_scale", dataset.get("aabb_scale", 1)))
        network, head = _networks(root, snapshot, edge)
        low = 0.5 - edge / 2
        return NerfField(
            network, head, _cells(snapshot, edge), (low, low, low), float(edge),
            {"source_format": "instant-ngp snapshot", "frame": _frame(dataset)},
            thickness=float(edge), passes=min(round(STEPS * edge / MARCH), MOST_PASSES),
        )  # fmt: skip
    except (ValueError, OverflowError, zlib.error) as error:
        raise ValueError(f"{name}: {error}") from None


def _inflated(data: bytes) -> bytes:
    if not data.startswith(GZIP):
        return data
    most = budget.limit()
    inflater = zlib.decompressobj(31)
    found = inflater.decompress(data, most)
    if not inflater.eof:
        raise ValueError(f"gzip: cut short, or more than {most} bytes inflated (--max-memory)")
    return found


def _map(parent: Any, key: str) -> dict[str, Any]:
    found = parent.get(key) if isinstance(parent, dict) else None
    if not isinstance(found, dict):
        raise ValueError(f"{key}: expected a map of a snapshot, got {type(found).__name__}")
    return found


def _check(root: Mapping[str, Any], dataset: Mapping[str, Any]) -> None:
    """Raises for fields that look otherwise than ours does with the same parameters."""
    for key in ("from_mitsuba", "is_hdr", "n_extra_learnable_dims", "has_light_dirs"):
        if dataset.get(key):
            raise ValueError(f"dataset {key}: expected none, got {dataset[key]!r:.40}")
    harmonics = _map(root, "dir_encoding")
    nested = harmonics.get("nested")
    if isinstance(nested, list) and nested and isinstance(nested[0], dict):
        harmonics = nested[0]
    kind, degree = harmonics.get("otype"), harmonics.get("degree", 4)
    if kind != "SphericalHarmonics" or degree != 4:
        raise ValueError(f"dir_encoding: expected SphericalHarmonics 4, got {kind!r:.40} {degree}")


def _power_of_two(edge: Any) -> int:
    if edge not in [1 << i for i in range(8)]:
        raise ValueError(f"aabb_scale: expected 1 to 128, a power of two, got {edge!r:.40}")
    return int(edge)


def _networks(
    root: Mapping[str, Any], snapshot: Mapping[str, Any], edge: int
) -> tuple[Network, tuple[Tensor, ...]]:
    encoding = _encoding(_map(root, "encoding"), edge)
    params = _numbers(snapshot, "params_binary", DTYPES.get(snapshot.get("params_type", "__half")))
    flat = torch.from_numpy(params.astype(np.float32))
    neurons, hidden = _layers(root, "network")
    wide, deep = _layers(root, "rgb_network")
    density = neurons * (encoding.width + (hidden - 1) * neurons + GEOMETRY)
    widths = [NerfField.head_inputs, *[wide] * deep, 16]
    colours = sum(a * b for a, b in pairwise(widths))
    if len(flat) != density + colours + encoding.rows * encoding.features:
        expected = density + colours + encoding.rows * encoding.features
        raise ValueError(f"params_binary: expected {expected} parameters, got {len(flat)}")
    first = torch.cat([flat[:density], flat[density + colours :]])
    network = network_of(first, encoding, neurons=neurons, hidden=hidden, outputs=GEOMETRY)
    head = matrices_of(flat[density : density + colours], widths)
    return network, (*head[:-1], head[-1][:3].clone())


def _encoding(config: Mapping[str, Any], edge: int) -> Encoding:
    if config.get("otype") not in ("HashGrid", "Grid") or config.get("type", "Hash") != "Hash":
        raise ValueError(f"encoding: expected a HashGrid, got {config.get('otype')!r:.40}")
    given = {key: config[key] for key in ENCODING_KEYS if key in config}
    features = given.get("n_features_per_level", 2)
    if config.get("n_features") and "n_levels" not in config and isinstance(features, int):
        given["n_levels"] = config["n_features"] // max(features, 1)
    if not given.get("per_level_scale"):
        levels, base = given.get("n_levels", 16), given.get("base_resolution", 0)
        if not (isinstance(levels, int) and isinstance(base, int | float) and base >= 1):
            raise ValueError("encoding: expected n_levels and base_resolution")
        given["per_level_scale"] = (FINEST * edge / base) ** (1 / max(levels - 1, 1))
    found = Encoding.of({"otype": "HashGrid", **given}, 3)
    if found.width % 16:
        raise ValueError(f"encoding: expected a multiple of 16 features, got {found.width}")
    return found


def _layers(root: Mapping[str, Any], key: str) -> tuple[int, int]:
    """Neurons and hidden layers."""
    config = _map(root, key)
    expected = {"otype": "FullyFusedMLP", "activation": "ReLU", "output_activation": "None"}
    for name, value in expected.items():
        if config.get(name, value) != value:
            raise ValueError(f"{key} {name}: expected {value}, got {config[name]!r:.40}")
    if config.get("n_output_dims", GEOMETRY) != GEOMETRY:
        raise ValueError(f"{key} n_output_dims: expected {GEOMETRY}")
    neurons, hidden = config.get("n_neurons", 128), config.get("n_hidden_layers", 5)
    if neurons not in (16, 32, 64, 128) or hidden not in range(1, 8):
        raise ValueError(f"{key}: expected 16 to 128 neurons in 1 to 7 layers")
    return neurons, hidden


def _numbers(snapshot: Mapping[str, Any], key: str, dtype: str | None) -> NDArray[Any]:
    data = snapshot.get(key)
    if not isinstance(data, memoryview) or dtype is None or len(data) % np.dtype(dtype).itemsize:
        raise ValueError(f"{key}: expected bytes of __half or float numbers")
    found = np.frombuffer(data, dtype)
    if not np.isfinite(found).all():
        raise ValueError(f"{key}: expected finite numbers")
    return found


def _cells(snapshot: Mapping[str, Any], edge: int) -> Tensor:
    """[64^3] bool: where a cell of any of their cubes has something, x fastest."""
    grid = _numbers(snapshot, "density_grid_binary", "<f2")
    cubes = edge.bit_length()
    if len(grid) != cubes * SIDE**3 or snapshot.get("density_grid_size", SIDE) != SIDE:
        raise ValueError(f"density_grid_binary: expected {cubes * SIDE**3} cells, got {len(grid)}")
    density = grid.astype(np.float32).reshape(cubes, -1)
    least = min(THIN, float(density[0].clip(0).mean()))
    found = np.zeros((CELL_SIDE, CELL_SIDE, CELL_SIDE), np.bool_)  # By z, y, x.
    for cube, values in enumerate(density):
        where = np.nonzero(values > least)[0]
        x, y, z = (
            (((_axis(where >> axis) + 0.5) / SIDE - 0.5) * (2**cube / edge) + 0.5) * CELL_SIDE
            for axis in range(3)
        )
        found[z.astype(np.int64), y.astype(np.int64), x.astype(np.int64)] = True
    return torch.from_numpy(found.reshape(-1))


def _axis(morton: NDArray[np.int64]) -> NDArray[np.int64]:
    """Every third bit, together."""
    found = np.zeros_like(morton)
    for bit in range(7):
        found |= (morton >> (3 * bit) & 1) << bit
    return found


def _frame(dataset: Mapping[str, Any]) -> list[list[float]]:
    """[3, 4] from a capture's coordinates to theirs: scaled, shifted, axes in turn (y, z, x)."""
    scale, offset = dataset.get("scale", SCALE), dataset.get("offset", [0.5] * 3)
    numbers = [scale, *offset] if isinstance(offset, list) and len(offset) == 3 else []
    if not numbers or not all(type(v) in (int, float) and math.isfinite(v) for v in numbers):
        raise ValueError("dataset scale, offset: expected 1 and 3 numbers")
    if not scale > 0:
        raise ValueError(f"dataset scale: expected a positive number, got {scale!r:.40}")
    s, (x, y, z) = float(scale), map(float, offset)
    return [[0.0, s, 0.0, y], [0.0, 0.0, s, z], [s, 0.0, 0.0, x]]

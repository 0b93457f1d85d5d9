"""PlayCanvas compressed PLY: a scalar encoder written from the layout, and the real files."""

from __future__ import annotations

import math
import struct
from itertools import chain

import numpy as np
import pytest
import torch

from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.ply import read_ply

C0 = 0.28209479177387814


def pack_fields(values: list[float], bits: tuple[int, ...]) -> int:
    packed = 0
    for value, width in zip(values, bits, strict=True):
        top = (1 << width) - 1
        packed = packed << width | math.floor(min(max(value, 0), 1) * top + 0.5)
    return packed


def pack_rotation(quat: list[float]) -> int:
    norm = math.sqrt(sum(q * q for q in quat))
    unit = [q / norm for q in quat]
    largest = max(range(4), key=lambda i: abs(unit[i]))
    sign = -1 if unit[largest] < 0 else 1
    rest = [sign * q * math.sqrt(2) / 2 + 0.5 for i, q in enumerate(unit) if i != largest]
    return largest << 30 | pack_fields(rest, (10, 10, 10))


def header(n: int, groups: int, rest: int, order: str) -> bytes:
    axes = [("x", "y", "z"), ("scale_x", "scale_y", "scale_z"), ("r", "g", "b")][:groups]
    bounds = [f"{end}_{a}" for group in axes for end in ("min", "max") for a in group]
    endian = "little" if order == "<" else "big"
    lines = ["ply", f"format binary_{endian}_endian 1.0", f"element chunk {-(-n // 256)}"]
    lines += [f"property float {name}" for name in bounds]
    lines += [f"element vertex {n}"]
    lines += [f"property uint packed_{p}" for p in ("position", "rotation", "scale", "color")]
    if rest:
        lines += [f"element sh {n}"] + [f"property uchar f_rest_{i}" for i in range(rest)]
    return ("\n".join([*lines, "end_header"]) + "\n").encode()


def encode(model: SplatModel, color_bounds: bool = True, order: str = "<") -> bytes:
    """One Gaussian after the other, in plain Python: what the layout says, no more."""
    rgb = (0.5 + C0 * model.sh0[:, 0]).tolist()
    tables = [model.means.tolist(), model.scales.tolist(), *([rgb] if color_bounds else [])]
    n, chunks, vertices, sh = len(model), b"", b"", b""
    alphas = model.opacities.sigmoid().tolist()
    for start in range(0, n, 256):
        rows = range(start, min(start + 256, n))
        bounds = []
        for table in tables:
            for pick in (min, max):
                bounds.append([pick(table[i][j] for i in rows) for j in range(3)])
        chunks += struct.pack(f"{order}{3 * len(bounds)}f", *chain(*bounds))
        for i in rows:
            unit = [
                [(t[i][j] - low[j]) / ((high[j] - low[j]) or 1) for j in range(3)]
                for t, low, high in zip(tables, bounds[::2], bounds[1::2], strict=True)
            ]
            color = unit[2] if color_bounds else rgb[i]
            fields = (
                pack_fields(unit[0], (11, 10, 11)),
                pack_rotation(model.quats[i].tolist()),
                pack_fields(unit[1], (11, 10, 11)),
                pack_fields([*color, alphas[i]], (8, 8, 8, 8)),
            )
            vertices += struct.pack(f"{order}4I", *fields)
    for value in model.shN.transpose(1, 2).flatten().tolist():
        sh += bytes([min(max(int((value / 8 + 0.5) * 256), 0), 255)])
    return header(n, len(tables), len(sh) // n if n else 0, order) + chunks + vertices + sh


def assert_close(got: SplatModel, model: SplatModel, color_bounds: bool) -> None:
    """Within half a step of the lattice that each attribute lies on."""
    for start in range(0, len(model), 256):
        rows = slice(start, start + 256)
        for name in ("means", "scales"):
            value = getattr(model, name)[rows]
            step = (value.amax(0) - value.amin(0)) / torch.tensor([2047, 1023, 2047])
            error = (getattr(got, name)[rows] - value).abs()
            assert (error <= 0.5 * step + 1e-5).all()
    dot = (torch.nn.functional.normalize(model.quats) * got.quats).sum(1).abs()
    assert dot.min() > 1 - 3e-6
    assert (got.opacities.sigmoid() - model.opacities.sigmoid()).abs().max() <= 0.5 / 255 + 1e-6
    span = float(model.sh0.amax() - model.sh0.amin()) if color_bounds else 1 / C0
    assert (got.sh0 - model.sh0).abs().max() <= 0.5 * span / 255 + 1e-5
    assert got.shN.shape == model.shN.shape
    if model.shN.numel():
        assert (got.shN - model.shN).abs().max() <= 0.5 * 8 / 256 + 1e-6


@pytest.mark.parametrize("color_bounds", [True, False])
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_decodes_to_within_half_a_step(tiny_model, color_bounds, sh_degree):
    model = tiny_model(300, sh_degree)
    tame = model.sh0.clamp(-0.5 / C0, 0.5 / C0)  # Without bounds a colour is in 0..1.
    model = SplatModel(**(model.tensors() | {"sh0": tame}))
    got = read_ply(encode(model, color_bounds))
    assert got.sh_degree == sh_degree
    assert_close(got, model, color_bounds)


@pytest.mark.parametrize("n", [1, 256, 257])
def test_chunk_edges_and_big_endian(tiny_model, n):
    model = tiny_model(n, 1)
    assert_close(read_ply(encode(model, order=">")), model, True)


def test_no_gaussians(tiny_model):
    assert len(read_ply(encode(tiny_model(0, 2)))) == 0


def test_ends_of_the_lattices(tiny_model):
    model = tiny_model(4, 1)
    model.opacities[:2] = torch.tensor([-100.0, 100.0])
    model.shN[0, 0, 0], model.shN[0, 0, 1] = -9, 9
    got = read_ply(encode(model))
    torch.testing.assert_close(got.opacities[:2], torch.tensor([-13.815510, 13.815510]))
    assert got.shN[0, 0, :2].tolist() == [-4, 4]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"packed_scale", b"packed_skale", "expected uint packed_scale, got None"),
        (b"uint packed_color", b"float packed_color", "expected uint packed_color, got f4"),
        (b"float max_scale_x", b"float max_scale_q", "expected float max_scale_x a chunk"),
        (b"element chunk 2", b"element chunk 1", "expected 2 chunks, got 1"),
        (b"element sh 300", b"element sh 299", "expected 300 uchar rows in element sh"),
        (b"uchar f_rest_8", b"uchar f_rest_9", "expected 0, 9, 24 or 45 f_rest columns"),
        (b"element vertex 300", b"element vertex 999999999999", "truncated PLY"),
    ],
)
def test_ill_formed(tiny_model, old, new, message):
    data = encode(tiny_model(300, 1))
    assert old in data
    with pytest.raises(ValueError, match=message) as caught:
        read_ply(data.replace(old, new, 1), name="odd.ply")
    assert str(caught.value).startswith("odd.ply: ")
    assert "\n" not in str(caught.value)


def test_every_cut_is_noticed(tiny_model):
    data = encode(tiny_model(20, 1))
    for cut in [*range(0, len(data), 13), len(data) - 1]:
        with pytest.raises(ValueError, match=r"^cut\.ply: ") as caught:
            read_ply(data[:cut], name="cut.ply")
        assert "\n" not in str(caught.value)


def test_flipped_bytes(tiny_model):
    data, rng = encode(tiny_model(20, 1)), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(data)
        for where in rng.integers(len(data), size=rng.integers(1, 5)):
            damaged[where] ^= int(rng.integers(1, 256))
        try:
            read_ply(bytes(damaged), name="damaged.ply")
        except ValueError as error:
            message = str(error)
        else:
            message = "damaged.ply: none"
        assert message.startswith("damaged.ply: ")
        assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "count"),
    [("angel/angel.compressed.ply", 71377), ("guitar/guitar.compressed.ply", 90854)],
)
def test_real_scenes(data_dir, path, count):
    model = read_ply(data_dir / "gaussians" / path)
    assert (len(model), model.sh_degree) == (count, 0)
    assert all(value.isfinite().all() for value in model.tensors().values())
    assert model.scales.amax() < 2
    rgb = 0.5 + C0 * model.sh0
    assert 0.1 < rgb.mean() < 0.9

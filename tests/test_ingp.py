"""Snapshots of instant-ngp, written here as its sources write them."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress import models
from fieldpress.__main__ import main
from fieldpress.fields import codec
from fieldpress.fields.checkpoint import in_frame
from fieldpress.fields.ingp import read_ingp
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import CELL_SIDE, NerfField
from fieldpress.fields.network import layers
from fieldpress.fields.sdf import pixel_rays
from fieldpress.fields.tcnn_params import params_of
from fieldpress.quant import msgpack
from fieldpress.render.sh import sh_bases
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit

SIDE = 128
ENCODING = {"otype": "HashGrid", "n_levels": 8, "n_features_per_level": 2, "log2_hashmap_size": 10,
            "base_resolution": 4}  # fmt: skip


def packed(value: Any) -> bytes:
    """MessagePack, in the shortest form of each, as nlohmann's library has it."""
    if value is None or isinstance(value, bool):
        return {None: b"\xc0", False: b"\xc2", True: b"\xc3"}[value]
    if isinstance(value, int):
        if -32 <= value < 128:
            return struct.pack("b", value) if value < 0 else bytes([value])
        return b"\xd3" + struct.pack(">q", value)
    if isinstance(value, float):
        return b"\xcb" + struct.pack(">d", value)
    if isinstance(value, bytes):
        return b"\xc6" + struct.pack(">I", len(value)) + value
    if isinstance(value, str):
        data = value.encode()
        short = bytes([0xA0 | len(data)]) if len(data) < 32 else b"\xd9" + bytes([len(data)])
        return short + data
    if isinstance(value, list):
        head = bytes([0x90 | len(value)]) if len(value) < 16 else b"\xdc" + struct.pack(
            ">H", len(value))  # fmt: skip
        return head + b"".join(map(packed, value))
    head = (
        bytes([0x80 | len(value)]) if len(value) < 16 else b"\xde" + struct.pack(">H", len(value))
    )
    return head + b"".join(packed(key) + packed(item) for key, item in value.items())


def morton(x: int, y: int, z: int) -> int:
    return sum((v >> bit & 1) << (3 * bit + axis) for axis, v in enumerate((x, y, z))
               for bit in range(7))  # fmt: skip


def snapshot(edge: int = 1, seed: int = 0, cubes: int | None = None) -> dict[str, Any]:
    """A small field, of noise, with something in the middle of its cube."""
    rng = np.random.default_rng(seed)
    growth = (2048.0 * edge / ENCODING["base_resolution"]) ** (1 / 7)
    rows = Encoding.of({**ENCODING, "per_level_scale": growth}, 3).rows
    density, colours = 32 * 16 + 16 * 32, 32 * 32 + 32 * 32 + 16 * 32
    weights = rng.normal(size=density + colours) * 0.4
    table = rng.normal(size=2 * rows) * np.exp(
        -np.arange(2 * rows) / 300
    )  # Smooth enough to march.
    params = np.concatenate([weights, table]).astype(np.float16)
    grid = np.zeros((edge.bit_length() if cubes is None else cubes, SIDE**3), np.float16)
    for x, y, z in np.argwhere(np.ones((12, 12, 12))) + SIDE // 2 - 6:
        grid[0, morton(x, y, z)] = 1
    return {
        "encoding": dict(ENCODING),
        "network": {"otype": "FullyFusedMLP", "n_neurons": 32, "n_hidden_layers": 1,
                    "activation": "ReLU", "output_activation": "None"},
        "rgb_network": {"otype": "FullyFusedMLP", "n_neurons": 32, "n_hidden_layers": 2},
        "dir_encoding": {"otype": "Composite", "nested": [
            {"n_dims_to_encode": 3, "otype": "SphericalHarmonics", "degree": 4},
            {"otype": "Identity"}]},
        "snapshot": {
            "mode": "nerf", "n_params": len(params), "params_type": "__half",
            "params_binary": params.tobytes(), "density_grid_size": SIDE,
            "density_grid_binary": grid.tobytes(),
            "nerf": {"aabb_scale": edge, "dataset": {
                "scale": 0.25, "offset": [0.5, 0.25, 0.75], "from_mitsuba": False}},
        },
    }  # fmt: skip


def read(root: Any) -> NerfField:
    return read_ingp(gzip.compress(packed(root)), name="x.ingp")


def test_msgpack_is_read_as_it_was_written() -> None:
    value = {"a": [1, -5, 200, -(2**40), 2.5, None, True], "b" * 40: {"c": "d"}, "e": b"xyz" * 100,
             "f": list(range(40))}  # fmt: skip
    found = msgpack.unpack(packed(value))
    assert found["e"] == value["e"]
    found["e"] = value["e"]
    assert found == value
    deep = b"\x91" * 100 + b"\xc0"
    claims = b"\xdd\xff\xff\xff\xff"
    for bad in (b"", b"\xc1", b"\xa5abc", b"\xc0\xc0", b"\x81\x01\x01", b"\xa1\xff", deep, claims):
        with pytest.raises(ValueError, match="msgpack"):
            msgpack.unpack(bad)


def test_parameters_are_density_colours_and_table_in_this_order() -> None:
    root = snapshot()
    field = read(root)
    params = np.frombuffer(root["snapshot"]["params_binary"], np.float16).astype(np.float32)
    network = params_of(field.network).numpy()
    density = 32 * 16 + 16 * 32
    assert np.array_equal(network[:density], params[:density])
    assert np.array_equal(network[density:], params[density + 32 * 80 :])
    head = torch.cat([w.flatten() for w in field.head]).numpy()
    assert np.array_equal(head, params[density : density + 32 * 67])  # The last 13 are padding.
    scale = field.network.encoding.per_level_scale
    assert scale == pytest.approx((2048 / 4) ** (1 / 7))
    root["snapshot"] |= {"params_type": "float", "params_binary": params.tobytes()}
    assert torch.equal(read(root).network.table, field.network.table)


@pytest.mark.parametrize("edge", [1, 4])
def test_cells_of_all_cubes_lie_where_they_lay(edge: int) -> None:
    root = snapshot(edge)
    cubes = edge.bit_length()
    grid = np.zeros((cubes, SIDE**3), np.float16)
    grid[0, morton(100, 30, 64)] = 5
    grid[cubes - 1, morton(3, 127, 90)] = 5
    grid[0, morton(1, 1, 1)] = 1e-7  # Below the mean of all.
    root["snapshot"]["density_grid_binary"] = grid.tobytes()
    field = read(root)
    assert field.edge == edge
    assert field.low == (0.5 - edge / 2,) * 3
    places = []
    for cube, cell in ((0, (100, 30, 64)), (cubes - 1, (3, 127, 90))):
        place = ((np.array(cell) + 0.5) / SIDE - 0.5) * 2**cube + 0.5
        x, y, z = ((place - field.low) / edge * CELL_SIDE).astype(int)
        places.append(z * CELL_SIDE**2 + y * CELL_SIDE + x)
    assert sorted(field.cells.nonzero()[:, 0].tolist()) == sorted(places)


def integral(field: NerfField, origin: torch.Tensor, way: torch.Tensor, steps: int) -> torch.Tensor:
    """What one ray brings back, by the definition, in so many steps a diagonal of theirs."""
    t = (torch.arange(steps * 3) + 0.5) * 3**0.5 / steps
    places = (origin + way * t[:, None] - torch.tensor(field.low)) / field.edge
    inside = ((places >= 0) & (places < 1)).all(1)
    x, y, z = (places.clamp(0, 0.999) * CELL_SIDE).long().T
    inside &= field.cells[z * CELL_SIDE**2 + y * CELL_SIDE + x]
    raw = field.network(places[inside].float().contiguous())
    bases = sh_bases(3, way[None]).T.expand(-1, raw.shape[1])
    colors = layers(torch.cat([raw, bases]), field.head)[-1].sigmoid()
    depth = raw[0].exp() * 3**0.5 / steps
    light = (-(depth.cumsum(0) - depth)).exp() * (1 - (-depth).exp())
    return (colors * light).sum(1)


@pytest.mark.parametrize("edge", [1, 4])
def test_rays_bring_back_what_the_definition_says(edge: int) -> None:
    """Densities are per unit of theirs, whatever the cube's edge; steps about as fine as theirs."""
    field = read(snapshot(edge))
    camera = orbit([0.5] * 3, 1.0, 1, width=5, height=5, elevation=20, fov=20.0, up=[0, 0, 1.0])
    picture = field.render(camera)[0]
    origins, ways = pixel_rays(camera, torch.device("cpu"))
    for pixel in (0, 12, 24):
        want = integral(field, origins.reshape(-1, 3)[pixel], ways.reshape(-1, 3)[pixel], 4096)
        torch.testing.assert_close(picture.reshape(-1, 3)[pixel], want, rtol=0, atol=0.02)
    assert float(picture.max()) > 0.05


def test_the_frame_is_that_of_its_loader() -> None:
    """nerf_position_to_ngp: times scale, plus offset, then (y, z, x)."""
    frame = read(snapshot()).extra["frame"]
    point = torch.tensor([1.0, 2.0, 3.0])
    moved = point * 0.25 + torch.tensor([0.5, 0.25, 0.75])
    matrix = torch.tensor(frame)
    assert torch.equal(matrix[:, :3] @ point + matrix[:, 3], moved[[1, 2, 0]])
    eye = torch.eye(4)[None]
    cameras = Cameras(eye, torch.eye(3)[None], 4, 4)
    torch.testing.assert_close(
        in_frame(cameras, frame).positions[0], torch.tensor([0.25, 0.75, 0.5])
    )


CHANGES = {
    "encoding": lambda r: r["encoding"].update(otype="DenseGrid"),
    "interpolation": lambda r: r["encoding"].update(interpolation="Smoothstep"),
    "levels": lambda r: r["encoding"].update(n_levels=99),
    "multiple of 16": lambda r: r["encoding"].update(n_levels=7),
    "n_neurons|neurons": lambda r: r["network"].update(n_neurons=48),
    "network otype": lambda r: r["network"].update(otype="CutlassMLP"),
    "rgb_network": lambda r: r.pop("rgb_network"),
    "dir_encoding": lambda r: r["dir_encoding"]["nested"][0].update(degree=3),
    "mode": lambda r: r["snapshot"].update(mode="sdf"),
    "params_binary": lambda r: r["snapshot"].update(params_binary=b"\0\0"),
    "finite": lambda r: r["snapshot"].update(
        params_binary=b"\xff\x7f" + r["snapshot"]["params_binary"][2:]),
    "density_grid_binary": lambda r: r["snapshot"].update(density_grid_binary=b""),
    "aabb_scale": lambda r: r["snapshot"]["nerf"].update(aabb_scale=3),
    "is_hdr": lambda r: r["snapshot"]["nerf"]["dataset"].update(is_hdr=True),
    "offset": lambda r: r["snapshot"]["nerf"]["dataset"].update(offset=["a", 1, 2]),
    "scale": lambda r: r["snapshot"]["nerf"]["dataset"].update(scale=-1),
}  # fmt: skip


@pytest.mark.parametrize("named", CHANGES)
def test_what_is_not_like_ours_is_refused_by_name(named: str) -> None:
    root = snapshot()
    CHANGES[named](root)
    with pytest.raises(ValueError, match=f"x.ingp: .*({named})") as caught:
        read(root)
    assert "\n" not in str(caught.value)


def test_damage_ends_in_one_line() -> None:
    root = snapshot()
    data = gzip.compress(packed(root), 1)
    for cut in (0, 1, 10, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match=r"x\.ingp"):
            read_ingp(data[:cut], name="x.ingp")
    plain = packed(root)
    rng = np.random.default_rng(0)
    for _ in range(200):
        changed = bytearray(plain)
        changed[int(rng.integers(600))] = int(rng.integers(256))
        try:
            read_ingp(bytes(changed), name="x.ingp")
        except ValueError as error:
            assert str(error).startswith("x.ingp: ")  # noqa: PT017 - most changes do no harm


def test_a_file_keeps_thickness_and_passes() -> None:
    field = read(snapshot(4))
    again = NerfField.at(
        field.network, {**field.place(), "head": field.head, "cells": field.cells}, {}
    )
    assert (again.thickness, again.passes) == (4.0, 12)
    for key, bad in (("thickness", 0), ("thickness", "x"), ("passes", 1.5), ("passes", 1000)):
        with pytest.raises(ValueError, match=key):
            NerfField.at(field.network, {**field.place(), "head": (), "cells": None, key: bad}, {})


def test_it_is_compressed_and_decoded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = tmp_path / "a.ingp", tmp_path / "a.fpz"
    source.write_bytes(gzip.compress(packed(snapshot())))
    plain = tmp_path / "a.msgpack"
    plain.write_bytes(packed(snapshot()))
    assert torch.equal(models.load(plain).cells, models.load(source).cells)
    assert main(["compress", str(source), "-o", str(output), "--target-db", "35", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["psnr_self"] > 33
    decoded = codec.decode(output.read_bytes())
    assert isinstance(decoded, NerfField)
    assert (decoded.thickness, decoded.passes) == (1.0, 5)
    assert decoded.extra["frame"][2][0] == 0.25

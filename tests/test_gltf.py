"""glTF with KHR_gaussian_splatting: there and back, nodes that turn things, what is refused."""

from __future__ import annotations

import base64
import json
import math
import re
import struct
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress.gaussians.frames import rotations
from fieldpress.gaussians.gltf import glb_blocks, gltf_blocks, read_gltf
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.spz import write_spz
from fieldpress.render.sh import sh_bases

KHR = "KHR_gaussian_splatting"


def document(model: SplatModel) -> dict[str, Any]:
    return json.loads(b"".join(gltf_blocks(model)))


def read(root: Any) -> SplatModel:
    return read_gltf(json.dumps(root).encode(), name="a.gltf")


def assert_same(got: SplatModel, model: SplatModel, tolerance: float = 2e-6) -> None:
    unit = torch.nn.functional.normalize
    assert torch.equal(got.means, model.means)
    torch.testing.assert_close(got.scales, model.scales, atol=tolerance, rtol=0)
    assert (unit(got.quats) * unit(model.quats)).sum(1).abs().min() > 1 - 1e-6
    torch.testing.assert_close(got.opacities, model.opacities, atol=1e-4, rtol=1e-5)
    assert torch.equal(got.sh0, model.sh0)
    assert torch.equal(got.shN, model.shN)


@pytest.mark.parametrize("sh_degree", range(4))
@pytest.mark.parametrize("count", [1, 70])
def test_round_trip(tiny_model, sh_degree, count):
    model = tiny_model(count, sh_degree)
    data = b"".join(glb_blocks(model))
    assert struct.unpack_from("<4sII", data) == (b"glTF", 2, len(data))
    assert_same(read_gltf(data), model)
    assert_same(read(document(model)), model)


def test_what_a_viewer_finds(tiny_model):
    """Axes to the left, up and front; rotations xyzw of length 1; linear sizes; bounds."""
    model = tiny_model(3, 1)
    root = document(model)
    primitive = root["meshes"][0]["primitives"][0]
    assert root["extensionsUsed"] == [KHR]
    assert primitive["mode"] == 0
    assert {"kernel", "colorSpace"} <= set(primitive["extensions"][KHR])
    data = base64.b64decode(root["buffers"][0]["uri"].partition(",")[2])

    def column(name: str, width: int) -> torch.Tensor:
        view = root["bufferViews"][root["accessors"][primitive["attributes"][name]]["bufferView"]]
        flat = np.frombuffer(data, "<f4", 3 * width, view["byteOffset"])
        return torch.from_numpy(flat.reshape(3, width).copy())

    flip = torch.tensor([-1.0, -1, 1])
    assert torch.equal(column("POSITION", 3), model.means * flip)
    bounds = root["accessors"][primitive["attributes"]["POSITION"]]
    assert bounds["min"] == (model.means * flip).amin(0).tolist()
    assert bounds["max"] == (model.means * flip).amax(0).tolist()
    torch.testing.assert_close(column(f"{KHR}:SCALE", 3), model.scales.exp())
    torch.testing.assert_close(column(f"{KHR}:OPACITY", 1)[:, 0], model.opacities.sigmoid())
    quats = column(f"{KHR}:ROTATION", 4)[:, [3, 0, 1, 2]]
    expected = flip[:, None] * rotations(model.quats) * flip
    torch.testing.assert_close(rotations(quats), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(quats.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("nested", [False, True])
def test_nodes_turn_the_whole_gaussian(tiny_model, nested):
    """Centres, covariances and colours seen from directions, all under the node's transform."""
    model = tiny_model(20, 3)
    root = document(model)
    axis, angle = np.array([0.6, 0, 0.8]), 1.1
    rotation = [*(axis * math.sin(angle / 2)), math.cos(angle / 2)]
    place = {"rotation": rotation, "translation": [1, 2, 3], "scale": [2, 2, 2]}
    if nested:
        root["nodes"] = [{"children": [1]}, {"mesh": 0, **place}]
    else:
        matrix = np.eye(4)
        wxyz = torch.tensor([rotation[3], *rotation[:3]])[None]
        matrix[:3, :3], matrix[:3, 3] = 2 * rotations(wxyz)[0].numpy(), [1, 2, 3]
        root["nodes"] = [{"mesh": 0, "matrix": matrix.T.flatten().tolist()}]
    got = read(root)
    turn = rotations(torch.tensor([rotation[3], *rotation[:3]])[None])[0].float()
    flip = torch.tensor([-1.0, -1, 1])
    ours = flip[:, None] * turn * flip  # The node's rotation in our axes.
    shift = flip * torch.tensor([1.0, 2, 3])
    torch.testing.assert_close(got.means, 2 * model.means @ ours.T + shift)
    torch.testing.assert_close(got.scales, model.scales + math.log(2))
    made = ours @ rotations(model.quats)
    torch.testing.assert_close(rotations(got.quats), made, atol=1e-5, rtol=0)
    seen = torch.nn.functional.normalize(torch.randn(20, 3), dim=1)
    before = (sh_bases(3, seen)[:, 1:, None] * model.shN).sum(1)
    after = (sh_bases(3, seen @ ours.T)[:, 1:, None] * got.shN).sum(1)
    torch.testing.assert_close(after, before, atol=1e-5, rtol=0)


def test_integer_and_interleaved_attributes(tiny_model):
    root = document(tiny_model(2, 0))
    attributes = root["meshes"][0]["primitives"][0]["attributes"]
    rows = struct.pack("<4hBx2s", 0, 0, 0, 32767, 51, b"") + struct.pack(
        "<4hBx2s", -32767, 0, 0, 0, 255, b""
    )
    uri = "data:application/octet-stream;base64," + base64.b64encode(rows).decode()
    root["buffers"].append({"byteLength": len(rows), "uri": uri})
    root["bufferViews"].append({"buffer": 1, "byteLength": len(rows), "byteStride": 12})
    view = len(root["bufferViews"]) - 1
    for key, kind, code, start in (("ROTATION", "VEC4", 5122, 0), ("OPACITY", "SCALAR", 5121, 8)):
        root["accessors"][attributes[f"{KHR}:{key}"]] = {
            "bufferView": view, "byteOffset": start, "componentType": code, "normalized": True,
            "count": 2, "type": kind,
        }  # fmt: skip
    got = read(root)
    assert got.quats.tolist() == [[1, 0, 0, 0], [0, 1, 0, 0]]
    torch.testing.assert_close(got.opacities.sigmoid(), torch.tensor([0.2, 1]), atol=1e-5, rtol=0)


def test_spz_inside(tiny_model):
    model = tiny_model(30, 2)
    spz = write_spz(model)
    root = document(model)
    uri = "data:application/octet-stream;base64," + base64.b64encode(spz).decode()
    root["buffers"].append({"byteLength": len(spz), "uri": uri})
    root["bufferViews"].append({"buffer": 1, "byteLength": len(spz)})
    inner = {f"{KHR}_compression_spz_2": {"bufferView": len(root["bufferViews"]) - 1}}
    root["meshes"][0]["primitives"][0]["extensions"][KHR]["extensions"] = inner
    got = read(root)
    assert (got.means - model.means).abs().max() <= 2.0**-12


def test_buffers_beside_the_file(tiny_model, tmp_path):
    root = document(tiny_model(5, 1))
    data = base64.b64decode(root["buffers"][0]["uri"].partition(",")[2])
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a b.bin").write_bytes(data)
    (tmp_path / "out.bin").write_bytes(data)
    path = tmp_path / "in" / "a.gltf"
    root["buffers"][0]["uri"] = "a%20b.bin"
    path.write_text(json.dumps(root))
    assert_same(read_gltf(path), tiny_model(5, 1))
    for uri in ("../out.bin", "%2e%2e/out.bin", str(tmp_path / "out.bin"), "file:out.bin"):
        root["buffers"][0]["uri"] = uri
        path.write_text(json.dumps(root))
        with pytest.raises(ValueError, match="names a file outside its folder"):
            read_gltf(path)
    root["buffers"][0]["uri"] = "a.bin"
    with pytest.raises(ValueError, match=r"file 'a\.bin' is missing"):
        read(root)


CHANGES = {
    "no KHR_gaussian_splatting": (("meshes", 0, "primitives", 0, "extensions"), {}),
    "index below 1, got 7": (("nodes", 0, "mesh"), 7),
    "expected a list of objects": (("accessors",), [3]),
    "expected a size, got -1": (("accessors", 0, "count"), -1),
    "expected 5 values, got 4": (("accessors", 1, "count"), 4),
    "buffer view 0: expected 1099511627776": (("bufferViews", 0, "byteLength"), 1 << 40),
    "expected a dense VEC3": (("accessors", 0, "type"), "VEC2"),
    "expected 12 or more, got 4": (("bufferViews", 0, "byteStride"), 4),
    "expected 4 numbers": (("nodes", 0, "rotation"), [0, 0, 0]),
    "scales all axes alike": (("nodes", 0, "scale"), [1, 2, 1]),
    "scales all axes": (("nodes", 0, "scale"), [-1, 1, 1]),
    "expected a tree": (("nodes", 0, "children"), [0]),
    "not base64": (("buffers", 0, "uri"), "data:,***"),
    "no such attribute": (("meshes", 0, "primitives", 0, "attributes"), {"POSITION": 0}),
}


@pytest.mark.parametrize("message", CHANGES)
def test_what_is_refused(tiny_model, message):
    root: Any = document(tiny_model(5, 1))
    path, value = CHANGES[message]
    holder = root
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    if message.startswith("no KHR"):
        message = "none of its nodes has a primitive of KHR_gaussian_splatting"
    with pytest.raises(ValueError, match=r"^a\.gltf: [^\n]*" + re.escape(message)):
        read(root)


def test_a_mesh_shown_too_often_is_a_bomb(tiny_model, monkeypatch):
    from fieldpress.gaussians import gltf

    root = document(tiny_model(50, 0))
    root["nodes"] = [{"mesh": 0}, {"children": [0, 0, 0, 0]}, {"children": [1, 1, 1, 1]}]
    root["scenes"] = [{"nodes": [2]}]
    assert len(read(root)) == 16 * 50
    monkeypatch.setattr(gltf, "ROOM_FLOOR", 1000)
    monkeypatch.setattr(gltf, "ROOM_RATIO", 1)
    with pytest.raises(ValueError, match="nodes repeat too much"):
        read(root)


def test_cuts_are_seen(tiny_model):
    data = b"".join(glb_blocks(tiny_model(20, 1)))
    for cut in range(4, len(data), 101):
        with pytest.raises(ValueError, match=r"^a: [^\n]*$"):
            read_gltf(data[:cut], name="a")
    for text in (b"", b"{", b"3", b"{}"):
        with pytest.raises(ValueError, match=r"^a: glTF"):
            read_gltf(text, name="a")

"""PLY in and out: every layout in the wild, plyfile as the oracle, damage of every kind."""

from __future__ import annotations

import io
import re

import numpy as np
import plyfile
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.ply import FLAT_SCALE, ply_blocks, read_ply, write_ply

STANDARD = ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"]
ENDING = ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]


def assert_same(got: SplatModel, expected: SplatModel) -> None:
    for name, value in expected.tensors().items():
        assert torch.equal(got.tensors()[name], value), name


def as_table(model: SplatModel, types: dict[str, str] | None = None) -> np.ndarray:
    """The model as plyfile's structured array: f_rest channel by channel."""
    columns = dict(zip("xyz", model.means.T, strict=True))
    columns |= {f"f_dc_{c}": model.sh0[:, 0, c] for c in range(3)}
    k = model.shN.shape[1]
    columns |= {f"f_rest_{c * k + i}": model.shN[:, i, c] for c in range(3) for i in range(k)}
    columns["opacity"] = model.opacities
    columns |= {f"scale_{i}": model.scales[:, i] for i in range(3)}
    columns |= {f"rot_{i}": model.quats[:, i] for i in range(4)}
    types = types or {}
    table = np.empty(len(model), [(name, types.get(name, "f4")) for name in columns])
    for name, column in columns.items():
        table[name] = column.numpy()
    return table


def by_plyfile(*elements: tuple[np.ndarray, str], **options) -> bytes:
    described = [plyfile.PlyElement.describe(rows, name) for rows, name in elements]
    buffer = io.BytesIO()
    plyfile.PlyData(described, **options).write(buffer)
    return buffer.getvalue()


def reorder(table: np.ndarray, names: list[str]) -> np.ndarray:
    out = np.empty(len(table), [(name, table.dtype[name]) for name in names])
    for name in names:
        out[name] = table[name]
    return out


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("n", [0, 1, 37, 9000])
def test_round_trip_is_exact(tiny_model, tmp_path, n, sh_degree):
    model = tiny_model(n, sh_degree)
    data = write_ply(model)
    assert_same(read_ply(data), model)
    path = tmp_path / "scene.ply"
    path.write_bytes(b"".join(ply_blocks(model)))
    assert path.read_bytes() == data
    assert_same(read_ply(path), model)


def test_written_layout_is_inrias(tiny_model):
    model = tiny_model(20, 3)
    ply = plyfile.PlyData.read(io.BytesIO(write_ply(model)))
    vertex = ply["vertex"].data
    assert list(vertex.dtype.names) == STANDARD + [f"f_rest_{i}" for i in range(45)] + ENDING
    assert (ply.byte_order, ply.text) == ("<", False)
    expected = as_table(model)
    for name in expected.dtype.names:
        np.testing.assert_array_equal(vertex[name], expected[name])
    assert not any(vertex[name].any() for name in ("nx", "ny", "nz"))


def test_antialiased_survives(tiny_model):
    model = tiny_model(2)
    assert not read_ply(write_ply(model)).antialiased
    mip = SplatModel(**model.tensors(), antialiased=True)
    assert read_ply(write_ply(mip)).antialiased
    assert b"comment SplatRenderMode: mip\n" in write_ply(mip)


@pytest.mark.parametrize("options", [{"byte_order": "<"}, {"byte_order": ">"}, {"text": True}])
@pytest.mark.parametrize("sh_degree", [0, 3])
def test_columns_go_by_name(tiny_model, options, sh_degree):
    model = tiny_model(30, sh_degree)
    table = as_table(model)
    names = list(table.dtype.names)
    np.random.default_rng(1).shuffle(names)
    shuffled = reorder(table, names)
    extra = np.empty(30, [("mystery", "f8"), *shuffled.dtype.descr, ("flag", "u1")])
    extra["mystery"], extra["flag"] = 7, 3
    for name in names:
        extra[name] = shuffled[name]
    before = np.zeros(3, [("a", "u1"), ("b", "f8")])
    after = np.zeros(2, [("c", "i4")])
    data = by_plyfile((before, "camera"), (extra, "vertex"), (after, "other"), **options)
    assert_same(read_ply(data), model)


def test_doubles_and_halves(tiny_model):
    model = tiny_model(9, 1)
    data = by_plyfile((as_table(model, {"x": "f8", "opacity": "f8"}), "vertex"))
    assert_same(read_ply(data), model)
    table = as_table(model, {"f_rest_4": "f2"})  # plyfile knows no half: header by hand.
    lines = ["ply", "format binary_little_endian 1.0", f"element vertex {len(table)}"]
    kinds = {"f4": "float", "f2": "half"}
    lines += [f"property {kinds[code[1:]]} {name}" for name, code in table.dtype.descr]
    got = read_ply(("\n".join(lines) + "\nend_header\n").encode() + table.tobytes())
    assert torch.equal(got.shN[:, 1, 1], model.shN[:, 1, 1].half().float())
    assert torch.equal(got.quats, model.quats)


def test_lists_before_the_vertices(tiny_model):
    model = tiny_model(12, 0)
    faces = np.empty(2, [("vertex_indices", "O")])
    faces["vertex_indices"] = [np.array([1, 2, 3], "i4"), np.array([4], "i4")]
    data = by_plyfile((faces, "face"), (as_table(model), "vertex"))
    assert_same(read_ply(data), model)


def test_header_with_carriage_returns(tiny_model):
    data = write_ply(tiny_model(3))
    end = data.index(b"end_header\n") + len(b"end_header\n")
    assert_same(read_ply(data[:end].replace(b"\n", b"\r\n") + data[end:]), tiny_model(3))


def test_two_dimensional_gaussians_get_a_thin_third_axis(tiny_model):
    table = as_table(tiny_model(5, 0))
    flat = reorder(table, [n for n in table.dtype.names if n != "scale_2"])
    model = read_ply(by_plyfile((flat, "vertex")))
    assert torch.equal(model.scales[:, 2], torch.full((5,), FLAT_SCALE))
    assert torch.equal(model.scales[:, :2], tiny_model(5, 0).scales[:, :2])
    assert model.extra["flat"] is True


def without(*names: str):
    def change(table: np.ndarray) -> np.ndarray:
        return reorder(table, [n for n in table.dtype.names if n not in names])

    return change


def retyped(name: str, code: str):
    def change(table: np.ndarray) -> np.ndarray:
        kinds = [(n, code if n == name else "f4") for n in table.dtype.names]
        return np.zeros(len(table), kinds)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without("opacity"), "point cloud, not Gaussians"),
        (without("rot_2"), "lacks vertex properties rot_2"),
        (without("f_rest_8"), "number 0, 9, 24, 45 or 72, got 8"),
        (without("y"), "lacks vertex properties y"),
        (retyped("opacity", "u1"), "expected a float property opacity, got u1"),
    ],
)
def test_what_is_not_gaussians_is_refused(tiny_model, tmp_path, change, message):
    path = tmp_path / "odd.ply"
    path.write_bytes(by_plyfile((change(as_table(tiny_model(4, 1))), "vertex")))
    with pytest.raises(ValueError, match=message) as caught:
        read_ply(path)
    assert str(caught.value).startswith(str(path))


def test_point_cloud_is_refused():
    cloud = np.zeros(4, [("x", "f4"), ("y", "f4"), ("z", "f4"), ("red", "u1")])
    with pytest.raises(ValueError, match="a point cloud, not Gaussians") as caught:
        read_ply(by_plyfile((cloud, "vertex")), name="cloud.ply")
    assert str(caught.value).startswith("cloud.ply: ")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (b"ply\n", b"plx\n", "not a PLY file"),
        (b"end_header", b"en__header", "no end_header"),
        (b"property float y", b"property float x", "property 'x' twice"),
        (b"property float y", b"property quad y", "line 5 not understood"),
        (b"element vertex 6", b"element vertex -6", "line 3 not understood"),
        (b"format binary_little_endian 1.0\n", b"", "no format line"),
    ],
)
def test_broken_headers(tiny_model, old, new, message):
    data = write_ply(tiny_model(6))
    assert old in data
    with pytest.raises(ValueError, match=message):
        read_ply(data.replace(old, new, 1))


@pytest.mark.parametrize("claim", [7, 10**6, 10**18, 10**400])
@pytest.mark.parametrize("text", [False, True])
def test_claims_are_checked_before_anything_is_allocated(ply_bytes, tiny_model, claim, text):
    table = as_table(tiny_model(6, 0))
    columns = {name: table[name] for name in table.dtype.names}
    data = ply_bytes(columns, text=text, declared=claim)
    if text and claim == 7:  # Six long rows could be seven short ones: plyfile finds out.
        expected = "big.ply: PLY not readable"
    elif claim < 10**20:
        size = len(data) - 6 * 4 * 14 + claim * 4 * 14
        expected = f"big.ply: truncated PLY: expected {size} bytes, got {len(data)}"
        expected = "big.ply: truncated PLY: expected at least" if text else expected
    else:
        expected = "big.ply: truncated PLY"
    with pytest.raises(ValueError, match=re.escape(expected)):
        read_ply(data, name="big.ply")


def refusal(data: bytes) -> str:
    """What reading the bytes says when it refuses them; nothing but ValueError may come."""
    try:
        assert isinstance(read_ply(data, name="damaged.ply"), SplatModel)
    except ValueError as error:
        return str(error)
    return "damaged.ply: none"


@pytest.mark.parametrize("text", [False, True])
def test_every_cut_is_noticed(tiny_model, text):
    data = by_plyfile((as_table(tiny_model(5, 1)), "vertex"), text=text)
    last = 24 if text else 1  # Digits missing from the very last number cannot be noticed.
    for cut in [*range(0, len(data) - last, 7), len(data) - last]:
        with pytest.raises(ValueError, match=r"^cut\.ply: ") as caught:
            read_ply(data[:cut], name="cut.ply")
        assert "\n" not in str(caught.value)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(text=st.booleans(), flips=st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 255))))
def test_flipped_bytes(tiny_model, text, flips):
    data = bytearray(by_plyfile((as_table(tiny_model(5, 0)), "vertex"), text=text))
    for where, mask in flips:
        data[int(where * len(data))] ^= mask
    message = refusal(bytes(data))
    assert message.startswith("damaged.ply: ")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("path", "count", "sh_degree"),
    [
        ("gaussians/fox-trained/point_cloud.ply", 49936, 3),
        ("gaussians/snowmiku-trained/point_cloud.ply", 59800, 3),
        ("gaussians/leica-sofort/leica-sofort-top8192.ply", 8192, 3),
        ("gaussians/train-1000/train-1000.ply", 1000, 3),
        ("gaussians/fruit-drops/fruit_drops_minimal.ply", 4721, 3),
        ("multiview/fox-tiny/point_cloud.ply", 5488, 3),
    ],
)
def test_real_scenes(data_dir, path, count, sh_degree):
    model = read_ply(data_dir / path)
    assert (len(model), model.sh_degree) == (count, sh_degree)
    vertex = plyfile.PlyData.read(data_dir / path)["vertex"]
    expected = as_table(model)
    for name in expected.dtype.names:
        np.testing.assert_array_equal(vertex[name], expected[name])

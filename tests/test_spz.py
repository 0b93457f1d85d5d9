"""SPZ: bytes made by hand from the layout, every version, both frames, bombs and damage."""

from __future__ import annotations

import gzip
import math
import re
import struct

import numpy as np
import pytest
import torch

from fieldpress.gaussians import spz
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.spz import read_spz, write_spz

K = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}
MAX = 13.815510


def smallest_three(wxyz: list[float]) -> int:
    """Rotation of versions 3 and 4, one quaternion, in plain Python."""
    norm = math.sqrt(sum(q * q for q in wxyz))
    xyzw = [q / norm for q in (*wxyz[1:], wxyz[0])]
    largest = max(range(4), key=lambda i: abs(xyzw[i]))
    sign = -1 if xyzw[largest] < 0 else 1
    packed = largest
    for i, q in enumerate(xyzw):
        if i != largest:
            magnitude = min(511, int(511 * abs(q) * math.sqrt(2) + 0.5))
            packed = packed << 10 | (sign * q < 0) << 9 | magnitude
    return packed


def streams(model: SplatModel, version: int, fraction_bits: int = 12) -> list[bytes]:
    """The six arrays of a model whose coordinates are in the file's frame already."""
    position = alpha = color = scale = rotation = rest = b""
    for i in range(len(model)):
        for v in model.means[i].tolist():
            fixed = round(v * 2**fraction_bits)
            half = struct.pack("<e", v)
            position += half if version == 1 else fixed.to_bytes(3, "little", signed=True)
        alpha += bytes([round(255 * model.opacities[i].sigmoid().item())])
        dc = model.sh0[i, 0].tolist()
        color += bytes(min(max(round(255 * (0.15 * v + 0.5)), 0), 255) for v in dc)
        logs = model.scales[i].tolist()
        scale += bytes(min(max(round((v + 10) * 16), 0), 255) for v in logs)
        w, x, y, z = torch.nn.functional.normalize(model.quats[i], dim=0).tolist()
        sign = -1 if w < 0 else 1
        xyz = bytes(round(127.5 * sign * v + 127.5) for v in (x, y, z))
        rotation += xyz if version < 3 else struct.pack("<I", smallest_three([w, x, y, z]))
        rest += bytes(
            min(max(round(128 * v) + 128, 0), 255) for v in model.shN[i].flatten().tolist()
        )
    return [position, alpha, color, scale, rotation, rest]


def encode(
    model: SplatModel, version: int, fraction_bits: int = 12, extension: bytes = b""
) -> bytes:
    flags = 2 if extension else 0
    head = struct.pack(
        "<4sIIBBB", b"NGSP", version, len(model), model.sh_degree, fraction_bits, flags
    )
    arrays = streams(model, version, fraction_bits)
    if version < 4:
        return gzip.compress(head + b"\0" + b"".join(arrays) + extension)
    zstandard = pytest.importorskip("zstandard", reason="SPZ 4 needs zstandard")
    arrays = [array for array in arrays if array]
    packed = [zstandard.ZstdCompressor().compress(array) for array in arrays]
    toc = b"".join(struct.pack("<QQ", len(p), len(a)) for p, a in zip(packed, arrays, strict=True))
    head += struct.pack("<BI12x", len(arrays), 32 + len(extension))
    return head + extension + toc + b"".join(packed)


def assert_close(got: SplatModel, model: SplatModel, version: int, sh_error: float) -> None:
    step = 2.0**-9 if version == 1 else 2.0**-13
    assert (got.means - model.means).abs().max() <= step * 1.01
    normalize = torch.nn.functional.normalize
    dot = (normalize(model.quats) * normalize(got.quats)).sum(1).abs()
    assert dot.min() > 1 - (4e-3 if version < 3 else 3e-6)  # A small w is the root of a rounding.
    assert (got.scales - model.scales).abs().max() <= 0.5 / 16 + 1e-5
    assert (got.opacities.sigmoid() - model.opacities.sigmoid()).abs().max() <= 0.5 / 255 + 1e-6
    assert (got.sh0 - model.sh0).abs().max() <= 0.5 / 255 / 0.15 + 1e-5
    assert got.shN.shape == model.shN.shape
    if model.shN.numel():
        assert (got.shN - model.shN.clamp(-1, 127 / 128)).abs().max() <= sh_error + 1e-6


def test_one_gaussian_by_hand():
    """Every byte from the layout: rotation 90 degrees about x, RUB, kept in its frame."""
    body = bytes.fromhex(
        "00 10 00"  # x = 1
        "00 e0 ff"  # y = -2
        "01 00 00"  # z = 1/4096
        "ff"  # opaque
        "80 00 ff"  # colour
        "a0 00 ff"  # log scales 0, -10, 5.9375
    )
    rotation = struct.pack("<I", 3 << 30 | 511 << 20)  # w largest; x = y = sqrt(1/2); z = 0
    sh = bytes([128, 0, 255, 129, 128, 127, 64, 192, 128])
    head = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 1, 12, 1, 0)
    model = read_spz(gzip.compress(head + body + rotation + sh), frame="rdf")
    assert model.means.tolist() == [[1, -2, 1 / 4096]]
    assert model.scales.tolist() == [[0, -10, 5.9375]]
    assert model.antialiased
    torch.testing.assert_close(model.opacities, torch.tensor([MAX]))
    half = math.sqrt(0.5)
    torch.testing.assert_close(model.quats, torch.tensor([[half, half, 0, 0]]), atol=1e-6, rtol=0)
    expected = torch.tensor([[[128 / 255 - 0.5, -0.5, 0.5]]]) / 0.15
    torch.testing.assert_close(model.sh0, expected)
    rest = [[0, -1, 127 / 128], [1 / 128, 0, -1 / 128], [-0.5, 0.5, 0]]
    assert model.shN.tolist() == [rest]


@pytest.mark.parametrize("version", [1, 2, 3, 4])
@pytest.mark.parametrize("sh_degree", [0, 1, 3, 4])
def test_every_version_reads(tiny_model, version, sh_degree):
    model = tiny_model(25, sh_degree)
    got = read_spz(encode(model, version), frame="rdf")
    assert_close(got, model, version, 0.5 / 128)
    assert got.extra == {"source_format": f"spz v{version}", "source_frame": "rdf"}


def sh_basis(d: torch.Tensor) -> torch.Tensor:
    """[N, 24] real SH of degrees 1 to 4 up to positive factors, m from -l to l."""
    x, y, z = d.T
    xx, yy, zz = x * x, y * y, z * z
    return torch.stack(
        [
            *(-y, z, -x),
            *(x * y, -y * z, 2 * zz - xx - yy, -x * z, xx - yy),
            *(-y * (3 * xx - yy), x * y * z, -y * (4 * zz - xx - yy)),
            *(z * (2 * zz - 3 * xx - 3 * yy), -x * (4 * zz - xx - yy), z * (xx - yy)),
            -x * (xx - 3 * yy),
            *(x * y * (xx - yy), -y * z * (3 * xx - yy), x * y * (7 * zz - 1)),
            *(-y * z * (7 * zz - 3), zz * (35 * zz - 30) + 3, -x * z * (7 * zz - 3)),
            *((xx - yy) * (7 * zz - 1), -x * z * (xx - 3 * yy)),
            xx * (xx - 3 * yy) - yy * (3 * xx - yy),
        ],
        dim=1,
    )


def covariances(model: SplatModel) -> torch.Tensor:
    _, quats, scales, _, _ = model.activated()
    w, x, y, z = quats.T
    rows = [
        *(1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)),
        *(2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)),
        *(2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)),
    ]
    axes = torch.stack(rows, 1).view(-1, 3, 3) * scales[:, None]
    return axes @ axes.transpose(1, 2)


@pytest.mark.parametrize("value", range(1, 9))
def test_frames_turn_the_whole_gaussian(tiny_model, value):
    """Centre, covariance and colour seen from a direction, all in the other axes."""
    names = ["ldb", "rdb", "lub", "rub", "ldf", "rdf", "luf", "ruf"]
    mirror = torch.tensor(
        [1.0 if a == b else -1.0 for a, b in zip(names[value - 1], "rdf", strict=True)]
    )
    model = tiny_model(40, 4)
    extension = struct.pack("<III", 0x12345678, 4, 9) + struct.pack("<III", 0xADBE0003, 4, value)
    for version in (3, 4):
        plain = read_spz(encode(model, version, extension=extension), frame="rdf")
        turned = read_spz(encode(model, version, extension=extension))
        assert turned.extra["source_frame"] == names[value - 1]
        assert torch.equal(turned.means, plain.means * mirror)
        expected = mirror[:, None] * covariances(plain) * mirror
        torch.testing.assert_close(covariances(turned), expected)
        d = torch.nn.functional.normalize(model.means + 1e-3)
        colors = (sh_basis(d)[:, :, None] * plain.shN).sum(1)
        torch.testing.assert_close((sh_basis(d * mirror)[:, :, None] * turned.shN).sum(1), colors)


def test_documented_frame_is_the_default(tiny_model):
    data = encode(tiny_model(5), 3)
    rub, rdf = read_spz(data), read_spz(data, frame="rdf")
    assert rub.extra["source_frame"] == "rub"
    assert torch.equal(rub.means, rdf.means * torch.tensor([1, -1, -1]))
    with pytest.raises(ValueError, match=r"frame: expected one of ldb, .*, got 'up'"):
        read_spz(data, frame="up")


@pytest.mark.parametrize("frame", ["rub", "rdf"])
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3, 4])
def test_written_file_reads_back(tiny_model, frame, sh_degree):
    model = tiny_model(60, sh_degree)
    model = SplatModel(**model.tensors(), antialiased=True)
    data = write_spz(model, frame=frame)
    assert data == write_spz(model, frame=frame)
    got = read_spz(data, frame=frame)
    assert_close(got, model, 3, 8.5 / 128)  # Steps of 16, and the top one is out of reach.
    assert got.antialiased
    again = read_spz(write_spz(got, frame=frame), frame=frame)
    for name in ("means", "scales", "sh0", "shN"):
        assert torch.equal(again.tensors()[name], got.tensors()[name])


@pytest.mark.parametrize("bits", range(1, 9))
def test_colours_come_back_within_half_a_bucket(tiny_model, bits):
    """In our axes, though SPZ stores them in its own; nothing else depends on the bits."""
    model = tiny_model(300)
    model.shN.clamp_(-0.9, 0.9)
    data = write_spz(model, sh_bits=bits)
    found, usual = read_spz(data), read_spz(write_spz(model))
    for name in ("means", "quats", "scales", "opacities", "sh0"):
        assert torch.equal(getattr(found, name), getattr(usual, name))
    error = (found.shN - model.shN).abs()
    first, rest = 2.0 ** (1 - bits), 2.0 ** (1 - max(bits - 1, 1))
    byte = 1 / 256  # Rounding to bytes comes first.
    assert error[:, :3].max() <= first / 2 + byte
    assert error[:, 3:].max() <= rest / 2 + byte or bits <= 2  # Then the top bucket is cut off.
    if bits == 8:
        assert error[:, :3].max() > 0
    assert write_spz(model, sh_bits=bits) == data


def test_fewer_bits_are_fewer_bytes(tiny_model):
    model = tiny_model(500)
    sizes = [len(write_spz(model, sh_bits=bits)) for bits in (8, 6, 4, 2)]
    assert sizes == sorted(sizes, reverse=True)
    for bits in (0, 9):
        with pytest.raises(ValueError, match=r"sh_bits 1\.\.8"):
            write_spz(model, sh_bits=bits)


def test_writer_agrees_with_the_layout(tiny_model):
    """Our bytes are those of the plain encoder, SH lattice aside."""
    model = tiny_model(40, 0)
    model = SplatModel(**(model.tensors() | {"means": model.means * 8}))
    axes = struct.pack("<III", 0xADBE0003, 4, 6)  # Not the documented ones: the file says so.
    expected = gzip.decompress(encode(model, 3, extension=axes))
    assert gzip.decompress(write_spz(model, frame="rdf")) == expected


def test_sh_lattice():
    values = torch.tensor([0.0, 3 / 128, 5 / 128, -1.0, 2.0, 0.3]).view(1, 6, 1).expand(1, 6, 3)
    rest = torch.cat([values[:, :3], values[:, [3, 4, 5]], torch.zeros(1, 2, 3)], dim=1)
    got = spz._quantize_rest(rest.numpy())[0, :, 0].tolist()
    assert got == [128, 128, 136, 0, 255, 160, 128, 128]


@pytest.mark.parametrize(
    ("largest", "bits"),
    [(100.0, 12), (2047.9, 12), (2050.0, 11), (1e6, 3), (8e6, 0), (0.01, 22), (1e-9, 30), (0, 12)],
)
def test_fraction_bits_follow_the_box(tiny_model, largest, bits):
    model = tiny_model(20, 0)
    means = torch.nn.functional.normalize(model.means, p=torch.inf) * largest
    data = write_spz(SplatModel(**(model.tensors() | {"means": means})))
    assert gzip.decompress(data)[13] == bits
    error = (read_spz(data).means - means).abs().max()
    assert error <= 0.5 * 2.0**-bits + largest * 1e-7


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("means", math.nan, "means: expected finite"),
        ("scales", -math.inf, "scales: expected finite"),
    ],
)
def test_what_the_format_cannot_hold(tiny_model, name, value, message):
    model = tiny_model(3, 0)
    model.tensors()[name][1, 0] = value
    with pytest.raises(ValueError, match=message):
        write_spz(model)
    with pytest.raises(ValueError, match="SPZ count: expected 1 to"):
        write_spz(tiny_model(0))


def test_infinite_logits_and_zero_rotations_write(tiny_model):
    model = tiny_model(3, 0)
    model.opacities[:] = torch.tensor([math.inf, -math.inf, 0])
    model.quats[0] = 0
    got = read_spz(write_spz(model))
    torch.testing.assert_close(got.opacities[:2], torch.tensor([MAX, -MAX]))
    assert got.quats[0].tolist() == [1, 0, 0, 0]


def test_gzip_bomb_is_never_inflated(monkeypatch):
    zeros = gzip.compress(bytes(40 << 20))
    monkeypatch.setattr(spz, "RAW_FLOOR", 1 << 20)
    n = (40 << 20) // 20
    bomb = gzip.compress(struct.pack("<4sIIBBBB", b"NGSP", 3, n, 0, 12, 0, 0) + bytes(20 * n))
    with pytest.raises(ValueError, match="claims 2097152 Gaussians"):
        read_spz(bomb)
    with pytest.raises(ValueError, match="gzip, but not SPZ"):
        read_spz(zeros)
    few = struct.pack("<4sIIBBBB", b"NGSP", 3, 1, 0, 12, 0, 0) + bytes(20)
    with pytest.raises(ValueError, match="does not end where it should"):
        read_spz(gzip.compress(few + bytes(40 << 20)))


def test_zstd_bomb_is_never_inflated(tiny_model):
    zstandard = pytest.importorskip("zstandard", reason="SPZ 4 needs zstandard")
    data = bytearray(encode(tiny_model(5, 0), 4))
    packed = struct.unpack_from("<10Q", data, 32)[::2]
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    struct.pack_into("<Q", data, 32, len(bomb))
    data[112 : 112 + packed[0]] = bomb
    with pytest.raises(ValueError, match="expected 45 bytes, got 46"):
        read_spz(bytes(data))


@pytest.mark.parametrize(
    ("offset", "form", "value", "message"),
    [
        (4, "I", 5, "SPZ version: expected 1 to 3 in gzip, got 5"),
        (4, "I", 4, "SPZ version: expected 1 to 3 in gzip, got 4"),
        (8, "I", 26, "truncated SPZ: expected"),
        (8, "I", 2**32 - 1, "SPZ count: expected at most 2147483647"),
        (8, "I", 2**31 - 1, "SPZ claims 2147483647 Gaussians"),
        (12, "B", 5, "SPZ SH degree: expected 0 to 4, got 5"),
        (13, "B", 200, "SPZ fractional bits: expected at most 30, got 200"),
    ],
)
def test_lying_headers(tiny_model, offset, form, value, message):
    body = bytearray(gzip.decompress(encode(tiny_model(25), 3)))
    struct.pack_into("<" + form, body, offset, value)
    with pytest.raises(ValueError, match="^lie.spz: " + re.escape(message)):
        read_spz(gzip.compress(body), name="lie.spz")


def test_foreign_axes_are_not_guessed(tiny_model):
    extension = struct.pack("<III", 0xADBE0003, 4, 12)
    with pytest.raises(ValueError, match="coordinate system 12 is not supported"):
        read_spz(encode(tiny_model(2), 3, extension=extension))
    assert len(read_spz(encode(tiny_model(2), 3, extension=extension), frame="rub")) == 2


def damaged(data: bytes, seed: int, times: int):
    rng = np.random.default_rng(seed)
    for _ in range(times):
        copy = bytearray(data)
        for where in rng.integers(len(data), size=rng.integers(1, 4)):
            copy[where] ^= int(rng.integers(1, 256))
        yield bytes(copy)


@pytest.mark.parametrize("version", [2, 3, 4])
def test_cuts_and_flips(tiny_model, version):
    data = encode(tiny_model(30, 1), version)
    for cut in [*range(0, len(data), 17), len(data) - 1]:
        with pytest.raises(ValueError, match=r"^bad\.spz: [^\n]*$"):
            read_spz(data[:cut], name="bad.spz")
    inside = gzip.decompress(data) if version < 4 else b""
    packed = (gzip.compress(b, 1) for b in damaged(inside, 1, 150)) if inside else ()
    for bad in [*damaged(data, 0, 150), *packed]:
        try:
            read_spz(bad, name="bad.spz")
        except ValueError as error:
            message = str(error)
        else:
            message = "bad.spz: none"
        assert re.fullmatch(r"bad\.spz: [^\n]*", message)


def test_real_scene(data_dir):
    folder = data_dir / "gaussians/leica-sofort"
    model = read_spz(folder / "leica-sofort-scaniverse-top8192.spz")
    assert (len(model), model.sh_degree) == (8192, 3)
    assert model.extra == {"source_format": "spz v2", "source_frame": "rub"}
    assert model.means.abs().max() < 0.5
    assert all(value.isfinite().all() for value in model.tensors().values())
    torch.testing.assert_close(model.quats.norm(dim=1), torch.ones(8192), atol=0.01, rtol=0)

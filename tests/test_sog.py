"""SOG made here with Pillow from the layout: both versions, zip, folder, levels, and damage."""

from __future__ import annotations

import io
import json
import math
import re
import zipfile

import numpy as np
import pytest
import torch

from fieldpress.gaussians import sog
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.ply import read_ply
from fieldpress.gaussians.sog import read_sog

Image = pytest.importorskip("PIL.Image", reason="SOG needs Pillow")

COLUMNS = {1: 192, 2: 512, 3: 960}


def webp(texels: np.ndarray, width: int | None = None) -> bytes:
    """[N, 4] uint8 as a lossless image, RGB kept where alpha is 0, padded with zeros."""
    width = width or 4 * math.ceil(math.sqrt(len(texels)) / 4)
    height = max(1, math.ceil(len(texels) / width))
    image = np.zeros((height * width, 4), np.uint8)
    image[: len(texels)] = texels
    buffer = io.BytesIO()
    picture = Image.fromarray(image.reshape(height, width, 4), "RGBA")
    picture.save(buffer, "WEBP", lossless=True, exact=True)
    return buffer.getvalue()


def rgba(rgb: np.ndarray, alpha: np.ndarray | int = 255) -> np.ndarray:
    out = np.full((len(rgb), 4), 255, np.uint8)
    out[:, :3] = rgb
    out[:, 3] = alpha
    return out


def nearest(codebook: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.abs(values[..., None] - codebook).argmin(-1).astype(np.uint8)


def encode_means(means: np.ndarray) -> tuple[dict, dict[str, bytes]]:
    t = np.sign(means) * np.log1p(np.abs(means))
    mins, maxs = t.min(0), t.max(0)
    fixed = (65535 * (t - mins) / np.where(maxs > mins, maxs - mins, 1)).astype(np.int64)
    files = {"means_l.webp": webp(rgba(fixed & 255)), "means_u.webp": webp(rgba(fixed >> 8))}
    return {"mins": mins.tolist(), "maxs": maxs.tolist(), "files": list(files)}, files


def encode_quats(quats: np.ndarray) -> tuple[dict, dict[str, bytes]]:
    texels = np.empty((len(quats), 4), np.uint8)
    for row, quat in enumerate(quats / np.linalg.norm(quats, axis=1, keepdims=True)):
        largest = int(np.abs(quat).argmax())
        rest = np.delete(quat * np.sign(quat[largest]), largest)
        texels[row] = [*(255 * (rest * math.sqrt(2) / 2 + 0.5)), 252 + largest]
    return {"files": ["quats.webp"]}, {"quats.webp": webp(texels)}


def encode_rest(rest: np.ndarray, codebook: np.ndarray | None) -> tuple[dict, dict[str, bytes]]:
    """A palette with one entry a Gaussian; labels count backwards to show that they are used."""
    n, k, _ = rest.shape
    if codebook is None:
        low, high = float(rest.min()), float(rest.max())
        codes = np.rint(255 * (rest - low) / (high - low)).astype(np.uint8)
        section = {"mins": low, "maxs": high}
    else:
        codes = nearest(codebook, rest)
        section = {"codebook": codebook.tolist(), "count": n, "bands": {3: 1, 8: 2, 15: 3}[k]}
    labels = np.arange(n)[::-1]
    texels = np.zeros((n, 3), np.int64)
    texels[:, 0], texels[:, 1] = labels & 255, labels >> 8
    files = {
        "shN_centroids.webp": webp(rgba(codes[::-1].reshape(-1, 3)), 64 * k),
        "shN_labels.webp": webp(rgba(texels)),
    }
    return section | {"files": list(files)}, files


def encode(model: SplatModel, version: int = 2) -> tuple[dict, dict[str, bytes]]:
    """meta.json and images of a model, in the simplest way that the layout allows."""
    values = {key: tensor.numpy().astype(np.float64) for key, tensor in model.tensors().items()}
    alpha = 1 / (1 + np.exp(-values["opacities"]))
    dc, scales = values["sh0"][:, 0], values["scales"]
    meta: dict = {"version": 2, "count": len(model)} if version == 2 else {}
    meta["means"], files = encode_means(values["means"])
    meta["quats"], more = encode_quats(values["quats"])
    files |= more
    if version == 2:
        books = {key: np.linspace(v.min(), v.max(), 256) for key, v in values.items() if v.size}
        meta["scales"] = {"codebook": books["scales"].tolist(), "files": ["scales.webp"]}
        meta["sh0"] = {"codebook": books["sh0"].tolist(), "files": ["sh0.webp"]}
        files["scales.webp"] = webp(rgba(nearest(books["scales"], scales)))
        codes = nearest(books["sh0"], dc)
        files["sh0.webp"] = webp(rgba(codes, (255 * alpha).astype(np.uint8)))
    else:
        meta["means"]["shape"] = [len(model), 3]
        for key, table in (("scales", scales), ("sh0", np.c_[dc, values["opacities"]])):
            low, high = table.min(0), table.max(0)
            codes = np.rint(255 * (table - low) / (high - low)).astype(np.uint8)
            meta[key] = {"mins": low.tolist(), "maxs": high.tolist(), "files": [f"{key}.webp"]}
            files[f"{key}.webp"] = webp(codes if key == "sh0" else rgba(codes))
    if model.sh_degree:
        book = np.linspace(-0.5, 0.5, 256) if version == 2 else None
        meta["shN"], more = encode_rest(values["shN"], book)
        files |= more
    return meta, files


def bundle(
    meta: dict, files: dict[str, bytes], method: int = zipfile.ZIP_STORED, at: str = ""
) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(at + name, data)
        archive.writestr(at + "meta.json", json.dumps(meta))
    return buffer.getvalue()


def unbundle(folder, meta: dict, files: dict[str, bytes]) -> None:
    folder.mkdir()
    (folder / "meta.json").write_text(json.dumps(meta))
    for name, data in files.items():
        (folder / name).write_bytes(data)


def assert_close(got: SplatModel, model: SplatModel, version: int = 2) -> None:
    """Within a step of each lattice (a whole one where the layout says truncate)."""
    contracted = [v.sign() * v.abs().log1p() for v in (got.means, model.means)]
    span = contracted[1].amax(0) - contracted[1].amin(0)
    assert ((contracted[0] - contracted[1]).abs() <= span / 65535 + 1e-6).all()
    dot = (torch.nn.functional.normalize(model.quats) * got.quats).sum(1).abs()
    assert dot.min() > 1 - 2e-4
    error = (got.opacities.sigmoid() - model.opacities.sigmoid()).abs().max()
    assert error <= (1 / 255 if version == 2 else 0.25 * 0.5 * 8 / 255) + 1e-6
    for name in ("scales", "sh0", "shN"):
        a, b = got.tensors()[name], model.tensors()[name]
        assert a.shape == b.shape
        if b.numel():
            b = b.clamp(-0.5, 0.5) if name == "shN" and version == 2 else b
            assert (a - b).abs().max() <= 0.5 * (b.amax() - b.amin()).clamp_min(1) / 255 + 1e-5


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
def test_decodes_to_within_a_step(tiny_model, version, sh_degree):
    model = tiny_model(150, sh_degree)
    got = read_sog(bundle(*encode(model, version)))
    assert got.sh_degree == sh_degree
    assert got.extra["source_format"] == f"sog v{version}"
    assert_close(got, model, version)


def test_zip_folder_and_meta_are_the_same(tiny_model, tmp_path):
    parts = encode(tiny_model(70, 2))
    stored = read_sog(bundle(*parts))
    path = tmp_path / "scene.sog"
    path.write_bytes(bundle(*parts, zipfile.ZIP_DEFLATED, at="inner/"))
    unbundle(tmp_path / "loose", *parts)
    for source in (path, tmp_path / "loose", tmp_path / "loose" / "meta.json"):
        got = read_sog(source)
        for name, value in stored.tensors().items():
            assert torch.equal(got.tensors()[name], value)


@pytest.mark.parametrize("n", [1, 4, 255])
def test_few_gaussians(tiny_model, n):
    assert_close(read_sog(bundle(*encode(tiny_model(n, 0)))), tiny_model(n, 0))


def test_extreme_opacities_and_untagged_rotations(tiny_model):
    meta, files = encode(tiny_model(16, 0))
    texels = np.full((16, 4), 128, np.uint8)
    texels[:, 3] = np.where(np.arange(16) % 2, 255, 0)
    files["sh0.webp"], files["quats.webp"] = webp(texels), webp(texels)
    got = read_sog(bundle(meta, files))
    expected = torch.tensor([-13.815510, 13.815510]).repeat(8)
    torch.testing.assert_close(got.opacities, expected)
    assert got.quats[0].tolist() == [1, 0, 0, 0]
    assert got.quats[1, 3] > 0.99
    assert torch.equal(got.sh0, torch.full((16, 1, 3), meta["sh0"]["codebook"][128]))


@pytest.mark.parametrize("change", [{"model": "antialiased"}, {"antialias": True}])
def test_antialiased(tiny_model, change):
    meta, files = encode(tiny_model(4, 0))
    assert not read_sog(bundle(meta, files)).antialiased
    assert read_sog(bundle(meta | change, files)).antialiased


def write_levels(folder, tiny_model, present: list[int]) -> None:
    """Two leaves of two levels: files 0 and 1 are level 0, file 2 is level 1."""
    folder.mkdir()
    names = ["0_0/meta.json", "0_1/meta.json", "1_0/meta.json"]
    leaf = [{"lods": {"0": {"file": i, "offset": 0, "count": 9}, "1": {"file": 2}}} for i in (1, 0)]
    meta = {"lodLevels": 2, "filenames": names, "tree": {"children": leaf}}
    (folder / "lod-meta.json").write_text(json.dumps(meta))
    for i in present:
        unbundle(folder / names[i].split("/")[0], *encode(tiny_model(9 + i, i, seed=i)))


@pytest.mark.parametrize(
    ("present", "count", "sh_degree", "extra"),
    [
        ([0, 1, 2], 19, 1, {"lod": 0, "lod_files": "0_0/meta.json 0_1/meta.json"}),
        ([1, 2], 10, 1, {"lod": 0, "lod_files": "0_1/meta.json", "lod_files_missing": 1}),
        ([2], 11, 2, {"lod": 1, "lod_files": "1_0/meta.json"}),
    ],
)
def test_finest_level_that_is_there(tiny_model, tmp_path, present, count, sh_degree, extra):
    write_levels(tmp_path / "lod", tiny_model, present)
    for source in (tmp_path / "lod", tmp_path / "lod/lod-meta.json"):
        model = read_sog(source)
        assert (len(model), model.sh_degree) == (count, sh_degree)
        assert model.extra == {"source_format": "sog v2", **extra}
    if present[0] == 0:  # Joined in file order; the lower degree is padded with zeros.
        assert not model.shN[:9].any()
        assert_close(model[:9], SplatModel(**(tiny_model(9, 0).tensors() | {"shN": model.shN[:9]})))


def test_no_level_at_all(tiny_model, tmp_path):
    write_levels(tmp_path / "lod", tiny_model, [])
    with pytest.raises(ValueError, match="none of its 3 files exists"):
        read_sog(tmp_path / "lod")
    with pytest.raises(ValueError, match=r"expected a folder with meta\.json"):
        read_sog(tmp_path)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (["version"], 3, "SOG version: expected 1 or 2, got 3"),
        (["count"], 0, "SOG count: expected a positive integer, got 0"),
        (["count"], "9", "SOG count: expected a positive integer, got '9'"),
        (["count"], 10**9, "SOG sh0 image: expected at least 1000000000 texels, got"),
        (["means", "mins"], [0, 0], "SOG means.mins: expected 3 finite numbers"),
        (["means", "maxs"], [0, 0, math.inf], "SOG means.maxs: expected 3 finite numbers"),
        (["sh0"], [], "SOG meta.json: expected an object 'sh0'"),
        (["scales", "codebook"], [1.0], "SOG scales.codebook: expected 256 finite numbers"),
        (["quats", "files"], [], "SOG quats.files: expected the name of image 0"),
        (["quats", "files"], ["no.webp"], "no entry 'no.webp'"),
        (["shN", "count"], 30, "SOG shN label 69 beyond the palette of 30"),
        (["shN", "count"], 10**6, "SOG shN.count: expected 1 to 128"),
        (["shN", "bands"], 3, "SOG shN: expected 1 to 3 bands and centroids 192, 512 or 960"),
        (["shN", "bands"], [1], "SOG shN: expected 1 to 3 bands"),
    ],
)
def test_lying_meta(tiny_model, path, value, message):
    meta, files = encode(tiny_model(70, 1))
    target = meta
    for key in path[:-1]:
        target = target[key]
    target[path[-1]] = value
    with pytest.raises(ValueError, match=r"^lie\.sog: .*" + re.escape(message)):
        read_sog(bundle(meta, files), name="lie.sog")


@pytest.mark.parametrize("data", [b"[" * 100_000, b"{", b"[]", b"\xff\xfe", b"NaN"])
def test_meta_that_is_no_object(data):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("meta.json", data)
    with pytest.raises(ValueError, match=r"^x\.sog: SOG meta\.json"):
        read_sog(buffer.getvalue(), name="x.sog")


def test_names_stay_inside_the_folder(tiny_model, tmp_path):
    meta, files = encode(tiny_model(9, 0))
    (tmp_path / "secret.webp").write_bytes(files["quats.webp"])
    for name in ("../secret.webp", str(tmp_path / "secret.webp"), "a/../../secret.webp"):
        meta["quats"]["files"] = [name]
        folder = tmp_path / f"s{len(name)}"
        unbundle(folder, meta, files)
        with pytest.raises(ValueError, match="names a file outside its folder"):
            read_sog(folder)


def test_bombs_are_refused_before_they_grow(tiny_model, monkeypatch):
    meta, files = encode(tiny_model(9, 0))
    huge = webp(np.zeros((2048 * 2048, 4), np.uint8))
    assert len(huge) < 2048 * 2048 / sog.TEXELS_PER_BYTE
    with pytest.raises(ValueError, match=r"b\.sog: SOG image 'sh0.webp' not readable: 4194304 tex"):
        read_sog(bundle(meta, files | {"sh0.webp": huge}), name="b.sog")
    monkeypatch.setattr(sog, "ENTRY_FLOOR", 1 << 20)
    packed = bundle(meta, files | {"sh0.webp": bytes(8 << 20)}, zipfile.ZIP_DEFLATED)
    with pytest.raises(ValueError, match=r"SOG entry sh0\.webp: expected at most 1\d+ bytes"):
        read_sog(packed)


def test_cuts_and_flips(tiny_model):
    data = bundle(*encode(tiny_model(40, 1)))
    rng = np.random.default_rng(0)
    copies = [data[:cut] for cut in range(0, len(data), 211)]
    for _ in range(300):
        damaged = bytearray(data)
        for where in rng.integers(len(data), size=rng.integers(1, 5)):
            damaged[where] ^= int(rng.integers(1, 256))
        copies.append(bytes(damaged))
    for copy in copies:
        try:
            read_sog(copy, name="bad.sog")
        except ValueError as error:
            message = str(error)
        else:
            message = "bad.sog: none"
        assert re.fullmatch(r"bad\.sog: [^\n]*", message)


def test_damaged_meta_in_a_folder(tiny_model, tmp_path):
    """No checksum guards a loose meta.json or image: every byte may lie."""
    meta, files = encode(tiny_model(20, 1))
    unbundle(tmp_path / "s", meta, files)
    rng = np.random.default_rng(1)
    for name in ("meta.json", "sh0.webp", "shN_centroids.webp", "shN_labels.webp"):
        good = (tmp_path / "s" / name).read_bytes()
        for _ in range(60):
            damaged = bytearray(good)
            damaged[rng.integers(min(len(good), 400))] ^= int(rng.integers(1, 256))
            (tmp_path / "s" / name).write_bytes(damaged)
            try:
                read_sog(tmp_path / "s", name="s")
            except ValueError as error:
                message = str(error)
            else:
                message = "s: none"
            assert re.fullmatch(r"s: [^\n]*", message)
        (tmp_path / "s" / name).write_bytes(good)


@pytest.mark.parametrize(
    ("path", "count", "sh_degree", "version"),
    [
        ("skull/skull.sog", 94936, 3, 2),
        ("leica-sofort/leica-sofort-top8192.sog", 8192, 3, 2),
        ("angel/angel.sog", 71377, 0, 2),
        ("statues/st-peter.sog", 133618, 0, 2),
        ("playbot", 500000, 2, 2),
        ("playbot/0_0", 500000, 2, 2),
        ("playbot/3_0/meta.json", 31000, 2, 2),
        ("playbot/5_0", 3000, 2, 2),
        ("logo-sog-v1", 307128, 0, 1),
    ],
)
def test_real_scenes(data_dir, path, count, sh_degree, version):
    model = read_sog(data_dir / "gaussians" / path)
    assert (len(model), model.sh_degree) == (count, sh_degree)
    assert model.extra["source_format"] == f"sog v{version}"
    assert all(value.isfinite().all() for value in model.tensors().values())
    torch.testing.assert_close(model.quats.norm(dim=1), torch.ones(count), atol=1e-5, rtol=0)


def test_leica_agrees_with_its_ply(data_dir):
    """The same 8,192 Gaussians in another order: each has its counterpart within the lattice."""
    folder = data_dir / "gaussians/leica-sofort"
    ply = read_ply(folder / "leica-sofort-top8192.ply")
    packed = read_sog(folder / "leica-sofort-top8192.sog")
    distance, match = torch.cdist(
        ply.means, packed.means, compute_mode="donot_use_mm_for_euclid_dist"
    ).min(1)
    assert distance.max() < 2e-3
    assert len(match.unique()) == len(ply)
    packed = packed[match]
    dot = (torch.nn.functional.normalize(ply.quats) * packed.quats).sum(1).abs()
    assert dot.min() > 0.9998
    assert (ply.opacities.sigmoid() - packed.opacities.sigmoid()).abs().max() < 1.01 / 255
    for name, typical in (("scales", 0.03), ("sh0", 0.02), ("shN", 0.005)):
        error = (ply.tensors()[name] - packed.tensors()[name]).abs()
        assert error.mean() < typical


def test_angel_agrees_with_its_compressed_ply(data_dir):
    """One scene in two formats; the SOG was saved half a turn about z from the PLY."""
    folder = data_dir / "gaussians/angel"
    packed, ply = read_sog(folder / "angel.sog"), read_ply(folder / "angel.compressed.ply")
    assert len(packed) == len(ply)
    levels = torch.linspace(0.01, 0.99, 21)
    turned = packed.means * torch.tensor([-1, -1, 1])
    for a, b, limit in (
        *((turned[:, i], ply.means[:, i], 1e-3) for i in range(3)),
        *((packed.sh0[:, 0, i], ply.sh0[:, 0, i], 0.03) for i in range(3)),
        (packed.scales.flatten(), ply.scales.flatten(), 0.03),
        (packed.opacities.sigmoid(), ply.opacities.sigmoid(), 1.01 / 255),
    ):
        assert (torch.quantile(a, levels) - torch.quantile(b, levels)).abs().max() < limit

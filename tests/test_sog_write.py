"""Our SOG read back: half a step, the nearest level, the nearest palette entry; then for good."""

from __future__ import annotations

import io
import json
import sys
import zipfile
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress import models
from fieldpress.gaussians import sog
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.pack import morton_order
from fieldpress.gaussians.ply import read_ply
from fieldpress.gaussians.sog import read_sog
from fieldpress.gaussians.sog_write import (
    FILES,
    _fixed_means,
    bundle,
    palette_size,
    write_sog,
)

Image = pytest.importorskip("PIL.Image", reason="SOG needs Pillow")

STEP = 2**0.5 / 255  # Of a rotation's component.


def contracted(means: torch.Tensor) -> torch.Tensor:
    return means.double().sign() * means.double().abs().log1p()


def in_file_order(model: SplatModel, got: SplatModel) -> SplatModel:
    """The model's Gaussians as they stand in the file: the nearest in place, each exactly once."""
    low, high = contracted(model.means).aminmax(dim=0)
    apart = [(contracted(m.means) - low) / (high - low).clamp_min(1e-300) for m in (got, model)]
    order = (apart[0][:, None] - apart[1]).abs().amax(2).argmin(1)
    assert len(order.unique()) == len(model)
    return model[order]


def assert_nearest(got: torch.Tensor, wanted: torch.Tensor, levels: list[float]) -> None:
    table = torch.tensor(levels, dtype=torch.float32).double()
    assert bool(torch.isin(got.double(), table).all())
    best = (wanted.double().flatten()[:, None] - table).abs().amin(1)
    torch.testing.assert_close((got.double() - wanted).abs().flatten(), best, rtol=0, atol=1e-12)


def assert_as_good_as_can_be(files: dict[str, bytes], model: SplatModel, palette: int) -> None:
    meta = json.loads(files["meta.json"])
    got = read_sog(bundle(files))
    model = in_file_order(model, got)
    flat = contracted(model.means)
    span = flat.amax(0) - flat.amin(0)
    rounding = 1e-7 * (1 + flat.abs())  # Of float32 means.
    assert ((contracted(got.means) - flat).abs() <= 0.5 * span / 65535 + rounding).all()
    alpha = model.opacities.double().sigmoid()
    assert ((got.opacities.double().sigmoid() - alpha).abs() <= 0.5 / 255 + 1e-6).all()
    assert_nearest(got.scales, model.scales, meta["scales"]["codebook"])
    assert_nearest(got.sh0, model.sh0, meta["sh0"]["codebook"])
    unit = torch.nn.functional.normalize(model.quats.double())
    sign = torch.where((unit * got.quats).sum(1, keepdim=True) < 0, -1, 1)
    assert ((got.quats * sign - unit).square().sum(1) <= 3 * STEP**2).all()
    assert got.shN.shape == model.shN.shape
    if not model.sh_degree:
        assert "shN" not in meta
        return
    assert meta["shN"]["count"] <= palette
    assert meta["shN"]["bands"] == model.sh_degree
    entries = got.shN.flatten(1).unique(dim=0).double()
    assert len(entries) <= meta["shN"]["count"]
    wanted, found = model.shN.flatten(1).double(), got.shN.flatten(1).double()
    best = torch.stack([(entries - row).square().sum(1).min() for row in wanted])
    assert ((wanted - found).square().sum(1) <= best + 1e-5).all()


@pytest.mark.parametrize("sh_degree", [0, 1, 2, 3])
@pytest.mark.parametrize(("n", "palette"), [(1, None), (4, None), (257, None), (300, 100)])
def test_nothing_nearer_is_there(tiny_model, n, palette, sh_degree):
    model = tiny_model(n, sh_degree)
    files = write_sog(model, palette=palette)
    assert [*files] == [name for name in FILES if sh_degree or not name.startswith("shN")]
    got = read_sog(bundle(files))
    assert (len(got), got.sh_degree, got.antialiased) == (n, sh_degree, False)
    assert_as_good_as_can_be(files, model, palette or n)


@settings(max_examples=15, deadline=None)
@given(
    st.integers(1, 120),
    st.integers(0, 2),
    st.floats(-6, 12),
    st.floats(-30, 30),
    st.sampled_from([None, 1, 40]),
    st.integers(0, 999),
)
def test_any_size_and_place_and_then_for_good(
    tiny_model, n, degree, log_size, place, palette, seed
):
    model = tiny_model(n, degree, seed)
    model = replace(model, means=float(np.exp(log_size)) * (model.means + place))
    files = write_sog(model, palette=palette)
    assert_as_good_as_can_be(files, model, palette or n)
    got = read_sog(bundle(files))
    again = read_sog(bundle(write_sog(got, palette=palette)))
    for name, value in got.tensors().items():
        torch.testing.assert_close(again.tensors()[name], value, rtol=1e-6, atol=1e-9, msg=name)


def test_more_gaussians_than_entries(tiny_model):
    """Labels beyond what their low byte can count."""
    model = tiny_model(1500, 1)
    files = write_sog(model)
    assert json.loads(files["meta.json"])["shN"]["count"] == 1024
    assert_as_good_as_can_be(files, model, 1024)


@pytest.mark.parametrize(
    ("count", "entries"),
    [
        (1, 1),
        (1000, 1000),
        (1024, 1024),
        (2047, 1024),
        (49_936, 32_768),
        (131_071, 65_536),
        (10**8, 65_536),
    ],
)
def test_size_of_the_palette(count, entries):
    assert palette_size(count) == entries


def test_same_bytes_every_time(tiny_model):
    model = tiny_model(300, 1)
    first, again = (bundle(write_sog(model, palette=20, seed=3)) for _ in range(2))
    assert first == again
    assert first != bundle(write_sog(model, palette=20, seed=4))
    shuffled = model[torch.randperm(300, generator=torch.Generator().manual_seed(1))]
    assert bundle(write_sog(shuffled)) == bundle(write_sog(model))
    with zipfile.ZipFile(io.BytesIO(first)) as archive:
        infos = archive.infolist()
    assert [info.filename for info in infos] == [*FILES]
    assert {info.compress_type for info in infos} == {zipfile.ZIP_STORED}
    assert {info.date_time for info in infos} == {(1980, 1, 1, 0, 0, 0)}


def test_ends_of_the_lattices(tiny_model):
    model = tiny_model(6, 0)
    model.opacities[:4] = torch.tensor([-torch.inf, torch.inf, -1e30, 1000.0])
    model.scales[0] = torch.tensor([-1e9, 1e9, -30.0])
    model.quats[0], model.quats[1] = 0, torch.tensor([0.0, 0, 0, -1e30])
    model.means[2], model.means[3] = 1e30, -1e-30
    files = write_sog(model)
    got = read_sog(bundle(files))
    got = got[torch.argsort(got.opacities, stable=True)]
    ends = torch.tensor([-13.815510, -13.815510, 13.815510, 13.815510])
    torch.testing.assert_close(got.opacities[[0, 1, 4, 5]], ends)
    assert got.scales.amin() == -1e9
    assert got.scales.amax() == 1e9
    assert got.means.isfinite().all()
    assert float(got.means.amax()) == pytest.approx(1e30, rel=1e-3)
    assert got.quats[:, 0].amax() > 0.999
    assert got.quats[:, 3].amax() > 0.999


def test_colours_of_the_invisible_are_kept(tiny_model):
    """A WebP encoder is free to change them where alpha is 0, unless told."""
    model = tiny_model(200, 0)
    model.opacities[::2] = -torch.inf
    assert_as_good_as_can_be(write_sog(model), model, 200)


def test_labels_rise_along_the_curve(tiny_model):
    files = write_sog(tiny_model(300, 1))
    texels = np.asarray(Image.open(io.BytesIO(files["shN_labels.webp"])).convert("RGB"))
    labels = texels.reshape(-1, 3)[:300].astype(int) @ [1, 256, 0]
    assert labels.tolist() == [*range(300)]


@pytest.mark.parametrize("where", [0.0, -7.25, 123456.0])
def test_all_in_one_place_and_of_one_colour(tiny_model, where):
    model = tiny_model(40, 1)
    one = {name: value[:1].expand_as(value) for name, value in model.tensors().items()}
    model = SplatModel(**one | {"means": torch.full((40, 3), where)})
    files = write_sog(model)
    got = read_sog(bundle(files))
    assert json.loads(files["meta.json"])["shN"]["count"] == 1
    torch.testing.assert_close(got.means, model.means)
    for name in ("scales", "sh0", "shN"):
        assert torch.equal(got.tensors()[name], model.tensors()[name]), name


def test_even_textures_of_large_scenes_are_no_bombs(tiny_model, monkeypatch):
    model = tiny_model(20_000, 0)
    model = replace(model, scales=torch.full_like(model.scales, -3), quats=torch.ones(20_000, 4))
    data = bundle(write_sog(model))
    monkeypatch.setattr(sog, "TEXEL_FLOOR", 64)
    assert len(read_sog(data)) == 20_000
    monkeypatch.setattr(sog, "TEXELS_PER_MEANS_BYTE", 0.01)
    with pytest.raises(ValueError, match="texels from"):
        read_sog(data)


def test_what_mip_splatting_needs_survives(tiny_model):
    model = replace(tiny_model(3, 0), antialiased=True)
    assert read_sog(bundle(write_sog(model))).antialiased


@pytest.mark.parametrize("name", ["means", "quats", "scales", "sh0", "shN"])
@pytest.mark.parametrize("value", [torch.nan, -torch.inf, 3.4028e38])
def test_no_infinities(tiny_model, name, value):
    model = tiny_model(3, 1)
    getattr(model, name)[1, 0] = value
    with pytest.raises(ValueError, match=f"^SOG {name}: expected finite values; sanitize the "):
        write_sog(model)


@pytest.mark.parametrize(
    ("n", "degree", "palette", "message"),
    [
        (0, 1, None, "SOG count: expected 1 to 268304400, got 0"),
        (2, 4, None, "SOG SH degree: expected 0 to 3, got 4"),
        (2, 1, 0, "SOG palette: expected 1 to 65536 entries, got 0"),
        (2, 1, 65537, "SOG palette: expected 1 to 65536 entries, got 65537"),
    ],
)
def test_refusals(tiny_model, n, degree, palette, message):
    with pytest.raises(ValueError, match=f"^{message}$"):
        write_sog(tiny_model(n, degree), palette=palette)


def test_without_pillow_one_line_and_no_file(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ValueError, match=r"a\.sog: SOG needs Pillow: pip install 'fieldpress"):
        models.save(tiny_model(2, 0), tmp_path / "a.sog")
    assert not list(tmp_path.iterdir())


def test_a_real_scene(data_dir):
    """Smaller than the file that splat-transform 2.7.1 makes of it (232,042 bytes)."""
    model = read_ply(data_dir / "gaussians/fruit-drops/fruit_drops_minimal.ply")
    data = bundle(write_sog(model))
    assert len(data) < 232_042
    got = read_sog(data)
    model = model[torch.from_numpy(morton_order(_fixed_means(model.means.numpy())[2]))]
    torch.testing.assert_close(contracted(got.means), contracted(model.means), rtol=0, atol=5e-5)
    for name, limit in (("scales", 0.02), ("sh0", 0.008), ("shN", 0.003)):
        error = (got.tensors()[name] - model.tensors()[name]).square().mean().sqrt()
        assert float(error) < limit, name

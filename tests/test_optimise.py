"""Optimised SOG and SPZ: no more bytes and a better picture, or a size that was asked for."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fieldpress.gaussians import sog_write
from fieldpress.gaussians.importance import importance
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.optimise import Aim, coarsened, optimised
from fieldpress.gaussians.sog import read_sog
from fieldpress.gaussians.spz import read_spz, write_spz
from fieldpress.scenes.cameras import Cameras, Scene
from fieldpress.scenes.orbit import orbit

pytest.importorskip("PIL.Image", reason="SOG needs Pillow")


def quiet(stage: str, done: float) -> None:
    assert 0 <= done <= 1


@pytest.fixture(scope="module")
def views() -> Cameras:
    return orbit([0.0, 0, 0], 3.0, 6, width=64, height=48, up=[0.0, -1, 0])


@pytest.fixture(scope="module")
def scene(views) -> Scene:
    other = orbit([0.0, 0, 0], 2.7, 4, width=64, height=48, up=[0.1, -1, 0])
    return Scene(name="orbit", train=views, test=other)


@pytest.fixture(scope="module")
def ball(shell) -> SplatModel:
    model = shell(1300)  # Above 1024: the palette is smaller than the scene.
    rest = model.shN + 0.1 * torch.randn(
        model.shN.shape, generator=torch.Generator().manual_seed(1)
    )
    return replace(model, shN=rest)


def worst(model: SplatModel, decoded: SplatModel, views: Cameras) -> float:
    return float((model.render(views) - decoded.render(views)).square().mean())


def test_an_optimised_sog_is_nearer(ball, scene):
    plain = sog_write.sog_bundle(ball)
    found = optimised(ball, "sog", Aim(), scene, quiet)
    data = b"".join(found.made)
    assert len(data) <= len(plain)
    assert found.count == len(ball)
    assert found.report["views"] == 6
    error = worst(ball, read_sog(data), scene.test)
    assert error < 0.8 * worst(ball, read_sog(plain), scene.test)


def test_an_optimised_spz_is_nearer_and_smaller(ball, scene):
    plain = write_spz(ball)
    data = b"".join(optimised(ball, "spz", Aim(), scene, quiet).made)
    assert len(data) <= len(plain)
    error = worst(ball, read_spz(data), scene.test)
    assert error < 0.8 * worst(ball, read_spz(plain), scene.test)


@pytest.mark.parametrize("kind", ["sog", "spz"])
def test_a_size_is_kept_and_fewer_bytes_are_a_worse_picture(ball, scene, kind):
    whole = optimised(ball, kind, Aim(), scene, quiet)
    size = sum(map(len, whole.made))
    found = [optimised(ball, kind, Aim(size * share // 10), scene, quiet) for share in (8, 5)]
    assert [sum(map(len, f.made)) <= size * s // 10 for f, s in zip(found, (8, 5), strict=True)]
    quality = [f.report["psnr_self"] for f in (whole, *found)]
    assert quality == sorted(quality, reverse=True)
    assert found[1].count < len(ball) or kind == "sog"
    with pytest.raises(ValueError, match=f"optimize: {len(ball)} Gaussians do not go into 100"):
        optimised(ball, kind, Aim(100), scene, quiet)


def test_a_folder_has_the_files_of_the_bundle(ball, scene):
    files = optimised(ball, "meta.json", Aim(), scene, quiet).made
    assert isinstance(files, dict)
    assert sog_write.bundle(files) == b"".join(optimised(ball, "sog", Aim(), scene, quiet).made)


def test_what_is_seen_less_is_coarser(ball, views):
    seen = importance(ball, views)
    got = coarsened(ball, seen, 4)
    error = (got.shN - ball.shN).abs().flatten(1).amax(1)
    order = seen.weight.argsort()
    assert error[order[-13:]].max() <= 0.5 * 4 / 128 + 1e-6
    assert error[order[:300]].mean() > 1.5 * error[order[-300:]].mean()


def test_refusals(ball, tiny_model, scene):
    with pytest.raises(ValueError, match=r"expected one of sog, meta\.json, spz, got ply"):
        optimised(ball, "ply", Aim(), scene, quiet)
    faint = tiny_model(5, 1)
    faint.opacities[:] = -9
    with pytest.raises(ValueError, match="none of the Gaussians is visible"):
        optimised(faint, "sog", Aim(), scene, quiet)

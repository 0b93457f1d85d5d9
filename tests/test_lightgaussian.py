"""LightGaussian: significance in both forms against doubles, the law of pruning, the stages."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.codec import decode
from fieldpress.gaussians.lightgaussian import (
    LightGaussianSettings,
    distil,
    finetune_codebook,
    moved,
    recover,
    run_lightgaussian,
    truncated,
)
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.significance import keep_mask, significance, volume_factor
from fieldpress.gaussians.train import camera_extent
from fieldpress.gaussians.vectree import VecTreeSettings, quantise
from fieldpress.quant.codebook import CodebookSettings
from fieldpress.render import _reference
from fieldpress.scenes.cameras import Cameras, Scene
from fieldpress.scenes.metrics import psnr


def cameras(count: int = 3, width: int = 33, height: int = 27) -> Cameras:
    views = torch.zeros(count, 4, 4)
    for i in range(count):
        c, s = math.cos(0.9 * i), math.sin(0.9 * i)
        rows = [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 3.5], [0, 0, 0, 1]]
        views[i] = torch.tensor(rows)
    K = torch.tensor([[0.9 * width, 0, 0.47 * width], [0, 1.1 * width, 0.55 * height], [0, 0, 1]])
    return Cameras(views, K.expand(count, 3, 3).contiguous(), width, height)


# Significance


def by_doubles(model, views: Cameras, form: str) -> torch.Tensor:
    """The score as the paper and the released code state it, from the twin's pixels."""
    quats = torch.nn.functional.normalize(model.quats.double(), dim=1)
    scales, sigma = model.scales.double().exp(), model.opacities.double().sigmoid()
    hits = torch.zeros(len(model), dtype=torch.float64)
    options = model.options()
    for viewmat, K in zip(views.viewmats.double(), views.Ks.double(), strict=True):
        p = _reference._project(
            model.means.double(), quats, scales, sigma, viewmat, K,
            views.width, views.height, options,
        )  # fmt: skip
        for alpha, weight in _reference._weights(p, views.width, views.height, options):
            transmittance = torch.cumprod(torch.cat([torch.ones(len(alpha), 1), 1 - alpha], 1), 1)
            torch.testing.assert_close(weight, alpha * transmittance[:, :-1])
            for column, index in enumerate(p.index.tolist()):
                hit = alpha[:, column] > 0
                if form == "released":
                    hits[index] += sigma[index] * int(hit.sum())
                else:
                    hits[index] += (alpha[:, column] * transmittance[:, column])[hit].sum()
    volume = 4 / 3 * math.pi * scales.prod(1)
    rank = int(0.9 * len(model))
    if form == "released":
        return hits * (volume / volume.sort(descending=True).values[rank]) ** 0.1
    return hits * (volume / volume.sort().values[rank]).clamp(0, 1) ** 0.1


@pytest.mark.parametrize("form", ["released", "published"])
def test_significance_is_the_double_computation(tiny_model, form):
    model, views = tiny_model(60, 1), cameras()
    ours = significance(model, views, form=form)
    wanted = by_doubles(model, views, form)
    assert ours.dtype == torch.float64
    assert int((wanted > 0).sum()) > 50
    # A pixel on the edge of a Gaussian may be a hit for one and none for the other.
    close = (ours - wanted).abs() <= 1e-3 * wanted + 1e-6
    assert float(close.double().mean()) > 0.9
    assert float((ours - wanted).abs().sum() / wanted.sum()) < 1e-3


def test_the_forms_differ_where_something_is_hidden(tiny_model):
    """Released: what lies behind counts as much as what lies before. Published: it does not."""
    model, views = tiny_model(2, 0), cameras(1)
    forward = views.viewmats[0, 2, :3]
    model.means[:] = torch.stack([-0.5 * forward, 0.5 * forward]) + torch.tensor([0.0, 0.2, 0.0])
    model.opacities[:], model.scales[:] = 4.0, -0.5
    hidden = {
        form: float(scores[1] / scores[0])
        for form in ("released", "published")
        for scores in (significance(model, views, form=form),)
    }
    assert hidden["released"] > 0.4
    assert hidden["published"] < 0.5 * hidden["released"]


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("form", ["released", "published"])
def test_none_and_one(tiny_model, n, form):
    assert significance(tiny_model(n, 0), cameras(), form=form).shape == (n,)


def test_another_form_is_refused(tiny_model):
    with pytest.raises(ValueError, match=r"^form: expected one of released, published, got 'v1'"):
        significance(tiny_model(2, 0), cameras(), form="v1")


@given(st.integers(1, 50), st.integers(0, 9))
@settings(max_examples=30, deadline=None)
def test_volumes_are_divided_by_another_rank_in_each_form(n, seed):
    scales = torch.randn(n, 3, generator=torch.Generator().manual_seed(seed))
    released = volume_factor(scales, "released")
    published = volume_factor(scales, "published")
    below, above = (released < 1 - 1e-12).sum(), (published < 1 - 1e-12).sum()
    assert int(below) == n - 1 - int(0.9 * n)
    assert int(above) == int(0.9 * n)
    assert float(published.max()) <= 1


def test_extreme_volumes_stay_finite():
    factor = volume_factor(torch.tensor([[40.0] * 3, [-30.0] * 3, [0.0] * 3]), "released")
    assert bool(factor.isfinite().all())
    assert float(factor[0] / factor[2]) == pytest.approx(math.exp(12))


# Pruning


@given(
    st.lists(st.integers(0, 5), min_size=1, max_size=40),
    st.floats(0.01, 0.99),
)
@settings(max_examples=60, deadline=None)
def test_the_law_of_pruning(values, share):
    scores = torch.tensor(values, dtype=torch.float64)
    keep = keep_mask(scores, share)
    threshold = sorted(values)[int(share * (len(values) - 1))]
    assert keep.tolist() == [value > threshold for value in values]


def test_ties_go():
    scores = torch.tensor([3.0, 1.0, 1.0, 1.0, 2.0])
    assert keep_mask(scores, 0.25).tolist() == [True, False, False, False, True]
    assert not keep_mask(torch.ones(4), 0.1).any()
    assert keep_mask(torch.ones(4), 0.0).all()
    assert keep_mask(torch.ones(0), 0.5).shape == (0,)
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match=r"^prune: expected a share in \[0, 1\)"):
            keep_mask(scores, share)


def test_the_usual_share_of_many(tiny_model):
    scores = torch.rand(1000, generator=torch.Generator().manual_seed(0))
    assert int(keep_mask(scores, 0.66).sum()) == 1000 - int(0.66 * 999) - 1


# Stages


@pytest.fixture(scope="module")
def scene(tiny_model) -> Scene:
    """Photographs of a small model, and views of it that are not for training."""
    views, model = cameras(5), tiny_model(150, 3)
    train, test = views[[0, 1, 3]], views[[2, 4]]
    return Scene("tiny", train, test, model.render(train), model.render(test))


QUICK = LightGaussianSettings(
    prune=0.5,
    recovery_steps=6,
    distil_steps=6,
    codebook_steps=6,
    vectree=VecTreeSettings(codebook=CodebookSettings(steps=5)),
)


def error(model: SplatModel, views: Cameras, photos: torch.Tensor) -> float:
    return float((model.render(views) - photos).square().mean())


def test_recovery_recovers(tiny_model, scene):
    pruned = tiny_model(150, 3)[torch.arange(150) % 2 == 0]
    steps = []
    settings = replace(QUICK, recovery_steps=20)
    recovered = recover(pruned, scene, settings, steps.append)
    assert len(recovered) == 75
    assert steps == ["recovery"] * 20
    before = error(pruned, scene.train, scene.train_images)
    assert error(recovered, scene.train, scene.train_images) < 0.9 * before
    assert recover(pruned, scene, replace(QUICK, recovery_steps=0)) is pruned


def test_distillation_follows_the_teacher_and_freezes_opacities(tiny_model, scene):
    teacher = tiny_model(150, 3)
    student = truncated(teacher, 1)
    assert student.sh_degree == 1
    assert torch.equal(student.shN, teacher.shN[:, :3])
    blind = replace(scene, train_images=torch.rand_like(scene.train_images))  # Photos do not count.
    taught = distil(student, teacher, blind, replace(QUICK, distil_steps=30))
    assert torch.equal(taught.opacities, student.opacities)
    assert not torch.equal(taught.scales, student.scales)
    assert error(taught, scene.train, scene.train_images) < error(
        student, scene.train, scene.train_images
    )
    assert truncated(student, 2) is student


def test_two_of_three_distillation_steps_take_a_pseudo_view(tiny_model, scene, monkeypatch):
    offsets = []

    def watched(cameras, offset):
        offsets.append(offset)
        return moved(cameras, offset)

    monkeypatch.setattr("fieldpress.gaussians.lightgaussian.moved", watched)
    teacher = tiny_model(30, 1)
    distil(teacher, teacher, scene, LightGaussianSettings(distil_steps=9, jitter=0.01))
    assert len(offsets) == 6
    sigma = 0.01 * camera_extent(scene.train)
    assert 0.3 * sigma < float(torch.cat(offsets).std()) < 2 * sigma


def test_pseudo_views_are_moved_and_not_turned():
    views = cameras(4)
    offsets = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
    pseudo = moved(views, offsets)
    torch.testing.assert_close(pseudo.positions, views.positions + offsets)
    assert torch.equal(pseudo.viewmats[:, :3, :3], views.viewmats[:, :3, :3])
    assert torch.equal(pseudo.Ks, views.Ks)


def test_codebook_fine_tuning_changes_the_codebook_only(tiny_model, scene):
    model = tiny_model(150, 2)
    scores = torch.rand(150, generator=torch.Generator().manual_seed(0))
    tree = quantise(model, scores, replace(QUICK.vectree, share=0.8, per_codeword=20))
    tuned = finetune_codebook(tree, scene, replace(QUICK, codebook_steps=30))
    for name, value in vars(tree).items():
        if name != "codebook":
            assert value is getattr(tuned, name)
    assert (tuned.codebook != tree.codebook).any()
    before = error(tree.model(), scene.train, scene.train_images)
    assert error(tuned.model(), scene.train, scene.train_images) < before


@pytest.mark.filterwarnings("ignore:LPIPS is left out")
def test_the_whole_of_it(tiny_model, scene):
    model, done = tiny_model(150, 3), []
    before = {name: value.clone() for name, value in model.tensors().items()}
    result = run_lightgaussian(model, scene, QUICK, lambda stage, share: done.append(share))
    names = ["baseline", "prune", "recovery", "SH truncation", "distillation", "VQ", "VQ fine-tune"]
    assert [stage.name for stage in result.stages] == names
    kept = 150 - int(0.5 * 149) - 1
    assert [stage.count for stage in result.stages] == [150] + [kept] * 6
    sizes = [stage.size_bytes for stage in result.stages]
    assert sizes[0] > sizes[1] == sizes[2] > sizes[3] == sizes[4] > sizes[5]
    assert sizes[6] == len(result.data)
    assert all(stage.psnr and stage.ssim and stage.fps for stage in result.stages)
    decoded = decode(result.data)
    assert len(decoded) == kept
    assert decoded.sh_degree == 2
    assert decoded.extra["recipe"] == "lightgaussian"
    last = result.stages[-1].psnr
    assert last == pytest.approx(float(psnr(decoded.render(scene.test), scene.test_images).mean()))
    assert done == sorted(done)
    assert done[-1] == 1.0
    assert len(done) == 18
    again = run_lightgaussian(model, scene, QUICK)
    assert again.data == result.data
    assert all(torch.equal(before[name], value) for name, value in model.tensors().items())


def test_what_cannot_be_done_is_said(tiny_model, scene):
    with pytest.raises(ValueError, match=r"^tiny: expected training and test photographs"):
        run_lightgaussian(tiny_model(5, 0), replace(scene, train_images=None), QUICK)
    one = tiny_model(1, 0)
    with pytest.raises(ValueError, match=r"^prune: all 1 Gaussians are equally significant"):
        run_lightgaussian(one, scene, QUICK)
    for change in ({"form": "v5"}, {"prune": 1.0}, {"sh_degree": 5}, {"distil_steps": -1}):
        with pytest.raises(ValueError, match=f"^{next(iter(change))}: expected"):
            replace(QUICK, **change)

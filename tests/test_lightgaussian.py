"""LightGaussian: significance in both forms against doubles, the law of pruning, the stages."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.gaussians.significance import keep_mask, significance, volume_factor
from fieldpress.render import _reference
from fieldpress.scenes.cameras import Cameras


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

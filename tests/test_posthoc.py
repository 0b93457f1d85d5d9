"""What needs no training: pruning by rank, SPZ's bits of colour, LightGaussian's steps."""

from __future__ import annotations

import pytest
import torch

from fieldpress.gaussians import codec
from fieldpress.gaussians.posthoc import (
    PosthocSettings,
    lightgaussian_posthoc,
    seen_weight,
    without_least,
)
from fieldpress.gaussians.significance import keep_mask, significance
from fieldpress.gaussians.vectree import VecTreeSettings
from fieldpress.quant import container
from fieldpress.quant.codebook import CodebookSettings
from fieldpress.scenes.orbit import orbit

VECTREE = VecTreeSettings(codebook=CodebookSettings(steps=5))


@pytest.fixture(scope="module")
def views():
    return orbit([0.0, 0, 0], 3.0, 4, width=64, height=48, up=[0.0, -1, 0])


def test_the_least_go_and_the_others_keep_their_order(tiny_model):
    model = tiny_model(10)
    weight = torch.tensor([5.0, 1, 4, 1, 9, 0, 2, 6, 5, 3])
    left = without_least(model, weight, 0.45)  # 4 of 10: 0, 1, 1, 2.
    assert torch.equal(left.means, model.means[[0, 2, 4, 7, 8, 9]])
    assert without_least(model, weight, 0.0) is model
    assert len(without_least(model, torch.zeros(10), 0.99)) == 1
    assert len(without_least(tiny_model(0), torch.zeros(0), 0.5)) == 0
    for share in (-0.1, 1.0, float("nan")):
        with pytest.raises(ValueError, match="prune: expected a share"):
            without_least(model, weight, share)
    with pytest.raises(ValueError, match=r"weight: expected \[10\], got \[9\]"):
        without_least(model, weight[:9], 0.5)


def test_what_no_view_sees_goes_first_and_what_is_seen_most_goes_last(tiny_model, views):
    model = tiny_model(60)
    model.means[0] += 1e4
    model.opacities[1:] = -4.0
    model.means[1], model.scales[1], model.opacities[1] = 0.0, -1.0, 8.0
    weight = seen_weight(model, views)
    assert weight[0] == weight.min() == 0
    assert weight.argmax() == 1
    assert torch.equal(weight[1:], seen_weight(model[1:], views))
    left = without_least(model, weight, 0.5)
    whole = model.render(views)
    most = model[weight.argsort(descending=True, stable=True)[30:]]
    lost = (left.render(views) - whole).square().mean()
    assert lost < (most.render(views) - whole).square().mean() / 10


@pytest.mark.parametrize(("degree", "expected"), [(3, 2), (1, 1), (0, 0)])
def test_a_posthoc_file_decodes_to_what_is_left(tiny_model, views, degree, expected):
    model = tiny_model(300, degree)
    settings = PosthocSettings(prune=0.4, vectree=VECTREE)
    data = lightgaussian_posthoc(model, views, settings)
    found = codec.decode(data)
    keep = keep_mask(significance(model, views), 0.4)
    assert len(found) == int(keep.sum())
    assert found.sh_degree == expected
    nearest = torch.cdist(found.means, model.means[keep]).min(1)
    assert nearest.values.max() < 1e-3
    assert len(nearest.indices.unique()) == len(found)
    assert container.read(data).header["recipe"] == "lightgaussian-posthoc"
    assert lightgaussian_posthoc(model, views, settings) == data


def test_pruning_shrinks_and_all_alike_are_refused(tiny_model, views):
    model = tiny_model(400)
    sizes = [
        len(lightgaussian_posthoc(model, views, PosthocSettings(prune=share, vectree=VECTREE)))
        for share in (0.0, 0.3, 0.66)
    ]
    assert sizes == sorted(sizes, reverse=True)
    away = tiny_model(20)
    away.means.add_(1e4)  # No view sees any: all scores are 0.
    with pytest.raises(ValueError, match="all 20 Gaussians are equally significant"):
        lightgaussian_posthoc(away, views, PosthocSettings(prune=0.5, vectree=VECTREE))


@pytest.mark.parametrize("bad", [{"prune": 1.0}, {"prune": -0.1}, {"sh_degree": 5}, {"form": "x"}])
def test_settings_out_of_range_are_refused(bad):
    with pytest.raises(ValueError, match=f"^{next(iter(bad))}: expected"):
        PosthocSettings(**bad)

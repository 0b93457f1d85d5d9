import dataclasses

import numpy as np
import pytest
import torch

from fieldpress.gaussians import codec, finetune, fit_tables, sparsify, straight_through
from fieldpress.gaussians.densify import rotations
from fieldpress.gaussians.finetune import FinetuneSettings, QuantisedTrainer
from fieldpress.gaussians.rate_model import PARTS, RateModel
from fieldpress.gaussians.train import NAMES, TrainSettings
from fieldpress.scenes.orbit import orbit

STEPS = codec.Steps()


@pytest.fixture(scope="module")
def cameras():
    return orbit([0.0, 0.0, 0.0], 3.0, 6, width=48, height=32, up=[0.0, 1.0, 0.0])


@pytest.fixture
def trainer(tiny_model, cameras):
    model = tiny_model(300, 2)
    pictures = model.render(cameras)
    return QuantisedTrainer(tiny_model(300, 2, seed=1), cameras, pictures, TrainSettings(steps=40))


def source_of(model, top=8):
    return fit_tables.Source.of(model, np.arange(len(model), dtype=np.int32) % top)


def covariance(quats, scales):
    axes = rotations(quats.double()) * scales.double().exp()[:, None]
    return axes @ axes.transpose(1, 2)


def test_every_description_is_the_same_ellipsoid(tiny_model):
    model = tiny_model(200)
    unit = torch.nn.functional.normalize(model.quats, dim=1)
    other = tiny_model(200, seed=1).quats
    quats, scales = straight_through.nearest_description(unit, model.scales, other)
    torch.testing.assert_close(covariance(quats, scales), covariance(unit, model.scales))
    ours, given = (quats * other).sum(1) / other.norm(dim=1), (unit * other).sum(1)
    assert bool((ours >= given.abs() - 1e-5).all())
    torch.testing.assert_close(quats.norm(dim=1), other.norm(dim=1))


@pytest.mark.parametrize("g", range(24))
def test_a_turn_that_permutes_the_axes_is_undone(tiny_model, g):
    model = tiny_model(50)
    turn = straight_through.SYMMETRIES[g].expand(50, 4)
    turned = straight_through.multiply(torch.nn.functional.normalize(model.quats, dim=1), turn)
    permuted = model.scales[:, straight_through.PERMUTATIONS[g]]
    quats, scales = straight_through.nearest_description(turned, permuted, model.quats)
    torch.testing.assert_close(quats, model.quats, atol=1e-5, rtol=1e-4)
    assert torch.equal(scales, model.scales)


@pytest.mark.parametrize("degree", [0, 3])
def test_rounding_is_decoding_gaussian_for_gaussian(tiny_model, degree):
    source = source_of(tiny_model(500, degree))
    found = straight_through.rounded(source, STEPS).model
    decoded = codec.decode(codec.encode_source(source, STEPS))
    inner = found[torch.from_numpy(source.order)]
    for name in ("means", "opacities", "sh0", "shN"):
        assert torch.equal(getattr(inner, name), getattr(decoded, name)), name
    torch.testing.assert_close(
        covariance(inner.quats, inner.scales), covariance(decoded.quats, decoded.scales)
    )


def test_rounding_moves_values_by_little(tiny_model):
    model = tiny_model(500, 1)
    source = source_of(model, 1)
    found = straight_through.rounded(source, STEPS.scaled(1 / 32)).model
    for name in NAMES:
        difference = (getattr(found, name) - getattr(model, name)).abs().flatten()
        assert float(difference.quantile(0.95)) < 0.02, name


@pytest.mark.parametrize("count", [500, 5000])
def test_decoded_coefficients_lie_whole_steps_from_their_predictions(tiny_model, count):
    source = source_of(tiny_model(count, 1))
    found = straight_through.rounded(source, STEPS)
    assert set(found.predictions) == {"opa", "scl", "dc", "ac"}
    for key in ("dc", "ac"):
        residual = RateModel._residual(found.predictions[key], getattr(found.model, PARTS[key]))
        off = residual / found.predictions[key].step
        assert float((off - off.round()).abs().max()) < 1 / 32, key
    # Opacities: whole steps of ln alpha, but for those cut off at logit 7.
    p, opacities = found.predictions["opa"], found.model.opacities[:, None].double()
    center, log = (torch.nn.functional.logsigmoid(x.double()) for x in (p.center, opacities))
    step = p.step.double() * torch.sigmoid(-p.center.double())
    off = ((log - center) / step)[(p.center < 6.9) & (opacities < 6.9)]
    assert len(off) > 0.5 * count
    assert float((off - off.round()).abs().max()) < 1 / 32
    # Scales, sorted: their axes may come in another order than that of the given scales.
    p = found.predictions["scl"]
    off = (found.model.scales.sort(1).values - p.center.sort(1).values) / p.step
    assert float(((off - off.round()).abs() < 1 / 32).float().mean()) > 0.5


def test_shown_values_are_decoded_values(trainer):
    trainer.aim(source_of(trainer.model()), STEPS, 0.0)
    decoded = straight_through.rounded(trainer.source, STEPS).model
    for name, p in trainer.params.items():
        shown = p.detach() + trainer.delta[name]
        torch.testing.assert_close(shown, getattr(decoded, name), atol=1e-6, rtol=1e-5)
    with torch.no_grad():
        image = trainer.render(trainer.cameras[:1])
    torch.testing.assert_close(image, decoded.render(trainer.cameras[:1]), atol=1e-4, rtol=0)


def test_gradients_are_those_at_the_decoded_values(trainer):
    trainer.aim(source_of(trainer.model()), STEPS, 0.0)
    decoded = straight_through.rounded(trainer.source, STEPS).model
    other = QuantisedTrainer(decoded, trainer.cameras, trainer.images, trainer.settings)
    for one in (trainer, other):
        one.render(one.cameras[:2]).square().mean().backward()
    for name in NAMES:
        ours, theirs = trainer.params[name].grad, other.params[name].grad
        assert float((ours - theirs).norm()) <= 1e-3 * float(theirs.norm()), name


def test_the_rate_gradient_is_that_of_the_bits(trainer):
    trainer.aim(source_of(trainer.model()), STEPS, 1.0)
    values = trainer.params
    trainer.rate_model.bits(values).backward()
    names = ("opacities", "scales", "sh0", "shN")
    exact = {name: values[name].grad.clone() for name in names}
    for name in names:
        values[name].grad.zero_()
    trainer.rate_model.add_gradients(values, 0.5)
    for name in names:
        torch.testing.assert_close(values[name].grad, 0.5 * exact[name], atol=1e-3, rtol=1e-3)


def test_descending_the_rate_makes_the_file_smaller(tiny_model, cameras):
    model = tiny_model(2000, 2)
    pictures = torch.zeros(6, 32, 48, 3)
    trainer = QuantisedTrainer(model, cameras, pictures, TrainSettings(steps=40))
    trainer.aim(source_of(model), STEPS, 1.0)
    before = len(codec.encode_source(trainer.source, STEPS))
    for _ in range(30):
        for p in trainer.params.values():
            p.grad = torch.zeros_like(p)
        trainer.rate_model.add_gradients(trainer.params, 1.0)
        with torch.no_grad():
            for p in trainer.params.values():
                p -= 5e-3 * p.grad.sign()
        trainer.round()
    after = len(codec.encode_source(trainer.source.moved(trainer.model()), STEPS))
    assert after < 0.97 * before


def test_counts_fall_to_the_goal():
    assert sparsify.counts(1000, 10, 2) == [100, 10]
    assert sparsify.counts(10, 1000, 3) == []


def test_removal_error_is_what_removing_costs(tiny_model, cameras):
    model = tiny_model(12, 1)
    whole = model.render(cameras)
    exact = []
    for index in range(12):
        opacities = model.opacities.clone()
        opacities[index] = -torch.inf
        without = dataclasses.replace(model, opacities=opacities).render(cameras)
        exact.append(float((without - whole).square().sum()))
    found = sparsify.removal_error(model, cameras, probes=64)
    ratio = found / torch.tensor(exact, dtype=torch.float64).clamp_min(1e-9)
    assert float((ratio.log().abs() < 0.5).double().mean()) >= 0.75


def test_dropping_keeps_the_count_and_the_moments(trainer):
    for _ in range(2):
        trainer.step()
    before, moments = trainer.model(), trainer.moments()["sh0"][0]
    sparsify.drop_least(trainer, trainer.cameras, 120)
    assert len(trainer.params["means"]) == 120
    rows = {tuple(x.tolist()): i for i, x in enumerate(before.means)}
    index = torch.tensor([rows[tuple(x.tolist())] for x in trainer.params["means"]])
    assert torch.equal(trainer.moments()["sh0"][0], moments[index])
    trainer.step()


def test_splitting_adds_the_count_where_pictures_pull(trainer):
    for _ in range(3):
        trainer.step()
    before, moments = trainer.model(), trainer.moments()["means"][1]
    sparsify.split_wanted(trainer, 40)
    after = trainer.model()
    assert len(after) == 340
    moved = (after.means[:300] != before.means).any(1)
    pull = moments.sum(1).sqrt() * before.scales.exp().amax(1)
    assert int(moved.sum()) == 40
    assert float(pull[moved].min()) >= float(pull[~moved].max())
    chosen = pull.argsort(descending=True, stable=True)[:40]
    middle = (after.means[chosen] + after.means[300:]) / 2
    torch.testing.assert_close(middle, before.means[chosen], atol=1e-6, rtol=1e-5)
    through = (1 - after.opacities[chosen].sigmoid()) * (1 - after.opacities[300:].sigmoid())
    torch.testing.assert_close(through, 1 - before.opacities[chosen].sigmoid())
    trainer.step()


def test_a_fine_tune_keeps_its_size_and_repeats_itself(tiny_model, cameras):
    model = tiny_model(800, 1)
    pictures = model.render(cameras)
    settings = FinetuneSettings(target_bytes=2500, steps=60, bits=50, refresh=5, rounds=2)
    one, two = (
        finetune.compress_finetuned(model, cameras, pictures, cameras[:2], settings)
        for _ in range(2)
    )
    assert one.data == two.data
    assert 0.9 * 2500 <= len(one.data) <= 2500
    decoded = codec.decode(one.data)
    assert len(decoded) == one.report["count_out"] <= 8 * 2500 / 50
    assert one.report["psnr_self"] > 20


@pytest.mark.parametrize(
    ("settings", "name"),
    [({"target_bytes": 0}, "target_bytes"), ({"target_bytes": 9, "steps": 0}, "steps"),
     ({"target_bytes": 9, "bits": 0.0}, "bits"), ({"target_bytes": 9, "rate": -1.0}, "rate")],
)  # fmt: skip
def test_settings_that_make_no_sense_are_named(settings, name):
    with pytest.raises(ValueError, match=name):
        FinetuneSettings(**settings)

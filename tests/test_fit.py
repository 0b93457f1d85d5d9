"""Fitting on pictures of a known scene: it gets better, repeats, and survives interruption."""

from dataclasses import replace

import pytest
import torch

from fieldpress.fitting import load_checkpoint, save_checkpoint
from fieldpress.gaussians.fit import FitSettings, Fitted, about_fit, fit, initial
from fieldpress.gaussians.train import NAMES, Trainer, TrainSettings
from fieldpress.render.photometric import photometric_loss
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.metrics import psnr
from fieldpress.scenes.orbit import orbit

STEPS = FitSettings(budget=150, steps=60, sh_degree=1)


@pytest.fixture(scope="module")
def scene(tiny_model) -> Scene:
    truth = tiny_model(80, sh_degree=1)
    cameras = orbit([0.0, 0.0, 0.0], 3.0, 8, width=40, height=30, up=[0.0, 1.0, 0.0])
    pictures = truth.render(cameras).clamp(0, 1)
    return Scene(
        "known", cameras[1:], cameras[:1], pictures[1:], pictures[:1],
        points=truth.means + 0.02, colors=torch.full_like(truth.means, 0.5),
    )  # fmt: skip


def quality(fitted: Fitted, scene: Scene) -> float:
    assert scene.test_images is not None
    return float(psnr(fitted.model.render(scene.test), scene.test_images).mean())


def same(one: Fitted, two: Fitted) -> bool:
    return all(torch.equal(getattr(one.model, n), getattr(two.model, n)) for n in NAMES)


def into(path, scene, settings=STEPS):
    """What `fit` is to call with its unfinished state."""
    return lambda state: save_checkpoint(path, state, about_fit(scene, settings))


def from_(path, scene, settings=STEPS):
    return load_checkpoint(path, about_fit(scene, settings))


def test_held_out_views_get_better(scene):
    start = Fitted(initial(scene, STEPS))
    fitted = fit(scene, replace(STEPS, steps=500))
    assert quality(fitted, scene) > quality(start, scene) + 2
    assert len(fitted.model) <= 150
    assert fitted.report["count"] > 80


def test_the_same_seed_gives_the_same_splats(scene):
    assert same(fit(scene, STEPS), fit(scene, STEPS))
    assert not same(fit(scene, STEPS), fit(scene, replace(STEPS, seed=1)))


def test_an_interrupted_fit_goes_on_to_the_same_result(scene, tmp_path):
    path = tmp_path / "x.checkpoint"
    straight = fit(scene, STEPS)

    def interrupt(stage: str, done: float) -> None:
        if done > 0.5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(scene, STEPS, progress=interrupt, keep=into(path, scene))
    resumed = fit(scene, STEPS, state=from_(path, scene))
    assert resumed.report["resumed_at"] == 40
    assert same(straight, resumed)


def test_an_interruption_in_mid_step_loses_no_view(scene, tmp_path, monkeypatch):
    path = tmp_path / "x.checkpoint"
    straight = fit(scene, STEPS)
    calls = []

    def interrupt(*args):
        calls.append(args)
        if len(calls) == 33:
            raise KeyboardInterrupt
        return photometric_loss(*args)

    monkeypatch.setattr("fieldpress.gaussians.train.photometric_loss", interrupt)
    with pytest.raises(KeyboardInterrupt):
        fit(scene, STEPS, keep=into(path, scene))
    resumed = fit(scene, STEPS, state=from_(path, scene))
    assert resumed.report["resumed_at"] == 32
    assert same(straight, resumed)


def test_half_an_update_is_no_state(scene, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    monkeypatch.setattr("fieldpress.gaussians.densify.DensifyingTrainer.after_update", interrupt)
    kept = []
    with pytest.raises(KeyboardInterrupt):
        fit(scene, STEPS, keep=kept.append)
    assert kept == []


def test_a_state_is_kept_from_time_to_time(scene, monkeypatch):
    monkeypatch.setattr("fieldpress.gaussians.fit.KEEP_SECONDS", 0.0)
    numbers = []
    fit(scene, STEPS, keep=lambda state: numbers.append(state["number"]))
    assert numbers == [20, 40, 60]


def test_nothing_visible_at_the_end_is_one_line(scene, monkeypatch):
    def vanish(self):
        with torch.no_grad():
            self.params["opacities"].fill_(-9.0)

    monkeypatch.setattr("fieldpress.gaussians.densify.DensifyingTrainer.after_update", vanish)
    with pytest.raises(ValueError, match="known: the fit left no visible Gaussian"):
        fit(scene, replace(STEPS, steps=3))


def test_exposure_survives_an_interruption_too(scene, tmp_path):
    path, settings = tmp_path / "x.checkpoint", replace(STEPS, exposure=True)

    def interrupt(stage: str, done: float) -> None:
        raise KeyboardInterrupt

    straight = fit(scene, settings)
    with pytest.raises(KeyboardInterrupt):
        fit(scene, settings, progress=interrupt, keep=into(path, scene, settings))
    assert same(straight, fit(scene, settings, state=from_(path, scene, settings)))


def test_a_checkpoint_of_another_fit_is_refused(scene, tmp_path):
    path = tmp_path / "x.checkpoint"
    into(path, scene)({})
    assert from_(path, scene) == {}
    with pytest.raises(ValueError, match="budget was 150, now 99"):
        from_(path, scene, replace(STEPS, budget=99))
    darker = replace(scene, train_images=scene.train_images * 0.9)
    with pytest.raises(ValueError, match="brightness"):
        from_(path, darker)


def test_exposure_is_learned_and_left_out(scene):
    assert scene.train_images is not None
    gains = torch.linspace(0.7, 1.0, len(scene.train))
    dimmed = replace(scene, train_images=scene.train_images * gains[:, None, None, None])
    trainer = Trainer(
        initial(scene, STEPS), dimmed.train, dimmed.train_images,
        TrainSettings(steps=200, exposure=True),
    )  # fmt: skip
    for _ in range(200):
        trainer.step()
    assert trainer.exposure is not None
    found = trainer.exposure.detach()[:, :, :3].diagonal(dim1=1, dim2=2).mean(1)
    assert float(torch.corrcoef(torch.stack([found, gains]))[0, 1]) > 0.8


def test_a_frozen_tensor_does_not_move(scene):
    model = initial(scene, STEPS)
    settings = TrainSettings(steps=5, means_lr=0, quats_lr=0)
    trainer = Trainer(model, scene.train, scene.train_images, settings)
    for _ in range(5):
        trainer.step()
    done = trainer.model()
    assert torch.equal(done.means, model.means)
    assert torch.equal(done.quats, model.quats)
    assert not torch.equal(done.sh0, model.sh0)
    assert set(trainer.moments()) == set(NAMES) - {"means", "quats"}  # No work was done on them.


def test_rates_and_degrees_follow_their_schedules(scene):
    settings = TrainSettings(
        steps=100, means_lr=1e-2, means_lr_final=1e-4, cool=0.4, sh_every=30
    )  # fmt: skip
    trainer = Trainer(initial(scene, STEPS), scene.train, scene.train_images, settings)
    found = []
    for number in (0, 50, 60, 80, 100):
        trainer.number = number
        rates = trainer.rates()
        found.append((rates["means"] / trainer.extent, rates["sh0"] / settings.sh0_lr))
    expected = [(1e-2, 1), (1e-3, 1), (1e-2 * 10**-1.2, 1), (1e-2 * 10**-1.6, 0.1**0.5)]
    for (means, rest), (means_wanted, rest_wanted) in zip(
        found, [*expected, (1e-4, 0.1)], strict=True
    ):
        assert means == pytest.approx(means_wanted, rel=1e-6)
        assert rest == pytest.approx(rest_wanted, rel=1e-6)
    degrees = []
    for trainer.number in (0, 29, 30, 90):
        degrees.append(trainer.sh_degree)
    assert degrees == [0, 0, 1, 1]  # The model has no more.


def test_exposure_keeps_its_momentum_when_gaussians_come_and_go(scene):
    settings = TrainSettings(steps=10, exposure=True)
    trainer = Trainer(initial(scene, STEPS), scene.train, scene.train_images, settings)
    trainer.step()
    before = trainer.optimizer.state[trainer.exposure]["exp_avg"].clone()
    assert before.any()
    trainer.replace({n: p.detach()[:50] for n, p in trainer.params.items()}, {})
    assert torch.equal(trainer.optimizer.state[trainer.exposure]["exp_avg"], before)


def test_masked_pixels_do_not_matter(scene):
    masks = torch.ones(len(scene.train), 30, 40)
    masks[:, :, 20:] = 0
    garbage = scene.train_images.clone()
    garbage[:, :, 20:] = torch.rand(len(scene.train), 30, 20, 3)
    models = []
    for images in (scene.train_images, garbage):
        # A window of 11 pixels reaches across the border: only L1 is blind to what is masked.
        settings = TrainSettings(steps=10, ssim_weight=0)
        trainer = Trainer(initial(scene, STEPS), scene.train, images, settings, masks=masks)
        for _ in range(10):
            trainer.step()
        models.append(Fitted(trainer.model()))
    assert same(*models)


def test_no_points_and_no_photographs_are_one_line(scene):
    with pytest.raises(ValueError, match="known: expected SfM points"):
        fit(replace(scene, points=None), STEPS)
    with pytest.raises(ValueError, match="known: expected photographs"):
        fit(replace(scene, train_images=None), STEPS)
    fitted = fit(replace(scene, points=None), replace(STEPS, init="random", steps=5))
    assert len(fitted.model) <= 150


@pytest.mark.parametrize("bad", [{"init": "hope"}, {"sh_degree": 5}, {"steps": 0}, {"budget": 0}])
def test_settings_that_make_no_sense(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        FitSettings(**bad)


def test_pictures_must_fit_the_cameras(scene):
    with pytest.raises(ValueError, match="images: expected"):
        Trainer(initial(scene, STEPS), scene.train, scene.test_images, TrainSettings())

"""What a radiance field's cube is spared: places out of sight, near cameras, behind others."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fieldpress.console import Progress
from fieldpress.field_jobs import NerfJob, VqNerfJob, fit_nerf_file
from fieldpress.fields import visibility
from fieldpress.fields.appearance import Appearance
from fieldpress.fields.backdrop import backdrop
from fieldpress.fields.fit_nerf import NerfSettings, NerfTrainer, cube_around, rate_at, turn
from fieldpress.fields.levels import Encoding
from fieldpress.fields.nerf import CELL_SIDE, Samples, march, ray_weights
from fieldpress.fields.occupancy import Occupancy, cell_of, cell_points
from fieldpress.fields.visibility import NEAR, Shown, far_enough, seen_cells
from fieldpress.scenes.cameras import Scene

ENCODING = Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6)
SETTINGS = NerfSettings(ENCODING, neurons=16, steps=60, rays=128, rate=0.02)


def test_cells_have_the_numbers_of_their_places() -> None:
    cells = torch.tensor([0, 1, CELL_SIDE, CELL_SIDE**2 + 5, CELL_SIDE**3 - 1])
    assert torch.equal(cell_of(cell_points(cells, torch.Generator().manual_seed(0))), cells)
    assert int(cell_of(torch.ones(1, 3))) == CELL_SIDE**3 - 1


def test_seen_cells_are_those_that_two_pictures_show(ball: Callable[..., Scene]) -> None:
    cameras, rng = ball().train, torch.Generator().manual_seed(0)
    low, edge = (-3.0, -3.5, -2.5), 6.0  # With cameras in it.
    seen = seen_cells(cameras, low, edge)
    assert 0.01 < float(seen.float().mean()) < 0.99
    for cell in torch.randint(CELL_SIDE**3, (400,), generator=rng).tolist():
        index = torch.tensor(
            [cell % CELL_SIDE, cell // CELL_SIDE % CELL_SIDE, cell // CELL_SIDE**2]
        )
        middle = torch.tensor(low) + edge / CELL_SIDE * (index + 0.5)
        count = {-1: 0, 1: 0}  # A cell less, and more, at the pictures' borders.
        for viewmat, K in zip(cameras.viewmats, cameras.Ks, strict=True):
            at = viewmat[:3, :3] @ middle + viewmat[:3, 3]
            if at[2] <= NEAR * edge:
                continue
            u, v = (K @ at / at[2])[:2]
            for sign in count:
                room = sign * 1.01 * float(K[0, 0] / at[2]) * edge / CELL_SIDE
                across = -room < u < cameras.width + room
                count[sign] += bool(across and -room < v < cameras.height + room)
        if count[-1] >= 2:
            assert seen[cell]
        if count[1] < 2:
            assert not seen[cell]
    assert seen_cells(cameras[:1], low, edge).any()


def test_what_is_forbidden_stays_empty() -> None:
    occupancy, rng = Occupancy(), torch.Generator().manual_seed(0)
    some = torch.arange(CELL_SIDE**3) % 3 == 0
    occupancy.keep_to(some)
    assert torch.equal(occupancy.cells, some)
    occupancy.look(lambda points: torch.full((len(points),), 8.0), rng, everywhere=True)
    assert torch.equal(occupancy.cells, some)
    occupancy.keep_to(torch.arange(CELL_SIDE**3) % 2 == 0)
    assert torch.equal(occupancy.cells, torch.arange(CELL_SIDE**3) % 6 == 0)


def test_what_lies_behind_a_wall_is_not_shown() -> None:
    origins, rays_d = torch.tensor([[0.5, 0.5, -1.0]]), torch.tensor([[0.0, 0.0, 1.0]])
    found = march(origins, rays_d, torch.ones(CELL_SIDE**3, dtype=torch.bool), torch.tensor([0.5]))
    z = found.points[:, 2]
    sigmas = torch.where(z > 0.25, 800.0, 0.0)
    shown = Shown()
    shown.add(found, ray_weights(sigmas, found, 1), 1)
    kept = shown.cells[cell_of(found.points)]
    beside = 2.5 / CELL_SIDE  # Neighbours of what is seen stay.
    assert kept[(z > 0.25) & (z < 0.27)].all()
    assert not kept[(z < 0.25 - beside) | (z > 0.27 + beside)].any()
    assert shown.rays == 1
    assert not shown.enough
    assert not Shown().cells.any()


def test_gradients_fade_towards_cameras(
    ball: Callable[..., Scene], monkeypatch: pytest.MonkeyPatch
) -> None:
    origins = torch.tensor([[0.0, 0, 0], [0.5, 0.5, 0.5]])
    samples = Samples(
        torch.tensor([[0.2, 0, 0], [0.9, 0, 0], [0.5, 0.5, 0.4]]), torch.tensor([0, 0, 1])
    )
    torch.testing.assert_close(far_enough(samples, origins), torch.tensor([0.25, 1.0, 0.0625]))
    slopes = []
    for full in (1e-6, 1e6):
        monkeypatch.setattr(visibility, "FULL", full)
        trainer = NerfTrainer(ball(), SETTINGS)
        drawn = trainer.draw()
        traced = trainer.trace(drawn.origins, drawn.rays_d)
        traced.values.sum().backward()
        assert traced.features.grad is not None
        slopes.append((traced.values.detach(), traced.features.grad, trainer, drawn))
    (seen, plain, trainer, drawn), (same, faded, *_) = slopes
    assert torch.equal(seen, same)  # Only gradients change.
    jitter = torch.Generator().manual_seed(SETTINGS.seed + 1)
    torch.randint(len(trainer._colors), (SETTINGS.rays,), generator=jitter)
    found = march(
        drawn.origins, drawn.rays_d, trainer.cells, torch.rand(SETTINGS.rays, generator=jitter)
    )
    torch.testing.assert_close(
        faded,
        plain * far_enough(found, drawn.origins),
        rtol=1e-3,
        atol=1e-4 * float(faded.abs().max()),
    )


def test_hidden_cells_are_given_up_and_stay_so(ball: Callable[..., Scene]) -> None:
    trainer = NerfTrainer(ball(), SETTINGS)
    for _ in range(SETTINGS.steps):
        trainer.step(SETTINGS.rate)
    trainer.look(everywhere=True)
    before = trainer.cells
    trainer.hide()
    assert 0 < int(trainer.cells.sum()) < int(before.sum())
    kept = trainer.cells
    assert not (kept & ~before).any()
    trainer.look(everywhere=True)
    assert not (trainer.cells & ~trainer._occupancy.allowed).any()


def test_a_transparent_photograph_is_met_by_as_transparent_a_ray() -> None:
    rng = torch.Generator().manual_seed(0)
    alpha = torch.rand(50, generator=rng)
    photo = alpha[:, None] * torch.rand(50, 3, generator=rng)
    values, view = torch.cat([photo, alpha[:, None]], 1), torch.zeros(50, dtype=torch.int64)
    random = Appearance("random", 1, False)
    torch.testing.assert_close(random.seen(values, view, rng, alpha), photo)
    assert float((random.seen(values, view, rng) - photo).abs().max()) > 0.1
    opaque = torch.cat([photo, torch.ones(50, 1)], 1)
    assert float((random.seen(opaque, view, rng, alpha) - photo).abs().max()) > 0.1
    torch.testing.assert_close(random.seen(opaque, view, rng, torch.ones(50)), photo)


def test_rays_come_with_the_alpha_of_their_pixels(ball: Callable[..., Scene]) -> None:
    given = ball()
    assert given.train_images is not None
    masked = replace(given, train_masks=given.train_images.amax(3))
    drawn = NerfTrainer(masked, replace(SETTINGS, background="random", alpha=True)).draw()
    assert drawn.alpha is not None
    torch.testing.assert_close(drawn.alpha, drawn.colors.amax(1))
    assert NerfTrainer(masked, SETTINGS).draw().alpha is None
    with pytest.raises(ValueError, match=r"^alpha: expected a random background, got 'black'"):
        replace(SETTINGS, alpha=True)


def test_the_background_is_what_photographs_show(ball: Callable[..., Scene]) -> None:
    given = ball()
    assert given.train_images is not None
    images = given.train_images
    white = replace(given, train_images=1 - images * (images < 0.02) - (images >= 0.02) * 0.5)
    place = replace(given, train_images=images * 0.5 + 0.25)
    masked = replace(given, train_masks=(images.amax(3) > 0.02).float())
    opaque = replace(place, train_masks=torch.ones_like(images[..., 0]))
    for scene, found, wanted, alpha in [
        (given, "black", "black", False), (white, "white", "white", False),
        (place, None, "random", False), (opaque, None, "random", True),
        (masked, "clear", "random", True),
    ]:  # fmt: skip
        assert backdrop(scene, alpha=True) == found
        settings = NerfJob().settings(scene)
        assert (settings.background, settings.alpha) == (wanted, alpha)
    assert backdrop(masked) == "black"
    assert NerfJob(background="white").settings(masked).background == "white"
    assert VqNerfJob().vq_settings().nerf.background == "black"
    with pytest.raises(ValueError, match="background, exposure"):
        VqNerfJob(background="random")
    assert cube_around(place)[1] == pytest.approx(2.5 / 0.75 * cube_around(given)[1])


def test_the_rate_rises_then_falls() -> None:
    for steps, rising in ((10, 2), (1000, 100)):
        rates = [rate_at(i, replace(SETTINGS, steps=steps)) for i in range(steps)]
        assert max(range(steps), key=rates.__getitem__) in range(rising - 1, rising + 1)
        assert rates[0] == pytest.approx(SETTINGS.rate / rising, rel=0.01)
        assert rates[-1] < 0.1 * SETTINGS.rate
    assert rate_at(0, replace(SETTINGS, steps=1)) == pytest.approx(SETTINGS.rate)


def test_no_rounding_is_sought_in_a_haze() -> None:
    assert [turn(n) for n in (10, 160, 1000, 5000)] == [5, 80, 200, 1000]


def test_a_capture_with_alpha_is_fitted_before_nothing(
    ball: Callable[..., Scene], tmp_path: Path
) -> None:
    given, frames = ball(), []
    assert given.train_images is not None
    assert given.test_images is not None
    order = [(given.test, given.test_images, 0)]  # Of sorted names, 0 and 8 are test views.
    order += [(given.train, given.train_images, i) for i in range(7)]
    order += [(given.test, given.test_images, 1), (given.train, given.train_images, 7)]
    flip = torch.diag(torch.tensor([1.0, -1, -1, 1]))
    for name, (cameras, images, i) in enumerate(order):
        alpha = (images[i].amax(2, keepdim=True) > 0.02).float()
        pixels = (255 * torch.cat([images[i], alpha], 2)).round().byte().numpy()
        Image.fromarray(np.ascontiguousarray(pixels)).save(tmp_path / f"{name}.png")
        pose = (cameras.viewmats[i].inverse() @ flip).tolist()
        frames.append({"file_path": f"{name}.png", "transform_matrix": pose})
    focal = float(given.train.Ks[0, 0, 0])
    capture = {"w": 24, "h": 24, "fl_x": focal, "cx": 12, "cy": 12, "frames": frames}
    (tmp_path / "transforms.json").write_text(json.dumps(capture))
    job = NerfJob(log2_hashmap_size=9, steps=100, rays=256)
    found = fit_nerf_file(
        str(tmp_path), str(tmp_path / "x.fpz"), job, downscale=1, progress=Progress()
    )
    assert found["psnr_unrounded"] > 12.5  # Black has 10, and so has random without alpha.

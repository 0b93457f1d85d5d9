import pytest
import torch

from fieldpress.scenes import synthesise as synthesise_module
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import look_at, orbit, pinhole
from fieldpress.scenes.synthesise import find_core, synthesise_cameras

SIZE = {"width": 64, "height": 48}


@pytest.fixture(autouse=True)
def few_samples(monkeypatch):
    monkeypatch.setattr(synthesise_module, "SAMPLES", 5000)  # Enough for small scenes.


def ball(count: int = 3000, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    points = torch.randn(count, 3, generator=generator)
    points = torch.nn.functional.normalize(points, dim=1)
    return points * torch.rand(count, 1, generator=generator) ** (1 / 3)


def synthesise(points: torch.Tensor, **options) -> tuple[Cameras, Cameras]:
    n = len(points)
    return synthesise_cameras(points, torch.ones(n), torch.full((n,), 0.03), **SIZE, **options)


def check(cameras: Cameras, count: int) -> None:
    assert len(cameras) == count
    assert torch.isfinite(cameras.viewmats).all()
    rotation = cameras.viewmats[:, :3, :3]
    torch.testing.assert_close(
        rotation @ rotation.transpose(1, 2), torch.eye(3).expand(count, 3, 3), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(torch.linalg.det(rotation), torch.ones(count))


def test_a_point_looked_at_lands_in_the_middle_and_up_is_up():
    viewmat = look_at([[1.0, 2.0, 3.0]], [4.0, -1.0, 5.0])[0]
    K = pinhole(1, 64, 48)[0]
    seen = K @ (viewmat[:3, :3] @ torch.tensor([4.0, -1.0, 5.0]) + viewmat[:3, 3])
    torch.testing.assert_close(seen[:2] / seen[2], torch.tensor([32.0, 24.0]), atol=1e-4, rtol=0)
    assert seen[2] > 0
    above = viewmat[:3, :3] @ torch.tensor([4.0, -2.0, 5.0]) + viewmat[:3, 3]
    assert above[1] < 0  # The image's rows grow downwards.


@pytest.mark.parametrize("direction", [[0.0, -1.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
def test_looking_along_up_or_nowhere_is_still_a_rotation(direction):
    check(Cameras(look_at([[0.0, 0.0, 0.0]], direction), pinhole(1, 8, 8), 8, 8), 1)


def test_an_orbit_keeps_its_distance():
    cameras = orbit([1.0, 2.0, 3.0], 5.0, 7, **SIZE)
    check(cameras, 7)
    distance = (cameras.positions - torch.tensor([1.0, 2.0, 3.0])).norm(dim=1)
    torch.testing.assert_close(distance, torch.full((7,), 5.0))


@pytest.mark.parametrize("count", [0, 1, 2, 40])
def test_degenerate_scenes_get_valid_cameras(count):
    points = torch.full((count, 3), 7.0)
    for size in (0.0, 0.5):
        sizes = torch.full((count,), size)
        train, held = synthesise_cameras(points, torch.ones(count), sizes, count=6, **SIZE)
        check(train, 6)
        check(held, 2)
    if count:
        assert ((train.positions - 7.0).norm(dim=1) > 0).all()


def test_the_seed_decides_and_held_out_views_are_others():
    first, held = synthesise(ball(), count=12, seed=3)
    again, _ = synthesise(ball(), count=12, seed=3)
    other, _ = synthesise(ball(), count=12, seed=4)
    assert torch.equal(first.viewmats, again.viewmats)
    assert not torch.equal(first.viewmats, other.viewmats)
    check(held, 3)
    gap = torch.cdist(held.viewmats.flatten(1), first.viewmats.flatten(1))
    assert gap.min() > 1e-3


def test_outliers_and_rubbish_do_not_move_the_core():
    clean = ball()
    rubbish = torch.tensor([[float("nan"), 0, 0], [float("inf"), 1, 2], [3e38, 0, 0]])
    points = torch.cat([clean, torch.full((60, 3), 1e6), rubbish])
    expected = find_core(clean, torch.ones(len(clean)), torch.full((len(clean),), 0.03))
    got = find_core(points, torch.ones(len(points)), torch.full((len(points),), 0.03))
    assert abs(expected.center - got.center).max() < 0.15
    assert got.radius == pytest.approx(expected.radius, rel=0.1)
    check(synthesise(points, count=8)[0], 8)


def test_the_ball_fills_the_picture_and_cameras_stay_outside():
    train, held = synthesise(ball(), count=16)
    for cameras in (train, held):
        assert (cameras.positions.norm(dim=1) > 1.05).all()
        depth = cameras.viewmats[:, 2, 3]  # Of the world's origin.
        pixels = cameras.Ks[:, 0, 0] / depth * 2
        assert (pixels > 0.6 * SIZE["height"]).all()


def with_veil(height: float) -> tuple[torch.Tensor, ...]:
    """A flat, finely printed sheet at y = 0, and a few huge soft splats at y = `height`."""
    generator = torch.Generator().manual_seed(2)
    sheet = (torch.rand(4000, 3, generator=generator) * 2 - 1) * torch.tensor([1.0, 0.02, 1.0])
    veil = (torch.rand(40, 3, generator=generator) - 0.5) * torch.tensor([2.0, 0.1, 2.0])
    points = torch.cat([sheet, veil + torch.tensor([0, height, 0])])
    sizes = torch.cat([torch.full((4000,), 0.02), torch.full((40,), 0.6)])
    return points, 0.8 * sizes**2, sizes


@pytest.mark.parametrize("height", [-0.5, 0.5])
def test_no_camera_stands_behind_a_veil(height):
    train, _ = synthesise_cameras(*with_veil(height), count=12, **SIZE)
    seen_from = train.positions[:, 1].sign()
    assert (seen_from == -torch.tensor(height).sign()).float().mean() > 0.8


def test_a_furnished_room_is_seen_from_within(monkeypatch):
    monkeypatch.setattr(synthesise_module, "SAMPLES", 24_000)
    generator = torch.Generator().manual_seed(1)
    walls = torch.rand(6000, 3, generator=generator) * 2 - 1
    side = torch.randint(0, 3, (6000,), generator=generator)
    walls[torch.arange(6000), side] = walls[torch.arange(6000), side].sign()
    furniture = torch.rand(6000, 3, generator=generator) - 0.5 + torch.tensor([0.4, 0.5, 0.4])
    points = torch.cat([walls, furniture]) * torch.tensor([2.0, 1.0, 2.0])
    n = len(points)
    train, _ = synthesise_cameras(points, torch.ones(n), torch.full((n,), 0.06), count=12, **SIZE)
    inside = (train.positions.abs() < torch.tensor([2.0, 1.0, 2.0])).all(1)
    assert inside.float().mean() > 0.7


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="count"):
        synthesise(ball(10), count=0)
    with pytest.raises(ValueError, match="weights"):
        synthesise_cameras(torch.zeros(3, 3), torch.ones(2), torch.ones(3), **SIZE)
    with pytest.raises(ValueError, match="radius"):
        orbit([0, 0, 0], 0.0, 3, **SIZE)

import pytest
import torch

from fieldpress.gaussians.from_surface import facing, fit_sh, from_surface, refine_colors
from fieldpress.render.sh import sh_colors
from fieldpress.scenes.metrics import psnr
from fieldpress.scenes.synthetic import capture, save_capture
from fieldpress.scenes.transforms_json import read_transforms


@pytest.fixture(scope="module")
def small():
    return capture(seed=1, views=9, width=64, height=48, samples=6000)


def test_a_capture_has_photographs_worth_compressing(small):
    scene, _ = small
    assert (len(scene.train), len(scene.test)) == (7, 2)
    images = torch.cat([scene.train_images, scene.test_images])
    assert images.shape == (9, 48, 64, 3)
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.1
    # No two views are alike, and none is blank.
    assert images.flatten(1).std(dim=1).min() > 0.05
    assert torch.pdist(images.flatten(1)).min() > 1


def test_the_seed_decides():
    again, other = (capture(seed, 2, 16, 12, 300)[0] for seed in (1, 2))
    assert torch.equal(again.test_images, capture(1, 2, 16, 12, 300)[0].test_images)
    assert not torch.equal(again.test_images, other.test_images)


def test_samples_lie_where_the_photographs_say(small):
    """A sample that nothing hides has, in a photograph, nearly the colour it says it has."""
    scene, surface = small
    torch.testing.assert_close(surface.normals.norm(dim=1), torch.ones(len(surface.points)))
    assert ((surface.toward * surface.normals[:, None]).sum(-1) > -1e-4).all()
    assert surface.spacing.min() > 0
    assert len(surface.points) == pytest.approx(6000, rel=0.3)
    assert surface.colors.min() >= 0
    assert surface.colors.max() <= 1
    local = surface.points @ scene.train.viewmats[3, :3, :3].T + scene.train.viewmats[3, :3, 3]
    pixel = local[:, :2] / local[:, 2:] * scene.train.Ks[3, 0, 0] + scene.train.Ks[3, :2, 2]
    shown = (local[:, 2] > 0) & (pixel > 0).all(1) & (pixel < torch.tensor([64, 48])).all(1)
    assert shown.float().mean() > 0.3
    column, row = pixel[shown].long().unbind(1)
    error = (scene.train_images[3][row, column] - surface.colors[shown].mean(1)).abs().mean(1)
    assert error.median() < 0.12


def test_a_saved_capture_is_read_back(small, tmp_path):
    pytest.importorskip("PIL")
    scene, _ = small
    save_capture(scene, tmp_path)
    loaded = read_transforms(tmp_path)
    for split in ("train", "test"):
        ours, theirs = getattr(scene, split), getattr(loaded, split)
        torch.testing.assert_close(theirs.viewmats, ours.viewmats, atol=1e-5, rtol=0)
        torch.testing.assert_close(theirs.Ks, ours.Ks)
        images = getattr(loaded, f"{split}_images") - getattr(scene, f"{split}_images")
        assert images.abs().max() < 0.6 / 255


def test_gaussians_from_the_surfaces_look_like_the_photographs(small):
    scene, surface = small
    model = from_surface(surface)
    assert len(model) == len(surface.points)
    before = psnr(model.render(scene.train), scene.train_images).mean()
    refined = refine_colors(model, scene.train, scene.train_images)
    after = psnr(refined.render(scene.train), scene.train_images).mean()
    assert before > 16  # Few samples, few photographs; the demo's are far better.
    assert after > before + 0.3
    assert torch.equal(refined.means, model.means)


def test_spherical_harmonics_are_recovered():
    generator = torch.Generator().manual_seed(0)
    toward = torch.nn.functional.normalize(torch.randn(5, 60, 3, generator=generator), dim=-1)
    wanted = 0.03 * torch.randn(5, 16, 3, generator=generator)
    colors = sh_colors(3, -toward, wanted[:, None].expand(5, 60, 16, 3))
    got = fit_sh(toward, colors, 3)
    again = sh_colors(3, -toward, got[:, None].expand(5, 60, 16, 3))
    assert (again - colors).std() < 0.2 * colors.std()  # The ridge takes a little.
    assert fit_sh(toward[:0], colors[:0], 3).shape == (0, 16, 3)


def test_quaternions_turn_z_onto_the_normal():
    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(200, 3, generator=generator), dim=1)
    normals = torch.cat([normals, torch.tensor([[0, 0, 1.0], [0, 0, -1.0]])])
    w, x, y, z = facing(normals, torch.rand(202, generator=generator) * 6).unbind(1)
    turned = torch.stack([2 * (x * z + w * y), 2 * (y * z - w * x), w * w - x * x - y * y + z * z])
    torch.testing.assert_close(turned.T, normals, atol=1e-5, rtol=0)


def test_arguments_are_checked(small):
    scene, surface = small
    with pytest.raises(ValueError, match="views"):
        capture(views=1)
    with pytest.raises(ValueError, match="photos: expected"):
        refine_colors(from_surface(surface), scene.train, scene.test_images)

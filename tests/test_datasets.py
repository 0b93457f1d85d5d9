import warnings

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.scenes.camera_file import read_cameras
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.photos import area_average


@given(
    sizes=st.tuples(*[st.integers(1, 40)] * 4),
    seed=st.integers(0, 2**31),
)
def test_area_averages_keep_the_mean_and_constants(sizes, seed):
    rows, columns, height, width = sizes
    pixels = torch.rand(rows, columns, 2, generator=torch.Generator().manual_seed(seed))
    small = area_average(pixels, height, width)
    assert small.shape == (height, width, 2)
    torch.testing.assert_close(small.mean((0, 1)), pixels.mean((0, 1)), atol=1e-5, rtol=0)
    flat = area_average(torch.full((rows, columns, 1), 0.7), height, width)
    torch.testing.assert_close(flat, torch.full((height, width, 1), 0.7), atol=1e-5, rtol=0)


def test_area_averages_of_cut_pixels():
    row = torch.tensor([0.0, 10, 20, 30, 40])[None, :, None]
    halves = area_average(row, 1, 2)[0, :, 0]
    assert halves.tolist() == pytest.approx([(0 + 10 + 20 / 2) / 2.5, (20 / 2 + 30 + 40) / 2.5])
    image = torch.arange(48).reshape(4, 12, 1).byte()
    whole = image.float().reshape(2, 2, 4, 3).mean((1, 3))
    torch.testing.assert_close(area_average(image, 2, 4)[..., 0], whole)


@pytest.fixture
def multiview(data_dir):
    folder = data_dir / "multiview"
    if not (folder / "fox").is_dir() or not (folder / "snowmiku").is_dir():
        pytest.skip(f"{folder} has no fox and snowmiku")
    pytest.importorskip("PIL.Image", reason="photographs need pillow")
    return folder


@pytest.mark.parametrize(
    ("name", "downscale", "size", "split", "points"),
    [
        ("fox", 2, (270, 480), (43, 7), 12051),
        ("snowmiku", 2.5, (396, 296), (84, 13), 25784),
        ("fox-tiny", 1, (135, 240), (21, 4), 3000),
    ],
)
def test_both_readers_give_the_same_scene(multiview, name, downscale, size, split, points):
    ours = read_scene(multiview / name, downscale=downscale)
    theirs = read_scene(multiview / name / "transforms.json", downscale=downscale)
    assert (ours.train.width, ours.train.height) == size
    assert (len(ours.train), len(ours.test)) == split
    for part in ("train", "test"):
        cameras, others = getattr(ours, part), getattr(theirs, part)
        torch.testing.assert_close(cameras.viewmats, others.viewmats, atol=1e-5, rtol=0)
        torch.testing.assert_close(cameras.Ks, others.Ks, atol=0, rtol=1e-6)
        assert getattr(ours, f"{part}_names") == getattr(theirs, f"{part}_names")
        assert torch.equal(getattr(ours, f"{part}_images"), getattr(theirs, f"{part}_images"))
        assert getattr(ours, f"{part}_images").std() > 0.1
    assert ours.points.shape == ours.colors.shape == (points, 3)
    assert torch.equal(ours.points, theirs.points)
    assert torch.equal(ours.colors, theirs.colors)


def test_points_lie_before_the_cameras_that_see_them(multiview):
    scene = read_scene(multiview / "fox", downscale=8)
    rotation, shift = scene.train.viewmats[:, :3, :3], scene.train.viewmats[:, :3, 3]
    seen = torch.einsum("cij,pj->cpi", rotation, scene.points) + shift[:, None]
    pixels = torch.einsum("cij,cpj->cpi", scene.train.Ks, seen)
    pixels = pixels[..., :2] / pixels[..., 2:]
    size = torch.tensor([scene.train.width, scene.train.height])
    inside = (seen[..., 2] > 0) & ((pixels > 0) & (pixels < size)).all(-1)
    assert (inside.sum(0) >= 2).float().mean() > 0.95
    # Where a point lands, the photographs have its color: axes, intrinsics and files belong
    # together.
    at = pixels.long().clamp(min=0).minimum(size - 1)
    views = torch.arange(len(at))[:, None].expand(at.shape[:2])
    found = scene.train_images[views, at[..., 1], at[..., 0]]
    near = (found - scene.colors).abs().mean(-1)[inside].median()
    other = (found - scene.colors.flip(0)).abs().mean(-1)[inside].median()
    assert near < 0.7 * other


def test_instant_ngps_own_file_is_undistorted(multiview):
    file = multiview / "fox" / "transforms.original.json"
    if not file.exists():
        pytest.skip(f"{file} is not there")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # It names photographs that were left out of the set.
        scene = read_scene(file, downscale=4)
    whole = read_scene(multiview / "fox", downscale=4)
    assert scene.train_names == whole.train_names
    torch.testing.assert_close(scene.train.viewmats, whole.train.viewmats, atol=1e-4, rtol=0)
    assert scene.train.width < whole.train.width
    torch.testing.assert_close(scene.train.Ks[:, 0, 0], whole.train.Ks[:, 0, 0], atol=0.5, rtol=0)


def test_blenders_photographs_keep_their_alpha_on_request(data_dir):
    pytest.importorskip("PIL.Image", reason="photographs need pillow")
    folder = data_dir / "multiview" / "lego-nerf-synthetic"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    black = read_scene(folder, downscale=4)
    white = read_scene(folder, downscale=4, background=1.0, masks="alpha")
    assert (white.train.width, white.train.height) == (100, 100)
    assert (len(white.train), len(white.test)) == (43, 7)
    assert black.train_masks is None
    assert white.train.Ks[0, 0, 0] == pytest.approx(555.5555 / 4, rel=1e-5)
    through = (1 - white.train_masks)[..., None].expand_as(white.train_images)
    torch.testing.assert_close(white.train_images - black.train_images, through, atol=1e-5, rtol=0)
    assert 0.2 < white.train_masks.mean() < 0.5


def test_cameras_alone_are_those_of_the_scene(multiview):
    scene = read_scene(multiview / "fox-tiny")
    for path in ("sparse/0", "transforms.json", "."):
        cameras = read_cameras(multiview / "fox-tiny" / path)
        assert len(cameras) == len(scene.train) + len(scene.test)
        assert (cameras.width, cameras.height) == (scene.train.width, scene.train.height)
        for viewmat in scene.test.viewmats:
            distance = (cameras.viewmats - viewmat).abs().amax((1, 2))
            assert distance.min() < 1e-5
        torch.testing.assert_close(cameras.Ks[0], scene.train.Ks[0])


def test_what_is_no_dataset(tmp_path):
    with pytest.raises(ValueError, match=r"expected sparse/0, transforms\.json") as caught:
        read_scene(tmp_path)
    assert str(tmp_path) in str(caught.value)
    with pytest.raises(FileNotFoundError, match="nowhere"):
        read_scene(tmp_path / "nowhere")
    np.save(tmp_path / "other.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"other\.npy"):
        read_scene(tmp_path / "other.npy")

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit
from fieldpress.scenes.photos import ReadOptions
from fieldpress.scenes.transforms_json import read_transforms, write_transforms
from fieldpress.scenes.undistort import undistort_points

Image = pytest.importorskip("PIL.Image")

VIEWS = 10


def write_scene(folder: Path, cameras: Cameras, mode: str = "RGB") -> list[str]:
    (folder / "images").mkdir()
    names = [f"images/{i:02d}.png" for i in range(len(cameras))]
    for i, name in enumerate(names):
        pixels = np.full((cameras.height, cameras.width, len(mode)), 20 * i, np.uint8)
        if mode == "RGBA":
            pixels[..., 3] = 51  # One fifth opaque.
        Image.fromarray(pixels, mode).save(folder / name)
    write_transforms(folder / "transforms.json", cameras, names)
    return names


@pytest.fixture
def cameras() -> Cameras:
    return orbit([0.5, 1.0, -2.0], 3.0, VIEWS, width=20, height=12, elevation=30)


def edit(folder: Path, **changes) -> None:
    file = folder / "transforms.json"
    meta = json.loads(file.read_text())
    meta.update(changes)
    file.write_text(json.dumps(meta))


def test_what_was_written_is_read_back_and_every_eighth_is_a_test_view(tmp_path, cameras):
    write_scene(tmp_path, cameras)
    scene = read_transforms(tmp_path)
    test = [0, 8]
    train = [i for i in range(VIEWS) if i not in test]
    for got, index in ((scene.test, test), (scene.train, train)):
        torch.testing.assert_close(got.viewmats, cameras.viewmats[index], atol=1e-5, rtol=0)
        torch.testing.assert_close(got.Ks, cameras.Ks[index])
        assert (got.width, got.height) == (20, 12)
    assert scene.test_images.shape == (2, 12, 20, 3)
    assert scene.test_images[1, 0, 0].tolist() == pytest.approx([160 / 255] * 3)
    assert scene.name == tmp_path.name


def test_a_known_opengl_pose_becomes_an_opencv_one(tmp_path, cameras):
    write_scene(tmp_path, cameras[0:1])
    # NeRF's identity camera stands at the origin and looks along -z with y up.
    pose = [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 5], [0, 0, 0, 1]]
    edit(tmp_path, frames=[{"file_path": "images/00.png", "transform_matrix": pose}])
    edit(tmp_path, fl_x=10, camera_angle_x=1.0)
    view = read_transforms(tmp_path).test
    point = view.viewmats[0] @ torch.tensor([1.0, 2.0, 0.0, 1.0])
    assert point.tolist() == pytest.approx([1.0, -2.0, 5.0, 1.0])
    assert view.Ks[0].tolist() == [[10.0, 0, 10], [0, 10.0, 6], [0, 0, 1]]


def test_angle_and_foreign_sizes_scale_the_intrinsics(tmp_path, cameras):
    write_scene(tmp_path, cameras)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames = [{k: f[k] for k in ("file_path", "transform_matrix")} for f in frames]
    angle = 2 * math.atan(0.5)
    (tmp_path / "transforms.json").write_text(
        json.dumps({"camera_angle_x": angle, "w": 40, "h": 24, "frames": frames})
    )
    assert read_transforms(tmp_path).train.Ks[0, 0, 0] == pytest.approx(20.0)
    half = read_transforms(tmp_path / "transforms.json", ReadOptions(downscale=2))
    assert (half.train.width, half.train.height) == (10, 6)
    assert half.train.Ks[0, :2].flatten().tolist() == pytest.approx([10, 0, 5, 0, 10, 3])
    assert half.train_images.shape == (8, 6, 10, 3)


def test_transparent_photographs_are_laid_over_the_background(tmp_path, cameras):
    write_scene(tmp_path, cameras, "RGBA")
    black = read_transforms(tmp_path).test_images[1, 0, 0]
    white = read_transforms(tmp_path, ReadOptions(background=1.0)).test_images[1, 0, 0]
    assert black.tolist() == pytest.approx([160 / 255 / 5] * 3)
    assert (white - black).tolist() == pytest.approx([0.8] * 3)


def test_missing_photographs_are_left_out_with_a_count(tmp_path, cameras):
    names = write_scene(tmp_path, cameras)
    for name in names[3:6]:
        (tmp_path / name).unlink()
    with pytest.warns(UserWarning, match="3 of 10 photographs are missing"):
        scene = read_transforms(tmp_path)
    assert len(scene.train) + len(scene.test) == VIEWS - 3
    for name in names[:3] + names[6:]:
        (tmp_path / name).unlink()
    with pytest.raises(ValueError, match="none of its 10 photographs"):
        read_transforms(tmp_path)


def test_blenders_split_and_missing_suffixes(tmp_path, cameras):
    write_scene(tmp_path, cameras)
    meta = json.loads((tmp_path / "transforms.json").read_text())
    for frame in meta["frames"]:
        frame["file_path"] = "./" + frame["file_path"].removesuffix(".png")
    for split, frames in (("train", meta["frames"][:7]), ("test", meta["frames"][7:])):
        (tmp_path / f"transforms_{split}.json").write_text(json.dumps({**meta, "frames": frames}))
    (tmp_path / "transforms.json").unlink()
    scene = read_transforms(tmp_path)
    assert (len(scene.train), len(scene.test)) == (7, 3)
    torch.testing.assert_close(scene.test.viewmats, cameras.viewmats[7:], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k4": 0.05}, "k4: expected 0"),
        ({"k1": math.nan}, "k1: expected a finite number"),
        ({"k1": -5.0}, "lens distortion"),
        ({"is_fisheye": True}, "fisheye"),
        ({"camera_model": "FISHEYE"}, "camera_model"),
        ({"frames": []}, "frames"),
        ({"frames": 3}, "frames"),
        ({"w": -4}, "w -4"),
        ({"h": "tall"}, "h: expected a finite number"),
        ({"frames": [{"file_path": "../secret.png"}]}, "below the file's folder"),
        ({"frames": [{"file_path": "/etc/passwd"}]}, "below the file's folder"),
        ({"frames": [{"file_path": "C:\\x.png"}]}, "below the file's folder"),
        ({"frames": [{"file_path": 7}]}, "expected a file name"),
        ({"frames": [{"file_path": "."}]}, "expected a file name"),
        ({"frames": [{"file_path": "x" * 5000}]}, "expected a file name"),
        ({"frames": [{"file_path": "\ud800"}]}, "expected a file name"),
        ({"ply_file_path": "../x.ply"}, "ply_file_path: expected a path below"),
        ({"frames": [{"file_path": "images/00.png"}]}, "transform_matrix"),
        (
            {"frames": [{"file_path": "images/00.png", "transform_matrix": [[0] * 4] * 4}]},
            "expected a rotation",
        ),
    ],
)
def test_bad_files_end_in_one_clear_line(tmp_path, cameras, change, message):
    write_scene(tmp_path, cameras)
    edit(tmp_path, **change)
    with pytest.raises(ValueError, match=message) as caught:
        read_transforms(tmp_path)
    assert "\n" not in str(caught.value)
    assert "transforms.json" in str(caught.value)


def test_rubbish_and_odd_photographs_are_refused(tmp_path, cameras):
    names = write_scene(tmp_path, cameras)
    Image.new("RGB", (21, 12)).save(tmp_path / names[4])
    with pytest.raises(ValueError, match="expected 20x12 pixels"):
        read_transforms(tmp_path)
    (tmp_path / names[4]).write_bytes(b"\x89PNG\r\n\x1a\nnot really")
    with pytest.raises(ValueError, match=r"04\.png: not (a picture|readable)"):
        read_transforms(tmp_path)
    (tmp_path / "transforms.json").write_bytes(b"\xff{")
    with pytest.raises(ValueError, match="not JSON"):
        read_transforms(tmp_path)
    with pytest.raises(FileNotFoundError):
        read_transforms(tmp_path / "nowhere")


def test_each_frame_may_have_a_lens_and_a_focal_length(tmp_path, cameras):
    names = write_scene(tmp_path, cameras)
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames[3] |= {"fl_x": 40.0, "fl_y": 41.0, "k1": 0.2, "p1": 0.01}
    edit(tmp_path, frames=frames)
    x, y = np.meshgrid((np.arange(20) + 0.5 - 10) / 40, (np.arange(12) + 0.5 - 6) / 41)
    x, _ = undistort_points(x, y, (0.2, 0.0, 0.0, 0.01, 0.0))
    seen = np.repeat((127.5 + 255 * x).round()[..., None], 3, axis=2).astype(np.uint8)
    Image.fromarray(seen).save(tmp_path / names[3])
    scene = read_transforms(tmp_path)
    width, height = scene.train.width, scene.train.height
    assert width * height < 20 * 12
    K = scene.train.Ks[2]
    assert K[:2, :2].tolist() == [[40, 0], [0, 41]]
    assert scene.train.Ks[1, 0, 0] == pytest.approx(cameras.Ks[2, 0, 0])
    expected = (0.5 + (torch.arange(width) + 0.5 - K[0, 2]) / 40).expand(height, -1)
    torch.testing.assert_close(scene.train_images[2, ..., 0], expected, atol=0.005, rtol=0)


def test_masks_are_those_that_frames_name(tmp_path, cameras):
    write_scene(tmp_path, cameras)
    Image.new("L", (20, 12), 51).save(tmp_path / "fifth.png")
    frames = json.loads((tmp_path / "transforms.json").read_text())["frames"]
    frames[2]["mask_path"] = "fifth.png"
    edit(tmp_path, frames=frames)
    scene = read_transforms(tmp_path, ReadOptions(downscale=2))
    assert scene.test_masks is None
    assert scene.train_masks.shape == (8, 6, 10)
    assert scene.train_masks.amax((1, 2)).tolist() == pytest.approx([1, 0.2] + 6 * [1])
    frames[2]["mask_path"] = "sixth.png"
    edit(tmp_path, frames=frames)
    with pytest.raises(ValueError, match=r"frame 2: mask_path: .*sixth\.png is not there"):
        read_transforms(tmp_path)
    assert read_transforms(tmp_path, ReadOptions(masks=False)).train_masks is None


def write_cloud(file: Path, count: int | str = 2, last: str = "3.0 0.5 -1 0 51 255\n") -> None:
    kinds = [("float", name) for name in "xyz"] + [("uchar", c) for c in ("red", "green", "blue")]
    header = ["ply", "format ascii 1.0", f"element vertex {count}"]
    header += [f"property {kind} {name}" for kind, name in kinds]
    file.write_text("\n".join([*header, "end_header", "0 1 2 255 0 102", last]))


def test_points_of_a_cloud(tmp_path, cameras):
    write_scene(tmp_path, cameras)
    edit(tmp_path, ply_file_path="cloud.ply")
    with pytest.raises(ValueError, match=r"ply_file_path: .*cloud\.ply is not there"):
        read_transforms(tmp_path)
    write_cloud(tmp_path / "cloud.ply")
    scene = read_transforms(tmp_path)
    assert scene.points.tolist() == [[0, 1, 2], [3, 0.5, -1]]
    assert scene.colors.flatten().tolist() == pytest.approx([1, 0, 0.4, 0, 0.2, 1])
    for count, last in ((10**12, ""), (3, ""), (2, "nan 0 0 0 0 0\n"), (0, ""), ("x", "")):
        write_cloud(tmp_path / "cloud.ply", count, last)
        with pytest.raises(ValueError, match=r"cloud\.ply: ") as caught:
            read_transforms(tmp_path)
        assert "\n" not in str(caught.value)


def test_points_of_a_sparse_model_beside_it_if_it_is_of_the_same_world(tmp_path, cameras):
    names = write_scene(tmp_path, cameras)
    folder = tmp_path / "sparse" / "0"
    folder.mkdir(parents=True)
    (folder / "cameras.txt").write_text("1 PINHOLE 20 12 20 20 10 6\n")
    # COLMAP's first camera stands at its origin: its world is that camera's frame.
    name = names[0].removeprefix("images/")
    (folder / "images.txt").write_text(f"1 1 0 0 0 0 0 0 1 {name}\n\n")
    (folder / "points3D.txt").write_text("1 0.5 -0.25 2 255 0 0 0.1\n")
    with pytest.warns(UserWarning, match="expected the poses of"):
        assert read_transforms(tmp_path).points is None
    applied = np.linalg.inv(cameras.viewmats[0].double().numpy())[:3]
    edit(tmp_path, applied_transform=applied.tolist())
    scene = read_transforms(tmp_path)
    expected = applied[:, :3] @ [0.5, -0.25, 2] + applied[:, 3]
    assert scene.points[0].tolist() == pytest.approx(expected.tolist(), abs=1e-5)
    assert scene.colors.tolist() == [[1, 0, 0]]
    (folder / "points3D.txt").write_text("1 0.5\n")
    with pytest.warns(UserWarning, match="its points are not used"):
        assert read_transforms(tmp_path).points is None


@pytest.mark.parametrize(
    ("name", "train", "test", "size"),
    [
        ("fox-tiny", 21, 4, (67, 120)),
        ("fox", 43, 7, (270, 480)),
        ("lego-nerf-synthetic", 43, 7, (200, 200)),
    ],
)
def test_real_captures_load(data_dir, name, train, test, size):
    folder = data_dir / "multiview" / name
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    scene = read_transforms(folder, ReadOptions(downscale=2))
    assert (len(scene.train), len(scene.test)) == (train, test)
    assert (scene.train.width, scene.train.height) == size
    images = torch.cat([scene.train_images, scene.test_images])
    assert images.min() >= 0
    assert images.max() <= 1
    assert images.std() > 0.1

"""COLMAP models, written here from the format's description, byte for byte and word for word."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.colmap import colmap_views, read_colmap, read_lenses, read_points
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.photos import ReadOptions
from fieldpress.scenes.undistort import undistort_points

Image = pytest.importorskip("PIL.Image")

WIDTH, HEIGHT, VIEWS = 32, 24, 10
NUMBERS = {"SIMPLE_PINHOLE": 0, "PINHOLE": 1, "SIMPLE_RADIAL": 2, "RADIAL": 3, "OPENCV": 4}
PINHOLE = ("PINHOLE", WIDTH, HEIGHT, [30.0, 31.0, 15.5, 12.5])
POINTS = [([0.5, -1.25, 3.0], [255, 0, 51]), ([1e3, 2.0, -0.125], [1, 2, 3])]


def poses(count: int = VIEWS) -> list[tuple[str, list[float]]]:
    """Names out of order, and w x y z, translation."""
    rng = np.random.default_rng(3)
    quats = rng.normal(size=(count, 4))
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    names = [f"{(7 * i) % count:02d} photo.png" for i in range(count)]
    return [
        (n, [*q, *rng.normal(size=3).tolist()]) for n, q in zip(names, quats.tolist(), strict=True)
    ]


def rotation(w: float, x: float, y: float, z: float) -> np.ndarray:
    """By the sandwich product q v q*, one axis at a time."""
    real, axis = w, np.array([x, y, z])
    columns = []
    for v in np.eye(3):
        t = 2 * np.cross(axis, v)
        columns.append(v + real * t + np.cross(axis, t))
    return np.stack(columns, axis=1)


def cameras_bin(cameras) -> bytes:
    data = struct.pack("<Q", len(cameras))
    for i, (model, width, height, parameters) in enumerate(cameras, start=1):
        data += struct.pack("<iiQQ", i, NUMBERS.get(model, model), width, height)
        data += struct.pack(f"<{len(parameters)}d", *parameters)
    return data


def images_bin(images, camera: int = 1, observations: int = 2) -> bytes:
    data = struct.pack("<Q", len(images))
    for i, (name, pose) in enumerate(images, start=1):
        data += struct.pack("<i7di", i, *pose, camera) + name.encode() + b"\0"
        data += struct.pack("<Q", observations) + struct.pack("<ddq", 1.5, 2.5, -1) * observations
    return data


def points_bin(points) -> bytes:
    data = struct.pack("<Q", len(points))
    for i, (position, color) in enumerate(points):
        data += struct.pack("<Q3d3Bd", i, *position, *color, 0.5)
        data += struct.pack("<Q", i) + struct.pack("<ii", 1, 2) * i
    return data


def write_binary(folder: Path, cameras=(PINHOLE,), images=None, points=POINTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "cameras.bin").write_bytes(cameras_bin(cameras))
    (folder / "images.bin").write_bytes(images_bin(poses() if images is None else images))
    if points is not None:
        (folder / "points3D.bin").write_bytes(points_bin(points))


def write_text(folder: Path, cameras=(PINHOLE,), images=None, points=POINTS) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    lines = ["# Camera list", *(f"{i} {m} {w} {h} {' '.join(map(repr, p))}"
                                for i, (m, w, h, p) in enumerate(cameras, start=1))]  # fmt: skip
    (folder / "cameras.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Image list", "# two lines each"]
    for i, (name, pose) in enumerate(poses() if images is None else images, start=1):
        lines += [f"{i} {' '.join(map(repr, pose))} 1 {name}", "" if i % 2 else "1.5 2.5 -1"]
    (folder / "images.txt").write_text("\n".join(lines) + "\n")
    lines = ["# Points"]
    for i, (position, color) in enumerate(points):
        words = [i, *position, *color, 0.5, *([1, 2] * i)]
        lines.append(" ".join(map(repr, words)))
    (folder / "points3D.txt").write_text("\n".join(lines) + "\n")


def write_photos(folder: Path, images=None, size=(WIDTH, HEIGHT)) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for i, (name, _) in enumerate(sorted(poses() if images is None else images)):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", size, (20 * i, 100, 7)).save(folder / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_binary(tmp_path / "sparse" / "0")
    write_photos(tmp_path / "images")
    return tmp_path


def all_views(scene: Scene) -> tuple[list[str], torch.Tensor]:
    names = [*scene.train_names, *scene.test_names]
    return names, torch.cat([scene.train.viewmats, scene.test.viewmats])


def test_poses_points_and_split_are_the_models(folder):
    scene = read_scene(folder)
    names, viewmats = all_views(scene)
    known = dict(poses())
    assert sorted(names) == sorted(known)
    assert scene.test_names == ("00 photo.png", "08 photo.png")
    for name, viewmat in zip(names, viewmats.double().numpy(), strict=True):
        np.testing.assert_allclose(viewmat[:3, :3], rotation(*known[name][:4]), atol=1e-6)
        np.testing.assert_allclose(viewmat[:3, 3], known[name][4:], atol=1e-6)
    for name, image in zip(scene.train_names, scene.train_images, strict=True):
        assert image[3, 4].tolist() == pytest.approx([20 * int(name[:2]) / 255, 100 / 255, 7 / 255])
    assert scene.train.Ks[2].tolist() == [[30, 0, 15.5], [0, 31, 12.5], [0, 0, 1]]
    assert scene.points.tolist() == [position for position, _ in POINTS]
    torch.testing.assert_close(scene.colors * 255, torch.tensor([c for _, c in POINTS]).float())
    assert scene.name == folder.name
    assert scene.train_masks is None


@pytest.mark.parametrize("place", ["sparse/0", "sparse", "."])
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_text_and_binary_at_any_place_say_the_same(folder, tmp_path_factory, place, write):
    other = tmp_path_factory.mktemp("other")
    write(other / place)
    write_photos(other / "images")
    expected = read_scene(folder)
    for scene in (read_scene(other), read_scene(other / place)):
        assert scene.train_names == expected.train_names
        assert torch.equal(scene.train.viewmats, expected.train.viewmats)
        assert torch.equal(scene.test.Ks, expected.test.Ks)
        assert torch.equal(scene.points, expected.points)
        assert torch.equal(scene.colors, expected.colors)
        assert scene.name == other.name


@pytest.mark.parametrize(
    ("model", "parameters", "focal", "lens"),
    [
        ("SIMPLE_PINHOLE", [30.0, 16, 12], (30, 30), (0, 0, 0, 0, 0)),
        ("PINHOLE", [30.0, 31, 16, 12], (30, 31), (0, 0, 0, 0, 0)),
        ("SIMPLE_RADIAL", [30.0, 16, 12, 0.1], (30, 30), (0.1, 0, 0, 0, 0)),
        ("RADIAL", [30.0, 16, 12, 0.1, 0.2], (30, 30), (0.1, 0.2, 0, 0, 0)),
        ("OPENCV", [30.0, 31, 16, 12, 0.1, 0.2, 0.3, 0.4], (30, 31), (0.1, 0.2, 0, 0.3, 0.4)),
    ],
)
@pytest.mark.parametrize("write", [write_binary, write_text])
def test_parameters_of_every_model(tmp_path, model, parameters, focal, lens, write):
    write(tmp_path, [(model, WIDTH, HEIGHT, [float(p) for p in parameters])])
    camera = read_lenses(tmp_path)[1]
    assert camera.K.tolist() == [[focal[0], 0, 16], [0, focal[1], 12], [0, 0, 1]]
    assert camera.lens == lens
    assert camera.size == (WIDTH, HEIGHT)


def test_a_distorted_photograph_becomes_a_pinholes(tmp_path):
    lens = (0.12, 0.03, 0.0, 0.004, -0.005)
    fx, fy, cx, cy = 60.0, 58.0, 41.0, 28.0
    size = (80, 60)
    u, v = np.meshgrid(np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5)
    x, y = undistort_points((u - cx) / fx, (v - cy) / fy, lens)
    world = np.stack([0.5 + 0.5 * x, 0.5 + 0.5 * y, 0.5 + 0 * x], axis=-1)
    images = poses(2)
    k1, k2, _, p1, p2 = lens
    write_binary(tmp_path, [("OPENCV", *size, [fx, fy, cx, cy, k1, k2, p1, p2])], images)
    for name, _ in images:
        Image.fromarray((world * 255).round().astype(np.uint8)).save(tmp_path / name)
    (tmp_path / "masks").mkdir()
    Image.new("L", size, 255).save(tmp_path / "masks" / f"{images[0][0]}.png")
    for downscale in (1, 2.5):
        scene = read_scene(tmp_path, downscale=downscale)
        width, height = scene.test.width, scene.test.height
        assert (width, height) < (size[0] / downscale, size[1] / downscale)
        (fx_, _, cx_), (_, fy_, cy_), _ = scene.test.Ks[0].tolist()
        u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
        seen = scene.test_images[0].numpy()
        np.testing.assert_allclose(seen[..., 0], 0.5 + 0.5 * (u - cx_) / fx_, atol=0.005)
        np.testing.assert_allclose(seen[..., 1], 0.5 + 0.5 * (v - cy_) / fy_, atol=0.005)
        torch.testing.assert_close(scene.test_masks, torch.ones(1, height, width))


def test_masks_of_some_photographs(folder):
    (folder / "masks").mkdir()
    half = np.zeros((HEIGHT, WIDTH), np.uint8)
    half[:, : WIDTH // 2] = 255
    Image.fromarray(half).save(folder / "masks" / "00 photo.png.png")
    scene = read_scene(folder, downscale=2)
    assert scene.test_masks.shape == (2, HEIGHT // 2, WIDTH // 2)
    assert scene.test_masks[0, 0].tolist() == [1.0] * 8 + [0.0] * 8
    assert scene.test_masks[1].min() == 1
    assert scene.train_masks is None
    assert read_scene(folder, masks=False).test_masks is None
    Image.new("L", (5, 5)).save(folder / "masks" / "00 photo.png.png")
    with pytest.raises(ValueError, match=r"00 photo\.png\.png: expected a mask of 32x24"):
        read_scene(folder)


def test_a_model_without_points(tmp_path):
    for points in (None, []):
        write_binary(tmp_path / "sparse" / "0", points=points)
        write_photos(tmp_path / "images")
        scene = read_scene(tmp_path)
        assert scene.points is None
        assert scene.colors is None


def test_missing_and_odd_photographs(folder):
    (folder / "images" / "03 photo.png").unlink()
    with pytest.warns(UserWarning, match="1 of 10 photographs are missing"):
        assert len(read_scene(folder).train) == 7
    Image.new("RGB", (31, 24)).save(folder / "images" / "03 photo.png")
    with pytest.raises(ValueError, match="different size: expected 32x24") as caught:
        read_scene(folder)
    assert "03 photo.png" in str(caught.value)
    for photo in (folder / "images").iterdir():
        photo.unlink()
    with pytest.raises(ValueError, match=r"images\.bin: none of its 10 photographs is there"):
        read_scene(folder)


def bad_binary() -> dict[str, tuple[str, bytes, str]]:
    bits = struct.pack("<Q", 10**12)
    name, pose = poses()[0]
    nan = [float("nan"), *pose[1:]]
    fisheye = cameras_bin([(5, WIDTH, HEIGHT, [1.0] * 8)])
    return {
        "fisheye": ("cameras.bin", fisheye, "camera model: expected .* got OPENCV_FISHEYE"),
        "model": ("cameras.bin", cameras_bin([(99, 1, 1, [1.0] * 3)]), "got number 99"),
        "focal": ("cameras.bin", cameras_bin([("PINHOLE", 4, 4, [-1.0, 1, 1, 1])]), "focal"),
        "NaN": ("cameras.bin", cameras_bin([("PINHOLE", 4, 4, [np.nan, 1, 1, 1])]), "focal"),
        "size": ("cameras.bin", cameras_bin([("PINHOLE", 0, 4, [1.0, 1, 1, 1])]), "size"),
        "cameras": ("cameras.bin", bits, "claims 1000000000000 cameras"),
        "no camera": ("cameras.bin", cameras_bin([]), "no camera 1"),
        "images": ("images.bin", bits + b"\0" * 500, "claims 1000000000000 images"),
        "none": ("images.bin", images_bin([]), "expected at least one image"),
        "observations": ("images.bin", images_bin([(name, pose)], observations=0)[:-8] + bits,
                         "expected 24000000000000 more bytes"),
        "NaN pose": ("images.bin", images_bin([(name, nan)]), "image 0: expected a unit quat"),
        "far": ("images.bin", images_bin([(name, [*pose[:4], 1e300, 0, 0])]), "float32"),
        "zero": ("images.bin", images_bin([(name, [0.0] * 7)]), "expected a unit quaternion"),
        "up": ("images.bin", images_bin([("../x.png", pose)]), "expected a path below"),
        "root": ("images.bin", images_bin([("/etc/passwd", pose)]), "expected a path below"),
        "unnamed": ("images.bin", images_bin([("", pose)]), "expected a file name"),
        "long": ("images.bin", images_bin([("x" * 5000, pose)]), "expected a file name"),
        "camera 7": ("images.bin", images_bin([(name, pose)], camera=7), "no camera 7"),
        "points": ("points3D.bin", bits, "claims 1000000000000 points"),
        "NaN point": ("points3D.bin", points_bin([([np.nan, 0, 0], [0, 0, 0])]), "finite"),
        "track": ("points3D.bin", points_bin(POINTS[:1])[:-8] + bits, "more bytes"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_binary())
def test_bad_binary_files_end_in_one_line(folder, case):
    name, content, message = bad_binary()[case]
    (folder / "sparse" / "0" / name).write_bytes(content)
    write_photos(folder / "images", [(n, []) for n in ("01 photo.png",)])
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(folder)
    assert "\n" not in str(caught.value)
    assert str(folder) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("cameras.txt", "# x\n1 PINHOLE 32\n", r"cameras\.txt: line 2: expected 8 words, got 3"),
        ("cameras.txt", "\n\n1 FOV 3 3 1 1 1 1 1", r"line 3: camera model: .* got FOV"),
        ("cameras.txt", "1 PINHOLE 3 x 1 1 1 1", "line 1: expected numbers, got '1 3 x'"),
        ("cameras.txt", "1 PINHOLE 3 3 1 1 inf 1", "line 1: expected a size"),
        ("cameras.txt", "1", "line 1: camera model"),
        ("images.txt", "1 1 0 0 0 0 0 0 1\n\n", "line 1: expected 10 words, got 9"),
        ("images.txt", "1 1 0 0 0 0 0 zero 1 a.png\n\n", "line 1: expected numbers"),
        ("images.txt", "# none\n", "expected at least one image"),
        ("images.txt", "1 1 0 0 0 0 0 0 9 a.png\n\n", "no camera 9"),
        ("points3D.txt", "1 0 0 0 1 2\n", "line 1: expected at least 8 words, got 6"),
        ("points3D.txt", "1 0 0 0 1 2 256 0\n", "line 1: expected a color of 0..255"),
        ("points3D.txt", "1 0 0 inf 1 2 25 0\n", "finite"),
        ("points3D.txt", "\xff\xfe", "UTF-8"),
    ],
)
def test_bad_text_files_name_the_line(tmp_path, name, content, message):
    write_text(tmp_path)
    write_photos(tmp_path / "images")
    (tmp_path / name).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(tmp_path)
    assert "\n" not in str(caught.value)


@given(data=st.data())
def test_truncated_and_damaged_models_raise_value_error_only(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "damaged"
    write_binary(folder, images=poses(3))
    file = folder / data.draw(st.sampled_from(["cameras.bin", "images.bin", "points3D.bin"]))
    content = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    cut = len(content) < file.stat().st_size
    file.write_bytes(content)
    message = None
    try:
        colmap_views(folder)
        read_points(folder)
    except ValueError as error:
        message = str(error)
    assert message is not None or not cut
    assert message is None or (str(folder) in message and "\n" not in message)


def test_no_model_is_no_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_colmap(tmp_path)


def test_a_ready_folder_of_smaller_photographs(folder):
    write_photos(folder / "images_4", size=(9, 6))  # Rounded up, as other tools do.
    Image.new("RGB", (9, 6), (255, 255, 255)).save(folder / "images_4" / "00 photo.png")
    scene = read_scene(folder, downscale=4)
    assert (scene.test.width, scene.test.height) == (9, 6)
    assert scene.test_images[0].min() == 1  # It is that folder's.
    expected = [30 * 9 / 32, 0, 15.5 * 9 / 32, 0, 31 / 4, 12.5 / 4]
    assert scene.test.Ks[0, :2].flatten().tolist() == pytest.approx(expected)
    assert read_scene(folder, downscale=2).test.width == 16
    assert read_scene(folder, downscale=2).test_images[0].max() < 1  # Averaged from images.
    write_photos(folder / "images_4", size=(20, 15))  # Not of that scale.
    assert read_scene(folder, downscale=4).test.width == 8


def test_smaller_photographs_alone(folder):
    (folder / "images").rename(folder / "whole")
    write_photos(folder / "images_2", size=(16, 12))
    for downscale, width in ((2, 16), (4, 8), (8, 4)):
        scene = read_scene(folder, downscale=downscale)
        assert scene.test.width == width
        assert scene.test.Ks[0, 0, 0] == pytest.approx(30 / downscale)
    with pytest.raises(ValueError, match="none of its 10"):
        read_scene(folder)


def test_ready_photographs_of_another_suffix(folder):
    write_photos(folder / "images_2", size=(16, 12))
    for photo in sorted((folder / "images_2").iterdir()):
        photo.rename(photo.with_suffix(".PNG"))
    Image.new("RGB", (16, 12), (255, 255, 255)).save(folder / "images_2" / "08 photo.PNG")
    assert read_scene(folder, downscale=2).test_images[1].min() == 1


def test_split_options(folder):
    scene = read_scene(folder, test_every=0)
    assert (len(scene.train), len(scene.test)) == (10, 0)
    assert scene.test_images.shape == (0, HEIGHT, WIDTH, 3)
    assert len(read_scene(folder, test_every=3).test) == 4
    for bad in ({"test_every": -1}, {"downscale": 0.5}, {"downscale": float("nan")},
                {"background": 2.0}, {"masks": "some"}):  # fmt: skip
        with pytest.raises(ValueError, match=next(iter(bad))):
            read_scene(folder, **bad)


@pytest.mark.parametrize("name", ["fox", "snowmiku", "fox-tiny"])
def test_pycolmap_agrees(data_dir, name):
    pycolmap = pytest.importorskip("pycolmap", reason="the peer is pycolmap")
    folder = data_dir / "multiview" / name / "sparse" / "0"
    if not folder.is_dir():
        pytest.skip(f"{folder} is not there")
    theirs = pycolmap.Reconstruction(str(folder))
    images = {image.name: image for image in theirs.images.values()}
    views = colmap_views(folder)
    assert {view.name for view in views} == set(images)
    for view in views:
        pose = images[view.name].cam_from_world().matrix()
        np.testing.assert_allclose(view.viewmat[:3], pose, atol=1e-12)
        camera = theirs.cameras[images[view.name].camera_id]
        np.testing.assert_allclose(view.K, camera.calibration_matrix())
    points, colors = read_points(folder)
    expected = np.array([[*point.xyz, *point.color] for point in theirs.points3D.values()])
    ours = torch.cat([points, colors * 255], dim=1).numpy()
    order, their_order = np.lexsort(ours.T), np.lexsort(expected.astype(np.float32).T)
    np.testing.assert_allclose(ours[order], expected[their_order], rtol=1e-6, atol=1e-5)


def test_options_may_be_left_out(folder):
    assert torch.equal(read_colmap(folder).train_images, read_scene(folder).train_images)
    assert read_colmap(folder, ReadOptions(downscale=2)).train.width == WIDTH // 2

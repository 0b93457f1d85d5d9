import numpy as np
import pytest
import torch

from fieldpress.scenes.camera_file import read_cameras
from fieldpress.scenes.datasets import read_scene
from fieldpress.scenes.orbit import orbit

Image = pytest.importorskip("PIL.Image")

VIEWS, WIDTH, HEIGHT, FOCAL = 9, 20, 12, 17.0


def rows(cameras) -> np.ndarray:
    """LLFF's: columns down, right, back, position, (height, width, focal); then near and far."""
    poses = np.linalg.inv(cameras.viewmats.double().numpy())
    right, down, forward, position = np.moveaxis(poses[:, :3], 2, 0)
    sizes = np.tile([HEIGHT, WIDTH, FOCAL], (len(poses), 1)).astype(float)
    matrices = np.stack([down, right, -forward, position, sizes], axis=2)
    return np.concatenate([matrices.reshape(len(poses), 15), np.full((len(poses), 2), 9.0)], 1)


@pytest.fixture
def cameras():
    return orbit([0.5, 1.0, -2.0], 3.0, VIEWS, width=WIDTH, height=HEIGHT, elevation=30)


@pytest.fixture
def folder(tmp_path, cameras):
    np.save(tmp_path / "poses_bounds.npy", rows(cameras))
    (tmp_path / "images").mkdir()
    for i in range(VIEWS):
        Image.new("RGB", (WIDTH, HEIGHT), (10 * i, 0, 0)).save(tmp_path / "images" / f"IMG_{i}.JPG")
    return tmp_path


def test_poses_and_intrinsics(folder, cameras):
    for path in (folder, folder / "poses_bounds.npy"):
        scene = read_scene(path)
        assert scene.test_names == ("IMG_0.JPG", "IMG_8.JPG")
        torch.testing.assert_close(scene.train.viewmats, cameras.viewmats[1:8], atol=1e-5, rtol=0)
        assert scene.train.Ks[0].tolist() == [[17, 0, 10], [0, 17, 6], [0, 0, 1]]
        assert scene.train_images[3, 0, 0, 0] * 255 == pytest.approx(40, abs=2)
        assert scene.points is None
    alone = read_cameras(folder)
    torch.testing.assert_close(alone.viewmats, cameras.viewmats, atol=1e-5, rtol=0)
    assert (alone.width, alone.height) == (WIDTH, HEIGHT)


def test_ready_folders_are_matched_by_their_place(folder):
    (folder / "images_4").mkdir()
    for i in range(VIEWS):
        Image.new("RGB", (5, 3), (0, 10 * i, 0)).save(folder / "images_4" / f"image{i:03d}.png")
    scene = read_scene(folder, downscale=4)
    assert (scene.test_images[1, 0, 0] * 255).tolist() == pytest.approx([0, 80, 0])
    assert scene.test.Ks[0, 0, 0] == pytest.approx(FOCAL / 4)
    for photo in (folder / "images").iterdir():
        photo.unlink()
    scene = read_scene(folder, downscale=4)
    assert (scene.test_images[1, 0, 0] * 255).tolist() == pytest.approx([0, 80, 0])


def test_a_photograph_too_few(folder):
    (folder / "images" / "IMG_3.JPG").unlink()
    with pytest.raises(ValueError, match=r"poses_bounds\.npy: .* each of its 9 poses, got 8"):
        read_scene(folder)


def bad_files(good: np.ndarray) -> dict[str, tuple[object, str]]:
    header = (
        b"\x93NUMPY\x01\x00v\x00" + b"{'descr': '<f8', 'fortran_order': False, 'shape': (%s, 17), }"
    )
    huge = (header % b"10000000000000").ljust(127) + b"\n" + b"\0" * 160
    nan, flat, tiny = good.copy(), good.copy(), good.copy()
    nan[2, 3] = np.nan
    flat[4, :3] = 0
    tiny[1, 14] = -1
    return {
        "empty": (b"", "not a NumPy array"),
        "text": (b"poses", "not a NumPy array"),
        "claims": (huge, "not a NumPy array"),
        "shape": (good[:, :16], r"expected \[N, 17\] numbers, got \[9, 16\]"),
        "none": (good[:0], r"expected \[N, 17\]"),
        "kind": (good.astype(str), r"expected \[N, 17\]"),
        "object": (good.astype(object), "not a NumPy array"),
        "NaN": (nan, "finite"),
        "rotation": (flat, "pose 4: expected a rotation"),
        "focal": (tiny, "pose 1: expected a size"),
        "far": (good * np.where(np.arange(17) == 3, 1e200, 1), "float32"),
    }  # fmt: skip


@pytest.mark.parametrize("case", bad_files(np.zeros((9, 17))))
def test_bad_files_end_in_one_line(folder, cameras, case):
    content, message = bad_files(rows(cameras))[case]
    file = folder / "poses_bounds.npy"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        np.save(file, content, allow_pickle=True)
    with pytest.raises(ValueError, match=message) as caught:
        read_scene(folder)
    assert "\n" not in str(caught.value)
    assert "poses_bounds.npy" in str(caught.value)


def test_a_header_that_numpy_would_parse_for_seconds_is_refused(tmp_path):
    text = b"{'descr': '<f8', 'fortran_order': False, 'shape': (4, 17), " + b" " * 4000
    (tmp_path / "poses_bounds.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text + bytes(999)
    )
    with pytest.raises(ValueError, match=r"header of at most 512 bytes, got 40\d\d"):
        read_scene(tmp_path)

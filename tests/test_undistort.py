import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fieldpress.scenes.undistort import (
    NO_DISTORTION,
    Lens,
    distort,
    undistort,
    undistort_points,
    valid_rectangle,
)

WIDTH, HEIGHT = 160, 120
K = np.array([[130.0, 0, 83], [0, 125.0, 57], [0, 0, 1]])
PINCUSHION: Lens = (0.08, 0.02, 0.0, 0.002, -0.003)
BARREL: Lens = (-0.15, 0.03, -0.002, -0.001, 0.002)

lenses = st.tuples(
    st.floats(-0.15, 0.3),
    st.floats(-0.02, 0.05),
    st.floats(0, 0.01),
    st.floats(-0.01, 0.01),
    st.floats(-0.01, 0.01),
)


def pixel_centres(left: int, top: int, right: int, bottom: int) -> tuple[np.ndarray, np.ndarray]:
    """Normalised coordinates of the pixels of a rectangle."""
    u, v = np.meshgrid(np.arange(left, right) + 0.5, np.arange(top, bottom) + 0.5)
    return (u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1]


def picture(x: np.ndarray, y: np.ndarray) -> torch.Tensor:
    """A smooth world [H, W, 3], by ray."""
    planes = [np.sin(7 * x + 3 * y), np.cos(5 * y - 2 * x), np.sin(6 * x * y + y)]
    return torch.from_numpy(np.stack(planes, axis=-1) * 0.5 + 0.5).float()


@given(lens=lenses, x=st.floats(-0.6, 0.6), y=st.floats(-0.6, 0.6))
def test_the_inverse_undoes_the_lens(lens, x, y):
    ray = np.array([x]), np.array([y])
    back = undistort_points(*distort(*ray, lens), lens)
    np.testing.assert_allclose(back, ray, atol=1e-8)


def test_a_point_that_no_ray_reaches_is_nan():
    folding = (-0.3, 0.0, 0.0, 0.0, 0.0)  # r - 0.3 r^3 is nowhere more than 0.703.
    x, y = undistort_points(np.array([0.70, 0.71]), np.array([0.0, 0.0]), folding)
    assert np.isfinite(x[0])
    assert x[0] < 1 / np.sqrt(0.9)
    assert np.isnan([x[1], y[1]]).all()


def test_without_distortion_a_photograph_stays_as_it_is():
    assert valid_rectangle([K], [NO_DISTORTION], WIDTH, HEIGHT) == (0, 0, WIDTH, HEIGHT)
    pixels = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(0))
    same = undistort(pixels, K, NO_DISTORTION, (0, 0, WIDTH, HEIGHT))
    torch.testing.assert_close(same, pixels, atol=1e-4, rtol=0)


@pytest.mark.parametrize("lens", [PINCUSHION, BARREL])
def test_the_result_is_what_a_pinhole_would_have_seen(lens):
    photo = picture(*undistort_points(*pixel_centres(0, 0, WIDTH, HEIGHT), lens))
    assert photo.isfinite().all()
    kept = valid_rectangle([K], [lens], WIDTH, HEIGHT)
    straight = undistort(photo, K, lens, kept)
    expected = picture(*pixel_centres(*kept))
    assert straight.shape == expected.shape
    inner = (slice(1, -1), slice(1, -1))  # Half a pixel at the border has one neighbour only.
    assert (straight - expected)[inner].abs().max() < 2e-3
    wrong = undistort(photo, K, NO_DISTORTION, (0, 0, WIDTH, HEIGHT))
    assert (wrong - picture(*pixel_centres(0, 0, WIDTH, HEIGHT))).abs().max() > 0.05


@pytest.mark.parametrize("lens", [PINCUSHION, BARREL])
def test_the_rectangle_is_inside_the_photograph_and_cannot_grow(lens):
    def covered(left, top, right, bottom):
        u, v = np.meshgrid(np.linspace(left, right, 301), np.linspace(top, bottom, 301))
        u, v = distort((u - K[0, 2]) / K[0, 0], (v - K[1, 2]) / K[1, 1], lens)
        u, v = u * K[0, 0] + K[0, 2], v * K[1, 1] + K[1, 2]
        return min(u.min(), v.min(), WIDTH - u.max(), HEIGHT - v.max())

    kept = valid_rectangle([K], [lens], WIDTH, HEIGHT)
    assert covered(*kept) > -0.02
    for side, step in enumerate((-1, -1, 1, 1)):
        grown = list(kept)
        grown[side] += step
        assert covered(*grown) < 0


def test_several_lenses_share_what_each_covers():
    each = [valid_rectangle([K], [lens], WIDTH, HEIGHT) for lens in (PINCUSHION, BARREL)]
    both = valid_rectangle([K, K], [PINCUSHION, BARREL], WIDTH, HEIGHT)
    lows, highs = np.array(each)[:, :2], np.array(each)[:, 2:]
    assert both == (*lows.max(0), *highs.min(0))


@pytest.mark.parametrize("k1", [-2.0, -50.0, 1e300, -1e300])
def test_a_lens_without_an_inverse_is_refused(k1):
    with pytest.raises(ValueError, match="lens distortion"):
        valid_rectangle([K], [(k1, 0.0, 0.0, 0.0, 0.0)], WIDTH, HEIGHT)


@pytest.mark.parametrize("lens", [PINCUSHION, BARREL])
def test_opencv_agrees(lens):
    cv2 = pytest.importorskip("cv2", reason="the peer is OpenCV")
    k1, k2, k3, p1, p2 = lens
    coefficients = np.array([k1, k2, p1, p2, k3])
    rays = np.random.default_rng(0).uniform(-0.6, 0.6, (99, 3))
    rays[:, 2] = 1
    theirs = cv2.projectPoints(rays, np.zeros(3), np.zeros(3), np.eye(3), coefficients)[0]
    ours = np.stack(distort(rays[:, 0], rays[:, 1], lens), axis=1)
    np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-12)

    photo = torch.rand(HEIGHT, WIDTH, 3, generator=torch.Generator().manual_seed(1))
    photo = torch.nn.functional.avg_pool2d(photo.permute(2, 0, 1), 3, 1, 1).permute(1, 2, 0)
    shifted = K - [[0, 0, 0.5], [0, 0, 0.5], [0, 0, 0]]  # OpenCV's pixel centres are at 0.
    whole = cv2.undistort(photo.numpy(), shifted, coefficients)
    ours = undistort(photo, K, lens, (0, 0, WIDTH, HEIGHT)).numpy()
    inner = (slice(8, -8), slice(8, -8))  # At the border OpenCV mixes in black.
    assert np.abs(ours[inner] - whole[inner]).max() < 0.03  # It samples in steps of 1/32 pixel.
    assert np.abs(ours[inner] - whole[inner]).mean() < 0.003

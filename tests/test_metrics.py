import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fieldpress.scenes import metrics


def pictures(*shape: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    reference = torch.rand(*shape, generator=generator)
    noise = 0.1 * torch.randn(*shape, generator=generator)
    return (reference + noise).clamp(0, 1), reference


def test_psnr_of_a_known_error():
    reference = torch.full((2, 4, 5, 3), 0.5)
    image = reference + torch.tensor([0.1, 0.01])[:, None, None, None]
    torch.testing.assert_close(
        metrics.psnr(image, reference), torch.tensor([20.0, 40.0]), atol=1e-3, rtol=0
    )


def test_identical_pictures_get_the_cap_and_perfect_ssim():
    _, reference = pictures(3, 20, 24, 3)
    assert (metrics.psnr(reference, reference) == metrics.PSNR_CAP).all()
    torch.testing.assert_close(metrics.ssim(reference, reference), torch.ones(3))


@settings(max_examples=15, deadline=None)
@given(height=st.integers(1, 30), width=st.integers(1, 30), seed=st.integers(0, 99))
def test_metrics_are_symmetric_bounded_and_per_view(height, width, seed):
    image, reference = pictures(2, height, width, 3, seed=seed)
    for metric in (metrics.psnr, metrics.ssim):
        both = metric(image, reference)
        torch.testing.assert_close(both, metric(reference, image))
        one = torch.stack([metric(image[i], reference[i]) for i in range(2)])
        torch.testing.assert_close(both, one)
    assert (metrics.ssim(image, reference) <= 1).all()


def test_values_outside_the_screens_range_are_clamped():
    image, reference = pictures(12, 12, 3)
    bright = torch.where(image > 0.9, image + 5, image)
    full = torch.where(image > 0.9, torch.ones(()), image)
    assert metrics.psnr(bright, reference) == metrics.psnr(full, reference)
    assert metrics.ssim(bright, reference) == metrics.ssim(full, reference)


@pytest.mark.parametrize("size", [(16, 16), (37, 53), (64, 11)])
def test_ssim_and_psnr_agree_with_torchmetrics(size):
    image = pytest.importorskip("torchmetrics.functional.image")
    x, y = pictures(2, *size, 3, seed=7)
    planes = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)
    expected = image.structural_similarity_index_measure(*planes, data_range=1.0, reduction=None)
    torch.testing.assert_close(metrics.ssim(x, y), expected, atol=2e-5, rtol=0)
    expected = image.peak_signal_noise_ratio(
        *planes, data_range=1.0, reduction="none", dim=(1, 2, 3)
    )
    torch.testing.assert_close(metrics.psnr(x, y), expected, atol=1e-3, rtol=0)


def test_shapes_are_checked():
    with pytest.raises(ValueError, match="expected the same"):
        metrics.psnr(torch.zeros(4, 4, 3), torch.zeros(4, 5, 3))


def test_lpips_is_left_out_with_one_warning(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    metrics.load_lpips.cache_clear()
    with pytest.warns(UserWarning, match="LPIPS is left out"):
        assert metrics.load_lpips() is None
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert metrics.load_lpips() is None
    metrics.load_lpips.cache_clear()

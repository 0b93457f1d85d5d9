import json

import pytest
import torch

from fieldpress.scenes import metrics
from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.evaluate import evaluate
from fieldpress.scenes.orbit import orbit

pytestmark = pytest.mark.filterwarnings("ignore:LPIPS is left out")


def cameras(count: int) -> Cameras:
    return orbit([0, 0, 0], 2.0, 8, width=24, height=16)[0:count]


def truth(views: Cameras) -> torch.Tensor:
    """A picture that depends on the camera, so that mixed-up views show."""
    ramp = torch.linspace(0, 1, views.width).expand(len(views), views.height, views.width)
    tint = 0.5 + 0.2 * views.positions
    return (ramp[..., None] * tint[:, None, None, :]).clamp(0, 1)


def lossy(views: Cameras) -> torch.Tensor:
    # Views to the right lose more.
    loss = 0.01 + 0.02 * (views.positions[:, :1] + 2)
    return truth(views) * (1 - loss[:, None, None, :])


def test_figures_are_means_of_each_views_figure():
    views = cameras(6)
    photos = (truth(views) * 255).round().to(torch.uint8)
    report = evaluate(lossy, views, reference=truth, photos=photos)
    expected = metrics.psnr(lossy(views), truth(views))
    assert report.psnr_self == pytest.approx(float(expected.mean()), abs=1e-4)
    photo_psnr = metrics.psnr(lossy(views), photos.float() / 255)
    assert report.psnr == pytest.approx(float(photo_psnr.mean()), abs=1e-4)
    assert [view.psnr_self for view in report.per_view] == pytest.approx(expected.tolist())
    assert report.worst(2) == expected.argsort()[:2].tolist()
    assert report.views == 6
    assert report.fps > 0
    assert report.fps_reference > 0


def test_reference_pictures_serve_as_well_as_a_renderer():
    views = cameras(4)
    by_call = evaluate(lossy, views, reference=truth)
    by_pictures = evaluate(lossy, views, reference=truth(views))
    assert by_call.psnr_self == by_pictures.psnr_self
    assert by_call.ssim_self == by_pictures.ssim_self
    assert by_pictures.fps_reference is None
    assert by_call.psnr is None


def test_views_are_rendered_one_at_a_time_and_progress_ends_at_one():
    seen, shares = [], []

    def watched(views: Cameras) -> torch.Tensor:
        seen.append(len(views))
        return truth(views)

    report = evaluate(watched, cameras(8), reference=truth, progress=shares.append)
    assert set(seen) == {1}
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert report.psnr_self == metrics.PSNR_CAP


def test_the_report_is_plain_json():
    report = evaluate(lossy, cameras(3), reference=truth)
    loaded = json.loads(json.dumps(report.to_json(), allow_nan=False))
    assert loaded["render_size"] == [24, 16]
    assert loaded["psnr"] is None
    assert len(loaded["per_view"]) == 3
    assert loaded["per_view"][1]["index"] == 1


def test_no_views_give_an_empty_report():
    report = evaluate(lossy, cameras(0), reference=truth)
    assert report.views == 0
    assert report.psnr_self is None
    assert report.fps is None


def test_pictures_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="photos: expected"):
        evaluate(lossy, cameras(3), photos=torch.zeros(2, 16, 24, 3))
    with pytest.raises(ValueError, match="render: expected"):
        evaluate(lambda views: torch.zeros(1, 2, 2, 3), cameras(3))

import pytest
import torch

from fieldpress.scenes.cameras import Cameras
from fieldpress.scenes.orbit import orbit


def cameras() -> Cameras:
    return orbit([1.0, 2.0, 3.0], 4.0, 6, width=40, height=30)


def test_positions_are_where_the_camera_stands():
    views = cameras()
    homogeneous = torch.cat([views.positions, torch.ones(6, 1)], dim=1)[:, :, None]
    local = (views.viewmats @ homogeneous)[:, :3, 0]
    torch.testing.assert_close(local, torch.zeros(6, 3), atol=1e-5, rtol=0)


@pytest.mark.parametrize("index", [slice(1, 4), [1, 2, 3], torch.tensor([1, 2, 3])])
def test_a_selection_keeps_views_and_times_together(index):
    views = cameras()
    views = Cameras(views.viewmats, views.Ks, 40, 30, torch.arange(6.0))
    chosen = views[index]
    assert len(chosen) == 3
    assert chosen.times is not None
    assert chosen.times.tolist() == [1, 2, 3]
    assert torch.equal(chosen.viewmats, views.viewmats[1:4])


def test_resized_views_see_the_same_point_at_the_same_share_of_the_picture():
    views = cameras()
    small = views.resized(20, 10)
    point = torch.tensor([1.3, 1.8, 3.2, 1.0])
    shares = []
    for v in (views, small):
        pixel = (v.Ks @ (v.viewmats @ point)[:, :3, None])[:, :, 0]
        shares.append(pixel[:, :2] / pixel[:, 2:] / torch.tensor([v.width, v.height]))
    torch.testing.assert_close(shares[0], shares[1])
    assert (small.width, small.height) == (20, 10)


def test_shapes_and_sizes_are_checked():
    with pytest.raises(ValueError, match="viewmats"):
        Cameras(torch.eye(4), torch.eye(3)[None], 4, 4)
    with pytest.raises(ValueError, match="Ks"):
        Cameras(torch.eye(4)[None], torch.zeros(2, 3, 3), 4, 4)
    with pytest.raises(ValueError, match="image size"):
        Cameras(torch.eye(4)[None], torch.eye(3)[None], 0, 4)

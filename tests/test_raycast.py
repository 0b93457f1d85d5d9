import math

import pytest
import torch

from fieldpress.scenes.raycast import (
    Noise,
    Solid,
    cast,
    ellipsoid,
    openness,
    rounded_box,
    rounded_cylinder,
    soft_shadow,
    sphere,
    torus,
    turned,
)

SHAPES = {
    "sphere": (sphere(0.5), (0.5, 0.5, 0.5)),
    "ellipsoid": (ellipsoid((0.5, 0.3, 0.4)), (0.5, 0.3, 0.4)),
    "torus": (torus(0.4, 0.1), (0.5, 0.1, 0.5)),
    "box": (rounded_box((0.5, 0.2, 0.3), 0.02), (0.5, 0.2, 0.3)),
    "cylinder": (rounded_cylinder(0.4, 0.2, 0.02), (0.4, 0.2, 0.4)),
    "turned": (turned(lambda y: 0.3 + 0.1 * torch.sin(3 * y), 0.4, 0.8), (0.4, 0.4, 0.4)),
}


def solid(name: str, angle: float = 0.4) -> Solid:
    distance, half = SHAPES[name]
    c, s = math.cos(angle), math.sin(angle)
    rotation = torch.tensor([[c, 0, s], [0, 1, 0], [-s, 0, c]])
    return Solid(torch.tensor([0.2, -0.1, 0.3]), rotation, torch.tensor(half), distance)


def random_rays(count: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    origins = torch.nn.functional.normalize(torch.randn(count, 3, generator=generator), dim=1) * 3
    targets = torch.randn(count, 3, generator=generator) * 0.3
    return origins, torch.nn.functional.normalize(targets - origins, dim=1)


@pytest.mark.parametrize("name", SHAPES)
def test_rays_arrive_on_the_surface_and_nothing_is_before_it(name):
    body = solid(name)
    rays_o, rays_d = random_rays(400)
    t, number = cast([body], rays_o, rays_d, torch.full((400,), 10.0))
    hit = number == 0
    assert 20 < hit.sum() < 400
    points = rays_o[hit] + t[hit, None] * rays_d[hit]
    assert body.distance(body.local(points)).abs().max() < 1e-3
    # Dense steps along every ray find no earlier way in, and none at all where it said "missed".
    for share in torch.linspace(0.0, 0.995, 200):
        at = rays_o + (share * t)[:, None] * rays_d
        assert body.distance(body.local(at)).min() > -2e-3


@pytest.mark.parametrize("name", SHAPES)
def test_normals_are_unit_and_face_outward(name):
    body = solid(name)
    rays_o, rays_d = random_rays(400, seed=1)
    t, number = cast([body], rays_o, rays_d, torch.full((400,), 10.0))
    hit = number == 0
    normals = body.normals(rays_o[hit] + t[hit, None] * rays_d[hit])
    torch.testing.assert_close(normals.norm(dim=1), torch.ones(int(hit.sum())))
    assert (normals * rays_d[hit]).sum(1).mean() < -0.3


def test_the_nearest_of_several_bodies_wins_and_the_limit_holds():
    near = Solid(torch.tensor([0, 0, 2.0]), torch.eye(3), torch.full((3,), 0.5), sphere(0.5))
    far = Solid(torch.tensor([0, 0, 5.0]), torch.eye(3), torch.full((3,), 1.0), sphere(1.0))
    rays_o, rays_d = torch.zeros(2, 3), torch.tensor([[0, 0, 1.0], [0, 0.15, 0.98]])
    rays_d = torch.nn.functional.normalize(rays_d, dim=1)
    for order, expected in (([near, far], [0, 0]), ([far, near], [1, 1])):
        t, number = cast(order, rays_o, rays_d, torch.full((2,), 10.0))
        assert number.tolist() == expected
        assert t[0] == pytest.approx(1.5, abs=1e-3)
    _, number = cast([near], rays_o, rays_d, torch.full((2,), 1.0))
    assert number.tolist() == [-1, -1]


def test_a_body_shades_what_lies_behind_it_and_darkens_what_it_touches():
    ball = Solid(torch.tensor([0, -1.0, 0]), torch.eye(3), torch.full((3,), 0.5), sphere(0.5))
    points = torch.tensor([[0, 0, 0], [3.0, 0, 0]])
    seen = soft_shadow([ball], points, torch.tensor([0, -1.0, 0]))
    assert seen.tolist() == pytest.approx([0, 1], abs=1e-3)
    touched = torch.tensor([[0, -0.45, 0], [3.0, 0, 0]])
    up = torch.tensor([[0, -1.0, 0]]).expand(2, 3)
    hidden, clear = openness([ball], touched, up).tolist()
    assert hidden < 0.6
    assert clear == pytest.approx(1)


def test_noise_is_smooth_periodic_and_follows_its_seed():
    points = torch.rand(500, 3, generator=torch.Generator().manual_seed(0)) * 20
    noise = Noise(3)
    value = noise(points, 3)
    assert value.abs().max() <= 1
    assert value.std() > 0.1
    assert (noise(points + 1e-3, 3) - value).abs().max() < 0.05
    torch.testing.assert_close(noise(points + 32.0), noise(points), atol=1e-3, rtol=0)
    assert torch.equal(Noise(3)(points), noise(points))
    assert not torch.equal(Noise(4)(points), noise(points))

"""The nerfstudio plugin: what needs no nerfstudio; the whole in bench/nerfstudio_plugin.sh."""

from __future__ import annotations

import ast
import importlib
import importlib.util
import io
import tomllib
from pathlib import Path

import pytest
import torch

from fieldpress import models
from fieldpress.fields.levels import Encoding
from fieldpress.fields.sdf import pixel_rays
from fieldpress.gaussians.densify import DensifySettings
from fieldpress.gaussians.initialise import from_points
from fieldpress.scenes.orbit import orbit
from fieldpress.studio.axes import viewmats_of
from fieldpress.studio.growth import THEIRS, Growth, to_splatfacto
from fieldpress.studio.radiance import Radiance

ROOT = Path(__file__).resolve().parents[1]
GROUP = "nerfstudio.method_configs"


def entry_points() -> dict[str, str]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"][GROUP]


@pytest.mark.parametrize("name", sorted(entry_points()))
def test_an_entry_point_names_a_method(name: str) -> None:
    module, _, attribute = entry_points()[name].partition(":")
    file = ROOT / (module.removeprefix("fieldpress.").replace(".", "/") + ".py")
    defined = {
        target.id: node.value
        for node in ast.parse(file.read_text()).body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    assert f"method_name='{name}'" in ast.unparse(defined[attribute])


@pytest.mark.skipif(
    importlib.util.find_spec("nerfstudio") is None, reason="nerfstudio is not installed here"
)
@pytest.mark.parametrize("name", sorted(entry_points()))
def test_nerfstudio_takes_it(name: str) -> None:
    types = importlib.import_module("nerfstudio.plugins.types")
    module, _, attribute = entry_points()[name].partition(":")
    found = getattr(importlib.import_module(module), attribute)
    assert isinstance(found, types.MethodSpecification)
    assert found.config.method_name == name


def test_poses_are_turned_to_our_axes() -> None:
    views = orbit([0.1, 0.2, 0.3], 2.0, 5, width=8, height=6)
    poses = torch.linalg.inv(views.viewmats) @ torch.diag(torch.tensor([1.0, -1, -1, 1]))
    torch.testing.assert_close(viewmats_of(poses[:, :3]), views.viewmats, rtol=1e-5, atol=1e-5)


def grown(count: int = 40, budget: int = 60) -> tuple[torch.nn.ParameterDict, dict, Growth]:
    rng = torch.Generator().manual_seed(0)
    start = to_splatfacto(from_points(torch.randn(count, 3, generator=rng), None, sh_degree=1))
    parameters = torch.nn.ParameterDict({k: torch.nn.Parameter(v) for k, v in start.items()})
    optimizers = {k: torch.optim.Adam([p], lr=1e-3) for k, p in parameters.items()}
    for name, optimizer in optimizers.items():
        parameters[name].square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    settings = DensifySettings(budget=budget, every=10, start=0, stop=0.9, growth=1.2)
    return parameters, optimizers, Growth(parameters, optimizers, 100, settings)


def test_growth_reaches_its_budget_and_keeps_the_optimisers() -> None:
    parameters, optimizers, growth = grown()
    for step in range(1, 52):
        growth.after_step(step)
        for name, optimizer in optimizers.items():
            parameters[name].sum().backward()
            optimizer.step()
            optimizer.zero_grad()
    shapes = {"features_dc": (60, 3), "features_rest": (60, 3, 3), "opacities": (60, 1)}
    for name, optimizer in optimizers.items():
        found = parameters[name]
        assert tuple(found.shape) == shapes.get(name, (60, found.shape[1]))
        assert optimizer.param_groups[0]["params"] == [found]
        assert optimizer.state[found]["exp_avg"].shape == found.shape
        assert len(optimizer.state) == 1


def test_dead_gaussians_are_moved_where_they_stand() -> None:
    parameters, _, growth = grown(40, 40)
    with torch.no_grad():
        parameters["opacities"][:5] = -9
    before = parameters["means"]
    growth.after_step(10)
    assert parameters["means"] is before  # In place: nothing was added.
    assert float(parameters["opacities"].detach().sigmoid().min()) > 0.005


def test_names_are_those_of_splatfacto() -> None:
    parameters, _, growth = grown()
    assert set(parameters) == set(THEIRS.values())
    assert growth.params["sh0"].shape == (40, 1, 3)
    assert growth.params["opacities"].shape == (40,)


def radiance() -> Radiance:
    encoding = Encoding(3, "SimplexGrid", 3, 2, 9, 8, 1.6)
    return Radiance(encoding, 16, torch.tensor([-1.0, -1, -1]), 2.0, (0.0, 0.5, 1.0))


def test_a_field_learns_and_finds_where_nothing_is() -> None:
    torch.manual_seed(0)
    field = radiance()
    field.look(0)
    camera = orbit([0.0, 0.0, 0.0], 2.0, 1, width=12, height=10)
    origins, rays_d = pixel_rays(camera)
    groups = [{"params": [field.table], "lr": 0.02}, {"params": [*field.weights, *field.head]}]
    adam = torch.optim.Adam(groups, lr=0.01)
    losses, opacity = [], torch.empty(0)
    for step in range(30):
        rgb, opacity = field(origins, rays_d)
        loss = (rgb - torch.tensor([1.0, 0.2, 0.1])).square().mean()
        adam.zero_grad()
        loss.backward()
        adam.step()
        losses.append(float(loss.detach()))
        field.look(step)
    assert losses[-1] < 0.3 * losses[0]
    assert opacity.shape == (120, 1)
    assert all(p.grad is not None for p in field.parameters())


def test_a_saved_field_is_read_and_looks_the_same() -> None:
    field = radiance().eval()
    field.look(0)
    out = io.BytesIO()
    pipeline = {f"_model.radiance.{key}": value for key, value in field.state_dict().items()}
    torch.save({"step": 3, "pipeline": pipeline, "optimizers": {}}, out)
    found = models.load_bytes(out.getvalue(), "step-000000003.ckpt")
    camera = orbit([0.0, 0.0, 0.0], 2.0, 1, width=12, height=10)
    with torch.no_grad():
        rgb, _ = field(*pixel_rays(camera))
    torch.testing.assert_close(found.render(camera).reshape(-1, 3), rgb, rtol=1e-4, atol=1e-4)
    assert found.background == (0.0, 0.5, 1.0)

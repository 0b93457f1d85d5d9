"""Neural fields for bench/gpu.py: parity with the CPU, and times beside torch and tiny-cuda-nn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch
from encode import TorchHashEncoding
from gpu_cases import Report, psnr, relative
from torch import Tensor

from fieldpress.fields import nerf, tcnn
from fieldpress.fields.encoding import LazyAdam, encode, new_table
from fieldpress.fields.levels import Encoding
from fieldpress.fields.network import Network, layers, new_weights
from fieldpress.scenes.orbit import orbit

OTYPES = {
    "grid": "HashGrid",
    "kuhn": "KuhnGrid",
    "simplex": "SimplexGrid",
    "permuto": "PermutoGrid",
}
GROWTH = 128 ** (1 / 15)  # From 16 to 2048 cells in 16 levels.
PICTURE, SMALL_PICTURE = 800, 24
Median = Callable[[Callable[[int], Any]], Report]


def parity(device: torch.device) -> Report:
    """Relative errors against the CPU's kernels, whose twin is in the tests."""
    report: Report = {}
    for name, otype in OTYPES.items():
        for dims in (2, 3, 4):
            of = Encoding(dims, otype, 8, 2, 14, 8, 1.6)
            report[f"{name} {dims}D"] = _encoding_errors(of, device, torch.float32)
    of = Encoding(3, "SimplexGrid", 8, 4, 14, 8, 1.6)
    report["half rows"] = _encoding_errors(of, device, torch.float16)
    for widths in ([64, 64, 3], [32, 16], [128, 128, 3]):
        network, points = new_network(Encoding(2, "HashGrid", 8, 2, 14, 8, 1.6), widths), _points(2)
        got = network.to(device)(points.to(device))
        report[f"network {widths}"] = relative(got, network(points))
    report["march"], field = _march_errors(device), new_field()
    views = around(field, 64)
    report["radiance_psnr"] = psnr(field.to(device).render(views), field.render(views))
    report["steps"] = _optimiser_error(device)
    return report


def times(device: torch.device, median: Median, points: int, picture: int) -> Report:
    """Milliseconds of encodings, networks and pictures; peers' where they can be imported."""
    where = torch.rand(points, 3, generator=torch.Generator().manual_seed(0)).to(device)
    report: Report = {"points": points, "picture": picture}
    for name in ("grid", "simplex"):
        report[name] = _encoding_times(
            Encoding(3, OTYPES[name], 16, 2, 19, 16, GROWTH), where, median
        )
    of = Encoding(3, OTYPES["grid"], 16, 2, 19, 16, GROWTH)
    for widths in ([64, 64, 3], [128, 128, 128, 3]):
        report[f"network {widths}"] = _network_times(of, widths, where, median)
    report["torch"] = _torch_times(where, median)
    report["tinycudann"] = _tcnn_times(of, where, median)
    report["radiance"] = _picture_times(device, median, picture)
    return report


def small_case(device: torch.device) -> None:
    """Every kernel once, for the sanitizer."""
    parity(device)


def _points(dims: int, count: int = 5000) -> Tensor:
    return torch.rand(count, dims, generator=torch.Generator().manual_seed(1))


def _rows(of: Encoding) -> Tensor:
    return torch.randn(of.rows, of.features, generator=torch.Generator().manual_seed(2))


def _encoding_errors(of: Encoding, device: torch.device, dtype: torch.dtype) -> Report:
    found = []
    for on in (device, torch.device("cpu")):
        x = _points(of.dims).to(on).requires_grad_()
        t = _rows(of).to(dtype).to(on).requires_grad_()
        features = encode(of, x, t)
        form = torch.randn(features.shape, generator=torch.Generator().manual_seed(3)).to(on)
        found.append([features, *torch.autograd.grad(features, (x, t), form)])
    names = ("value", "points_grad", "rows_grad")
    return {n: relative(a, b) for n, a, b in zip(names, *found, strict=True)}


def _optimiser_error(device: torch.device) -> float:
    of, tables = Encoding(3, "SimplexGrid", 8, 2, 12, 8, 1.6), []
    upstream = torch.randn(of.width, 5000, generator=torch.Generator().manual_seed(4))
    for on in (device, torch.device("cpu")):
        tables.append(_rows(of).to(on))
        optimiser = LazyAdam(of, tables[-1])
        for _ in range(3):
            optimiser.update(_points(3).to(on), upstream.to(on), 1e-2)
    return relative(tables[0] - _rows(of).to(device), tables[1] - _rows(of))


def _march_errors(device: torch.device) -> Report:
    """Steps that the two disagree about lie at a cell's face."""
    rng = torch.Generator().manual_seed(5)
    origins = 0.5 + torch.randn(4000, 3, generator=rng)
    rays_d = torch.rand(4000, 3, generator=rng) - origins
    rays_d = torch.nn.functional.normalize(rays_d, dim=1)
    cells = torch.rand(nerf.CELL_SIDE**3, generator=rng) < 0.3
    inputs = (origins, rays_d, cells, torch.rand(4000, generator=rng))
    got, want = nerf.march(*(t.to(device) for t in inputs)), nerf.march(*inputs)
    counts = [torch.bincount(s.ray.cpu(), minlength=4000) for s in (got, want)]
    return {"samples": len(want.ray), "differ": int((counts[0] - counts[1]).abs().sum())}


def new_network(of: Encoding, widths: list[int]) -> Network:
    return Network(of, _rows(of), new_weights([of.width, *widths], 0))


def new_field() -> nerf.NerfField:
    """A ball of fog with random colours, in cells around it."""
    of = Encoding(3, "SimplexGrid", 10, 2, 16, 16, 1.5)
    network = new_network(of, [32, nerf.GEOMETRY])
    side = (torch.arange(nerf.CELL_SIDE) + 0.5) / nerf.CELL_SIDE - 0.5
    z, y, x = torch.meshgrid(side, side, side, indexing="ij")
    cells = ((x * x + y * y + z * z).sqrt() < 0.4).flatten()
    head = new_weights([nerf.NerfField.head_inputs, 32, 32, 3], 1)
    return nerf.NerfField(network, head, cells, (-0.5, -0.5, -0.5), 1.0)


def around(field: nerf.NerfField, size: int) -> Any:
    return orbit([0.0, 0.0, 0.0], 1.6, 2, width=size, height=size, up=[0.0, 0.0, 1.0])


def _encoding_times(of: Encoding, where: Tensor, median: Median) -> Report:
    table = new_table(of, device=where.device)
    half, optimiser = table.half(), LazyAdam(of, table)
    upstream = torch.randn(of.width, len(where), device=where.device)

    def step(_: int) -> None:
        encode(of, where, table)
        optimiser.update(where, upstream, 1e-2)

    def back(_: int) -> None:
        encode(of, where, table)
        optimiser.accumulate(where, upstream)

    return {
        "forward_ms": median(lambda _: encode(of, where, table)),
        "half_forward_ms": median(lambda _: encode(of, where, half)),
        "forward_and_backward_ms": median(back),
        "step_ms": median(step),
    }


def _network_times(of: Encoding, widths: list[int], where: Tensor, median: Median) -> Report:
    network = new_network(of, widths).to(where.device)

    def parts(_: int) -> None:
        layers(encode(of, where, network.table), network.weights)

    report: Report = {"ms": median(lambda _: network(where)), "in_parts_ms": median(parts)}
    if not isinstance(tcnn.module(), str) and tcnn.suits(of, network.weights):
        theirs = tcnn.network(of, network.table, network.weights)
        report["tinycudann_ms"] = median(lambda _: theirs(where))
        report["tinycudann_difference"] = relative(theirs(where).float().T, network(where))
    return report


def _torch_times(where: Tensor, median: Median) -> Report:
    """nerfstudio's formula; its tensors are made where they are wanted."""
    before = torch.get_default_device()
    torch.set_default_device(where.device)
    try:
        peer = TorchHashEncoding().to(where.device)

        def back(_: int) -> None:
            peer.zero_grad()
            peer(where).sum().backward()

        with torch.no_grad():
            forward = median(lambda _: peer(where))
        return {"forward_ms": forward, "forward_and_backward_ms": median(back)}
    finally:
        torch.set_default_device(before)


def _tcnn_times(of: Encoding, where: Tensor, median: Median) -> Report:
    found = tcnn.module()
    if isinstance(found, str):
        return {"skipped": found}
    report: Report = {}
    for dtype in (torch.float32, torch.float16):
        theirs = found.Encoding(of.dims, of.config() | {"base_resolution": 16}, dtype=dtype)

        def back(_: int, theirs: Any = theirs) -> None:
            theirs.params.grad = None
            theirs(where).float().sum().backward()

        name = str(dtype).split(".")[1]
        with torch.no_grad():
            report[f"{name}_forward_ms"] = median(lambda _, theirs=theirs: theirs(where))
        report[f"{name}_forward_and_backward_ms"] = median(back)
    return report


def _picture_times(device: torch.device, median: Median, size: int) -> Report:
    field = new_field()
    views = around(field, size)
    here, found = field.to(device), {}
    found["ms"] = median(lambda k: here.render(views[k % 2 : k % 2 + 1]))
    found["fps"] = 1000 / found["ms"]["median"]
    small = around(field, max(size // 8, SMALL_PICTURE))
    slow, quick = _seconds(field, small), _seconds(here, small)
    return found | {"times_the_cpu": slow / quick, "cpu_picture": small.width}


def _seconds(field: nerf.NerfField, views: Any) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.perf_counter()
        field.render(views[:1]).cpu()
        best = min(best, time.perf_counter() - began)
    return best


def lines(report: Report) -> list[str]:
    """The figures, one line each."""
    found = []
    for name, value in report.get("fields_parity", {}).items():
        if isinstance(value, dict):
            value = "  ".join(f"{k} {v:.3g}" for k, v in value.items())
        found.append(f"fields {name}: {value if isinstance(value, str) else f'{value:.3g}'}")
    rows = report.get("fields", {})
    for name, row in rows.items():
        if isinstance(row, dict):
            parts = [
                f"{k} {v['median']:.3f}" if isinstance(v, dict) else f"{k} {v:.3g}"
                for k, v in row.items() if k != "skipped"
            ]  # fmt: skip
            found.append(f"fields {name}: {row.get('skipped', '  '.join(parts))}")
    return found

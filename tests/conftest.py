"""Fixtures that every test module may ask for. The tests run on one thread: see CONTRIBUTING."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import faulthandler
import hashlib
import os
import re
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fieldpress.fields.sdf import pixel_rays
from fieldpress.gaussians import codec
from fieldpress.gaussians.model import SplatModel
from fieldpress.render import cuda
from fieldpress.scenes.cameras import Scene
from fieldpress.scenes.orbit import orbit
from fieldpress.viewer.exhibit import Exhibition
from fieldpress.viewer.server import Server

torch.set_num_threads(1)

REPOSITORY = Path(__file__).resolve().parent.parent
NOT_COMPILED = 77  # Exit status of a check.
REST = {0: 0, 1: 3, 2: 8, 3: 15, 4: 24}


def _tiny_model(n: int = 200, sh_degree: int = 3, seed: int = 0) -> SplatModel:
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int, scale: float = 1.0, shift: float = 0.0) -> torch.Tensor:
        return torch.randn(*shape, generator=rng) * scale + shift

    return SplatModel(
        means=normal(n, 3, scale=0.5),
        quats=normal(n, 4),
        scales=normal(n, 3, scale=0.4, shift=-2.5),
        opacities=normal(n, scale=1.0, shift=1.0),
        sh0=normal(n, 1, 3, scale=0.8),
        shN=normal(n, REST[sh_degree], 3, scale=0.1),
    )


def _shell(n: int = 1500, seed: int = 3) -> SplatModel:
    rng = torch.Generator().manual_seed(seed)
    means = torch.nn.functional.normalize(torch.randn(n, 3, generator=rng), dim=1)
    means *= torch.where(torch.arange(n) % 5 == 0, 0.5, 1.0)[:, None]  # Some lie within.
    bases = (torch.randn(9, 3, generator=rng) * 0.4, torch.randn(8, 3, 3, generator=rng) * 0.1)
    waves = torch.cat([means, means.square(), means.roll(1, 1) * means], dim=1)
    return SplatModel(
        means=means,
        quats=torch.randn(n, 4, generator=rng),
        scales=torch.randn(n, 3, generator=rng) * 0.3 + torch.tensor([-2.5, -2.8, -4.5]),
        opacities=torch.randn(n, generator=rng) + 1.5,
        sh0=(waves @ bases[0] + 0.1 * torch.randn(n, 3, generator=rng))[:, None],
        shN=torch.einsum("ni,kic->nkc", means, bases[1])
        + 0.03 * torch.randn(n, 8, 3, generator=rng),
    )


def _ball(size: int = 24) -> Scene:
    """A ball with a coloured side for each axis, before black, seen from a ring of cameras."""
    views = orbit([0.0, 0.0, 0.0], 3.0, 12, width=size, height=size, up=[0.0, 0.0, 1.0], fov=40)
    images = []
    for i in range(len(views)):
        rays_o, rays_d = pixel_rays(views[i : i + 1])
        middle = -(rays_o * rays_d).sum(1)
        inside = 0.6**2 - (rays_o + middle[:, None] * rays_d).square().sum(1)
        point = rays_o + (middle - inside.clamp_min(0).sqrt())[:, None] * rays_d
        color = torch.where((inside > 0)[:, None], 0.5 + 0.8 * point, torch.tensor(0.0))
        images.append(color.clamp(0, 1).reshape(size, size, 3))
    stack = torch.stack(images)
    train = torch.arange(12) % 4 != 0
    return Scene("ball", views[train], views[~train], stack[train], stack[~train])


def _ply_bytes(
    columns: dict[str, np.ndarray], text: bool = False, declared: int | None = None
) -> bytes:
    n = len(next(iter(columns.values()))) if columns else 0
    lines = ["ply", "format " + ("ascii 1.0" if text else "binary_little_endian 1.0")]
    lines += [f"element vertex {n if declared is None else declared}"]
    lines += [f"property float {name}" for name in columns]
    header = "\n".join([*lines, "end_header"]) + "\n"
    table = np.stack([np.asarray(c, dtype="<f4") for c in columns.values()], axis=1)
    if text:
        body = "".join(" ".join(repr(float(v)) for v in row) + "\n" for row in table).encode()
    else:
        body = table.tobytes()
    return header.encode() + body


def _splat_columns(model: SplatModel) -> dict[str, np.ndarray]:
    columns = {name: model.means[:, i].numpy() for i, name in enumerate("xyz")}
    columns |= {f"f_dc_{i}": model.sh0[:, 0, i].numpy() for i in range(3)}
    rest = model.shN.transpose(1, 2).flatten(1)  # Channel-major, as the PLY keeps it.
    columns |= {f"f_rest_{i}": rest[:, i].numpy() for i in range(rest.shape[1])}
    columns["opacity"] = model.opacities.numpy()
    columns |= {f"scale_{i}": model.scales[:, i].numpy() for i in range(3)}
    columns |= {f"rot_{i}": model.quats[:, i].numpy() for i in range(4)}
    return columns


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real scenes; skips where there is none."""
    path = Path(os.environ.get("FIELDPRESS_DATA", REPOSITORY.parent / "shared" / "data"))
    if not path.is_dir():
        pytest.skip(f"no real scenes: {path} is not a folder (set FIELDPRESS_DATA)")
    return path


@pytest.fixture(scope="session")
def tiny_model() -> Callable[..., SplatModel]:
    """A factory: tiny_model(n=200, sh_degree=3, seed=0), the same Gaussians for the same seed."""
    return _tiny_model


@pytest.fixture(scope="session")
def ball() -> Callable[..., Scene]:
    """A factory: ball(size=24), photographs of a coloured ball, 9 to train on and 3 to test."""
    return _ball


@pytest.fixture(scope="session")
def shell() -> Callable[..., SplatModel]:
    """A factory: shell(n=1500, seed=3), flat, smoothly coloured Gaussians on a sphere of radius 1.

    A fifth of them lie within, nearly hidden.
    """
    return _shell


def _refusal(data: bytes, **options: bool) -> str | None:
    try:
        codec.decode(data, name="f.fpz", **options)
    except ValueError as error:
        message = str(error)
        assert message.startswith("f.fpz: ")
        assert "\n" not in message
        assert len(message) < 300
        return message
    return None


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str | None]:
    """refusal(data, **options), the one line that says what is wrong with a .fpz file, or None."""
    return _refusal


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.cuda)])
def device(request: pytest.FixtureRequest) -> torch.device:
    """Every device that this machine has; the others skip with a reason."""
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    return torch.device(request.param)


@pytest.fixture(scope="session")
def ply_bytes() -> Callable[..., bytes]:
    """A factory: ply_bytes(columns, text=False, declared=None), a PLY of float columns.

    `declared` is the vertex count that the header claims, where it is to differ from the truth.
    """
    return _ply_bytes


@pytest.fixture(scope="session")
def splat_ply(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A factory: splat_ply(model, name="scene.ply"), the path of an INRIA-layout PLY (no normals).

    Written here from the layout's description, so that a reader is not tested with its own writer.
    """

    def write(model: SplatModel, name: str = "scene.ply", text: bool = False) -> Path:
        path = tmp_path_factory.mktemp("ply") / name
        path.write_bytes(_ply_bytes(_splat_columns(model), text))
        return path

    return write


@contextlib.contextmanager
def _serving(show: Exhibition, **options: Any) -> Iterator[tuple[Server, list[str]]]:
    pytest.importorskip("websockets", reason="the viewer's extra is not installed")
    pytest.importorskip("PIL", reason="the viewer's extra is not installed")
    lines: list[str] = []
    server = Server(show, log=lines.append, **options)
    ready, loop = threading.Event(), asyncio.new_event_loop()
    task = loop.create_task(server.run(lambda url: ready.set()))

    def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            loop.run_until_complete(task)
        loop.close()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    assert ready.wait(30)
    try:
        yield server, lines
    finally:
        loop.call_soon_threadsafe(task.cancel)
        thread.join(20)
        assert not thread.is_alive()


@pytest.fixture(scope="session")
def serving() -> Callable[..., contextlib.AbstractContextManager[tuple[Server, list[str]]]]:
    """A context: with serving(exhibition, **options) as (server, lines that it logs).

    The viewer's server runs in a thread of its own meanwhile.
    """
    return _serving


class EmulatedKernels:
    """`cuda.Kernels` on the CPU: g++ compiles the CUDA sources behind native/cuda_emulation.h."""

    def __init__(self, folder: Path, library: cuda.Library = cuda.LIBRARY, order: int = 0) -> None:
        self.device, self.processors = torch.device("cpu"), 1
        self.folder, self.library, self.order = folder, library, order
        self.includes = (library.folder, cuda.NATIVE / "nvrtc", cuda.NATIVE)
        self._loaded: dict[tuple[str, cuda.Macros], ctypes.CDLL] = {}

    def launch(
        self, kernel: str, blocks: int, threads: int, *arguments: int, macros: cuda.Macros = ()
    ) -> None:
        loaded = self.load(self.library.unit_of.get(kernel, kernel), macros)
        packed = (ctypes.c_uint64 * 8)(*arguments)
        if loaded.emulate(getattr(loaded, kernel), blocks, threads, packed, self.order):
            raise RuntimeError(f"{kernel}: threads wait for each other for ever")

    def source(self, name: str, seen: set[Path]) -> str:
        """A file and all that it includes, each once."""
        path = next(at / name for at in self.includes if (at / name).exists()).resolve()
        if path in seen:
            return ""
        seen.add(path)
        text = path.read_text()
        headers = [h for h in re.findall(r'#include "(.*)"', text) if h != "simd.h"]
        return text + "".join(self.source(h, seen) for h in headers)

    def load(self, unit: str, macros: cuda.Macros) -> ctypes.CDLL:
        if (unit, macros) not in self._loaded:
            digest = hashlib.sha256(self.source(f"{unit}.cu", set()).encode())
            path = self.folder / f"{unit}-{digest.hexdigest()[:16]}-{hash(macros)}.so"
            if not path.exists():
                defines = ["FIELDPRESS_CUDA", *(f"{k}={v}" for k, v in macros)]
                command = ["g++", "-std=c++17", "-O1", "-shared", "-fPIC", "-w", "-x", "c++"]
                command += [f"-D{define}" for define in defines]
                command += [f"-I{include}" for include in self.includes]
                command += ["-include", "cuda_emulation.h", str(self.library.folder / f"{unit}.cu")]
                subprocess.run([*command, "-o", str(path)], check=True)
            self._loaded[unit, macros] = ctypes.CDLL(str(path))
        return self._loaded[unit, macros]


@pytest.fixture(scope="session")
def emulate(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., EmulatedKernels]:
    """A factory: emulate(library=cuda.LIBRARY, order=0), kernels from those sources on the CPU.

    order: in which the threads of a block are run; what depends on it is a race.
    """
    if shutil.which("g++") is None:
        pytest.skip("no g++ to compile the CUDA sources for the CPU")
    folder = tmp_path_factory.mktemp("emulated")
    return lambda library=cuda.LIBRARY, order=0: EmulatedKernels(folder, library, order)


def _outcome(check: Callable[[], object]) -> int:
    child = os.fork()
    if child == 0:
        faulthandler.disable()
        status = 1
        try:
            check()
            status = 0
        except subprocess.CalledProcessError:
            status = NOT_COMPILED
        finally:
            os._exit(status)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == NOT_COMPILED:
        raise RuntimeError("the sources do not compile: nothing was checked")
    return code


@pytest.fixture(scope="session")
def outcome() -> Callable[[Callable[[], object]], int]:
    """outcome(check), 0 where the check holds.

    It runs in a process of its own, which a stray address may end.
    """
    return _outcome


def _mutated(library: cuda.Library, folder: Path, file: str, old: str, new: str) -> cuda.Library:
    native = folder / "native"
    shutil.copytree(library.folder, native)
    source = (native / file).read_text()
    assert source.count(old) == 1
    (native / file).write_text(source.replace(old, new))
    return replace(library, folder=native)


@pytest.fixture(scope="session")
def mutated() -> Callable[..., cuda.Library]:
    """mutated(library, folder, file, old, new), the same sources with one place changed."""
    return _mutated

"""Every CUDA source compiles for every architecture without a GPU; the cache; what is refused."""

from __future__ import annotations

import importlib
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from fieldpress.fields import encoding_cuda
from fieldpress.render import cuda
from fieldpress.render.splat import RasterOptions, rasterize

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
CHANNELS = [("FIELDPRESS_CHANNELS", 3)]
VARIANTS = [
    (cuda.LIBRARY, unit, tuple(CHANNELS) if "blend" in unit else ()) for unit in cuda.LIBRARY.units
]
VARIANTS += [(cuda.LIBRARY, unit, (("FIELDPRESS_CHANNELS", 33),)) for unit in ("blend", "unblend")]
ORDERED = (("FIELDPRESS_CHANNELS", 3), ("FIELDPRESS_ORDERED", 1))
VARIANTS += [(cuda.LIBRARY, unit, ORDERED) for unit in ("unblend", "unproject")]
KIND = {"DIMS": 3, "FEATURES": 2, "LATTICE": 2, "STORAGE": 0}
NETWORK = {"LEVELS": 10, "NEURONS": 32, "HIDDEN": 1, "OUTPUTS": 16}
HEAD = {"HEAD_NEURONS": 32, "HEAD_HIDDEN": 2}
WIDEST = {"DIMS": 4, "FEATURES": 8, "LATTICE": 0, "STORAGE": 1}
PICTURE = {"DIMS": 2, "LEVELS": 16, "NEURONS": 64, "HIDDEN": 2, "OUTPUTS": 3}
VARIANTS += [
    (encoding_cuda.LIBRARY, unit, tuple((f"FIELDPRESS_{k}", v) for k, v in macros.items()))
    for unit, macros in [
        ("encode", KIND), ("encode", WIDEST), ("scatter", KIND), ("scatter", WIDEST),
        ("slope", KIND), ("slope", WIDEST), ("adam", {}), ("march", {}),
        ("network", KIND | NETWORK), ("network", KIND | PICTURE),
        ("radiance", KIND | NETWORK | HEAD),
    ]
]  # fmt: skip


def nvrtc_is_missing() -> bool:
    try:
        importlib.import_module("cuda.core")
        importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    except Exception:  # An import, or a library that is not found.
        return True
    return False


needs_nvrtc = pytest.mark.skipif(
    nvrtc_is_missing(), reason="no NVRTC: pip install cuda-core cuda-bindings nvidia-cuda-nvrtc"
)
needs_no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")


@needs_nvrtc
@pytest.mark.parametrize("arch", ARCHITECTURES)
@pytest.mark.parametrize(
    ("library", "unit", "macros"),
    VARIANTS,
    ids=[f"{unit}{i}" for i, (_, unit, _) in enumerate(VARIANTS)],
)
def test_every_source_compiles(library, unit, macros, arch):
    code = cuda.compile_unit(unit, arch, macros, library)
    assert code[:4] == b"\x7fELF"
    assert all(name.encode() in code for name in library.units[unit])


def test_no_source_is_left_out():
    for library in (cuda.LIBRARY, encoding_cuda.LIBRARY):
        assert {path.stem for path in library.folder.glob("*.cu")} == set(library.units)
        assert set(library.units) == {unit for of, unit, _ in VARIANTS if of is library}


@needs_nvrtc
def test_a_source_that_is_wrong_is_one_error(tmp_path):
    (tmp_path / "sort.cu").write_text("extern no_such_type x;")
    with pytest.raises(ValueError, match=r"sort\.cu for sm_90: NVRTC refused it"):
        cuda.compile_unit("sort", "sm_90", (), replace(cuda.LIBRARY, folder=tmp_path))


@needs_nvrtc
def test_the_cache_spares_compiling_and_survives_damage(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    calls = []

    def compiled(unit, arch, macros, library):
        calls.append((unit, arch, macros))
        return f"{unit} {arch} {macros}".encode()

    monkeypatch.setattr(cuda, "compile_unit", compiled)
    first = cuda.cached_unit("sort", "sm_90")
    assert cuda.cached_unit("sort", "sm_90") == first
    assert len(calls) == 1
    assert cuda.cached_unit("sort", "sm_80") != first
    assert cuda.cached_unit("blend", "sm_90", (("C", 3),)) != cuda.cached_unit(
        "blend", "sm_90", (("C", 4),)
    )
    assert len(calls) == 4
    (stored,) = (tmp_path / "fieldpress" / "cuda").glob("sort-sm_90-*.cubin")
    assert len(list(stored.parent.iterdir())) == 4
    stored.write_bytes(stored.read_bytes()[:-1])
    assert cuda.cached_unit("sort", "sm_90") == first
    assert len(calls) == 5


@needs_nvrtc
def test_a_changed_header_is_compiled_anew(tmp_path):
    changed = replace(cuda.LIBRARY, folder=tmp_path)
    (tmp_path / "sort.cu").write_bytes((cuda.NATIVE / "sort.cu").read_bytes())
    before = cuda._digest("sort", "sm_90", (), changed)
    assert before == cuda._digest("sort", "sm_90", ())
    (tmp_path / "warp.h").write_bytes((cuda.NATIVE / "warp.h").read_bytes() + b"\n")
    assert cuda._digest("sort", "sm_90", (), changed) != before


@needs_nvrtc
def test_a_cache_that_cannot_be_written_is_no_failure(monkeypatch, tmp_path):
    (tmp_path / "fieldpress").write_text("a file where a folder should be")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cuda, "compile_unit", lambda *_: b"code")
    assert cuda.cached_unit("sort", "sm_90") == b"code"


@needs_no_gpu
@pytest.mark.parametrize(
    ("device", "message"),
    [("cuda", "device: cuda needs"), ("cuda:3", "device: cuda:3 needs"), ("tpu", "device: exp"),
     ("meta", "device: expected cpu, cuda or cuda:N, got meta")],
)  # fmt: skip
def test_a_device_that_is_not_there_is_one_sentence(device, message):
    with pytest.raises(ValueError, match=message) as caught:
        cuda.require(device)
    assert "\n" not in str(caught.value)


def test_the_cpu_needs_nothing():
    assert cuda.require("cpu") == torch.device("cpu")


def test_rendering_on_the_cpu_imports_no_cuda():
    code = (
        "import sys, torch\nfrom fieldpress.render.splat import rasterize\n"
        "rasterize(torch.zeros(1, 3), torch.ones(1, 4), torch.ones(1, 3), torch.ones(1),"
        " torch.ones(1, 3), torch.eye(4)[None], torch.eye(3)[None], 8, 8)\n"
        "sys.exit(any(m.startswith('cuda.core') or m.endswith('splat_cuda') for m in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_parity_of_the_gpu_with_the_cpu():
    g = torch.Generator().manual_seed(0)
    scene = (
        torch.randn(500, 3, generator=g), torch.randn(500, 4, generator=g),
        (torch.randn(500, 3, generator=g) - 2).exp(), torch.rand(500, generator=g),
        torch.randn(500, 16, 3, generator=g) * 0.3,
    )  # fmt: skip
    view = torch.eye(4)[None].clone()
    view[0, 2, 3] = 3.5
    K = torch.tensor([[[60.0, 0, 32], [0, 60.0, 24], [0, 0, 1]]])
    options = RasterOptions(sh_degree=3)
    want, _, _ = rasterize(*scene, view, K, 64, 48, options)
    moved = [part.cuda() for part in (*scene, view, K)]
    got, _, _ = rasterize(*moved, 64, 48, options)  # pyright: ignore
    assert (got.cpu() - want).abs().mean() < 2e-6

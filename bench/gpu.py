"""Everything that needs a GPU: is it right, and how fast is it?

    bench/gpu.sh [--sizes 100000,1000000,5000000] [--only parity,times,...] [--rehearse]

Sections, each of which may fail without the others: compile (every CUDA source by NVRTC, cold and
from the cache; the only one without a GPU), parity (values, gradients, statistics and packed
scenes against the CPU path and the twin), times (forward, backward, statistics, packed, stages),
gsplat (the same where it can be imported), sanitizer (compute-sanitizer on a small case). Writes
bench/results/gpu.json after each section, without a GPU bench/results/gpu_compile.json.
--rehearse runs it all on the CPU path with tiny scenes, so that no GPU time goes to typos.
"""

from __future__ import annotations

import argparse
import math
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from raster_cpu import seeded_scene
from record import write
from torch import Tensor

from fieldpress.render import _reference, cuda, splat_cuda
from fieldpress.render.packed import pack, rasterize_packed
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics as splat_statistics

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
OPTIONS = RasterOptions(sh_degree=3)
NAMES = ("means", "quats", "scales", "opacities", "colors", "viewmats")
WIDTH, HEIGHT = 1920, 1080
SANITIZER_SECONDS = 100
Scene = tuple[Tensor, ...]
Report = dict[str, Any]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100000,1000000,5000000")
    parser.add_argument("--only", default="compile,parity,times,gsplat,sanitizer")
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--small-case", action="store_true", help="what the sanitizer runs")
    args = parser.parse_args()
    if args.small_case:
        small_case(torch.device("cuda"))
        return 0
    sizes = [int(size) for size in args.sizes.split(",")]
    device, where = torch.device("cpu"), "gpu_rehearsal"
    if not args.rehearse:
        try:
            device, where = cuda.require("cuda"), "gpu"
        except ValueError as error:
            print(error)
            print("Without a GPU only the compiler is measured.")
            args.only, where = "compile", "gpu_compile"
    report: Report = {
        "command": " ".join(["bench/gpu.py", *sys.argv[1:]]),
        "device": name_of(device),
    }
    bench = Bench(
        device, sizes if not args.rehearse else [3000], 2 if args.rehearse else args.frames
    )
    if args.rehearse:
        bench.width, bench.height = 96, 64
    for section in args.only.split(","):
        began = time.perf_counter()
        try:
            report[section] = getattr(bench, section)()
        except Exception as error:  # One section must not cost the others their GPU time.
            report[section] = {"failed": f"{type(error).__name__}: {error}"}
        seconds = time.perf_counter() - began
        print(f"== {section}: {seconds:.1f} s", report[section].get("failed", ""))
        if not args.rehearse:
            write(where, report)
    print(table(report))
    failed = [s for s in args.only.split(",") if "failed" in report[s]]
    return 1 if failed else 0


class Bench:
    """One device and its sections."""

    def __init__(self, device: torch.device, sizes: list[int], frames: int) -> None:
        self.device, self.sizes, self.frames = device, sizes, frames
        self.width, self.height = WIDTH, HEIGHT

    def compile(self) -> Report:
        """Seconds and bytes of each source for each architecture; the first frame, cold and not."""
        report: Report = {"units": {}}
        for unit in cuda.UNITS:
            macros = (("FIELDPRESS_CHANNELS", 3),) if "blend" in unit else ()
            rows = {}
            for arch in ARCHITECTURES:
                began = time.perf_counter()
                size = len(cuda.compile_unit(unit, arch, macros))
                rows[arch] = {"seconds": round(time.perf_counter() - began, 3), "bytes": size}
            report["units"][unit] = rows
        if self.device.type == "cuda":
            with tempfile.TemporaryDirectory() as cache:
                environment = os.environ | {"XDG_CACHE_HOME": cache}
                for name in ("first_frame_cold_seconds", "first_frame_cached_seconds"):
                    report[name] = first_frame(environment)
        return report

    def parity(self) -> Report:
        """Errors against the CPU path at some size, and against the double twin at a small one."""
        report: Report = {}
        for mode in ("classic", "antialiased"):
            options = RasterOptions(sh_degree=3, rasterize_mode=mode, render_mode="RGB+ED")
            report[f"twin_{mode}"] = self._against_the_twin(options)
        scene, cameras = seeded_scene(20_000), orbit(2, 400, 300)
        here = [part.to(self.device) for part in (*scene, *cameras)]
        ours = gradients(rasterize, here, 400, 300, OPTIONS)
        cpu = gradients(rasterize, [*scene, *cameras], 400, 300, OPTIONS)
        report["cpu"] = errors(ours, cpu)
        sums = splat_statistics(*here[:4], *here[5:], 400, 300)  # pyright: ignore
        truth = splat_statistics(*scene[:4], *cameras, 400, 300)
        for name in ("hits", "weight", "weight_sq", "max_weight"):
            report[f"statistics_{name}"] = relative(getattr(sums, name), getattr(truth, name))
        packed = pack(*scene)
        image, _ = rasterize_packed(packed.to(self.device), *here[5:], 400, 300, OPTIONS)
        whole, _ = rasterize_packed(packed, *cameras, 400, 300, OPTIONS)
        report["packed_psnr"] = psnr(image, whole)
        return report

    def _against_the_twin(self, options: RasterOptions) -> Report:
        scene, cameras = seeded_scene(800), orbit(1, 64, 48)
        here = [part.to(self.device) for part in (*scene, *cameras)]
        doubles = [part.double() for part in (*scene, *cameras)]
        ours = gradients(rasterize, here, 64, 48, options)
        return errors(ours, gradients(_reference.rasterize, doubles, 64, 48, options))

    def times(self) -> Report:
        """Milliseconds of each kind of call by the number of Gaussians."""
        return {str(size): self._times_of(size) for size in self.sizes}

    def _times_of(self, size: int) -> Report:
        scene, cameras = self._scene(size)
        draw = render_call(rasterize, scene, cameras, self.width, self.height)
        report: Report = {"scene_bytes": sum(t.numel() * 4 for t in scene)}
        report["forward_ms"] = self._median(draw)
        report["peak_bytes"] = self._peak(draw)
        report["forward_and_backward_ms"] = self._median(
            training_call(rasterize, scene, cameras, self.width, self.height)
        )
        report["statistics_ms"] = self._median(
            lambda k: splat_statistics(
                *scene[:4],
                *one(cameras, k),
                self.width,
                self.height,  # pyright: ignore
            )
        )
        report["stages_ms"] = self._stages(draw)
        for kind in ("int8", "half"):
            packed = pack(*scene, half=kind == "half")  # pyright: ignore
            report[f"packed_{kind}_bytes"] = packed.size
            report[f"packed_{kind}_ms"] = self._median(
                lambda k, packed=packed: rasterize_packed(
                    packed, *one(cameras, k), self.width, self.height, OPTIONS
                )
            )
            image, _ = rasterize_packed(packed, *one(cameras, 0), self.width, self.height, OPTIONS)
            report[f"packed_{kind}_psnr"] = psnr(image, draw(0)[0])
        report["fps"] = 1000 / report["forward_ms"]["median"]
        return report

    def gsplat(self) -> Report:
        """gsplat's rasterization() on the same scenes, and how far its pictures are from ours."""
        if self.device.type != "cuda":
            return {"skipped": "no GPU"}
        try:
            import gsplat  # pyright: ignore
        except ImportError as error:
            return {"skipped": f"gsplat cannot be imported: {error}"}
        report: Report = {"version": gsplat.__version__}
        for size in self.sizes:
            scene, cameras = self._scene(size)
            rows: Report = {}
            for packed in (False, True):

                def theirs(*a: Any, packed: bool = packed) -> Any:
                    return gsplat.rasterization(*a[:9], sh_degree=3, packed=packed)

                draw = render_call(theirs, scene, cameras, self.width, self.height)
                kind = "packed" if packed else "dense"
                rows[f"{kind}_forward_ms"] = self._median(draw)
                rows[f"{kind}_forward_and_backward_ms"] = self._median(
                    training_call(theirs, scene, cameras, self.width, self.height)
                )
                ours = render_call(
                    rasterize, scene, cameras, self.width, self.height,
                    RasterOptions(sh_degree=3, alpha_clamp=0.999, compensation_floor=0.0),
                )  # fmt: skip
                rows[f"{kind}_psnr"] = psnr(ours(0)[0], draw(0)[0])
            report[str(size)] = rows
        return report

    def sanitizer(self) -> Report:
        """compute-sanitizer's tools on a small case; the last line of each."""
        tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
        if self.device.type != "cuda" or not Path(tool).exists():
            return {"skipped": "no GPU" if Path(tool).exists() else "no compute-sanitizer"}
        report: Report = {}
        for check in ("memcheck", "racecheck", "initcheck", "synccheck"):
            command = [tool, "--tool", check, sys.executable, __file__, "--small-case"]
            try:
                done = subprocess.run(
                    command, capture_output=True, text=True, timeout=SANITIZER_SECONDS
                )
                lines = (done.stdout + done.stderr).strip().splitlines()
                found = [line for line in lines if "=========" in line]
                report[check] = {"status": done.returncode, "lines": found[:20] + found[-2:]}
            except subprocess.TimeoutExpired:
                report[check] = {"status": None, "lines": [f"longer than {SANITIZER_SECONDS} s"]}
        return report

    def _scene(self, size: int) -> tuple[Scene, tuple[Tensor, Tensor]]:
        scene = tuple(part.to(self.device) for part in seeded_scene(size))
        views, Ks = orbit(5, self.width, self.height)
        return scene, (views.to(self.device), Ks.to(self.device))

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _median(self, call: Callable[[int], Any]) -> Report:
        """Of whole calls, the host's part included: each is waited for."""
        for k in range(5):  # Room for the largest frame is found here.
            call(k)
        times = []
        for k in range(self.frames):
            self._wait()
            began = time.perf_counter()
            call(k)
            self._wait()
            times.append(1000 * (time.perf_counter() - began))
        self._wait()
        began = time.perf_counter()
        for k in range(self.frames):
            call(k)
        self._wait()
        queued = 1000 * (time.perf_counter() - began) / self.frames
        low, median, high = statistics.quantiles(times, n=4)
        return {"median": median, "quartiles": [low, high], "back_to_back": queued}

    def _peak(self, call: Callable[[int], Any]) -> int | None:
        if self.device.type != "cuda":
            return None
        torch.cuda.reset_peak_memory_stats(self.device)
        call(0)
        self._wait()
        return torch.cuda.max_memory_allocated(self.device)

    def _stages(self, call: Callable[[int], Any]) -> Report | None:
        """Medians of each kernel, by events around each launch."""
        if self.device.type != "cuda":
            return None
        backend = splat_cuda.backend_on(cuda.require(self.device))
        timed = TimedKernels(backend.kernels)
        backend.kernels = timed
        try:
            for k in range(self.frames):
                call(k)
        finally:
            backend.kernels = timed.kernels
        return timed.medians(self.frames)


class TimedKernels:
    """Kernels with events around each launch."""

    def __init__(self, kernels: cuda.Kernels) -> None:
        self.kernels, self.device, self.processors = kernels, kernels.device, kernels.processors
        self.events: dict[str, list[tuple[torch.cuda.Event, torch.cuda.Event]]] = {}

    def launch(self, kernel: str, *arguments: int, macros: cuda.Macros = ()) -> None:
        pair = (torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True))
        pair[0].record()
        self.kernels.launch(kernel, *arguments, macros=macros)  # pyright: ignore
        pair[1].record()
        self.events.setdefault(kernel, []).append(pair)

    def medians(self, frames: int) -> Report:
        """Milliseconds a frame of each kernel, all its launches together."""
        torch.cuda.synchronize(self.device)
        return {
            kernel: statistics.median(a.elapsed_time(b) for a, b in pairs) * len(pairs) / frames
            for kernel, pairs in self.events.items()
        }


def one(cameras: tuple[Tensor, Tensor], k: int) -> tuple[Tensor, Tensor]:
    c = k % len(cameras[0])
    return cameras[0][c : c + 1], cameras[1][c : c + 1]


def render_call(
    draw: Callable[..., Any],
    scene: Scene,
    cameras: tuple[Tensor, Tensor],
    width: int,
    height: int,
    options: RasterOptions = OPTIONS,
) -> Callable[[int], Any]:
    """call(k) draws the k-th view."""

    def call(k: int) -> Any:
        with torch.no_grad():
            return draw(*scene, *one(cameras, k), width, height, options)

    return call


def training_call(
    draw: Callable[..., Any],
    scene: Scene,
    cameras: tuple[Tensor, Tensor],
    width: int,
    height: int,
) -> Callable[[int], Any]:
    """call(k) draws the k-th view and finds the gradients of its mean square."""
    leaves = [part.clone().requires_grad_() for part in scene]

    def call(k: int) -> Any:
        image = draw(*leaves, *one(cameras, k), width, height, OPTIONS)[0]
        return torch.autograd.grad(image.square().mean(), leaves)

    return call


def gradients(
    draw: Callable[..., Any], inputs: list[Tensor], width: int, height: int, options: RasterOptions
) -> Report:
    """Image, alpha and the gradients of a fixed random linear form of both."""
    leaves = [part.clone().requires_grad_() for part in inputs[:6]]
    image, alpha, _ = draw(*leaves, inputs[6], width, height, options)
    g = torch.Generator().manual_seed(1)
    forms = [torch.randn(t.shape, generator=g).to(t) for t in (image, alpha)]
    grads = torch.autograd.grad([image, alpha], leaves, forms)
    return {"image": image, "alpha": alpha} | dict(zip(NAMES, grads, strict=True))


def errors(ours: Report, truth: Report) -> Report:
    """PSNR of the pictures, relative L2 error of each gradient."""
    found: Report = {f"{name}_psnr": psnr(ours[name], truth[name]) for name in ("image", "alpha")}
    return found | {f"{name}_grad": relative(ours[name], truth[name]) for name in NAMES}


def psnr(ours: Tensor, truth: Tensor) -> float:
    error = (ours.detach().cpu().double() - truth.detach().cpu().double()).square().mean()
    return -10 * math.log10(float(error) + 1e-30)


def relative(ours: Tensor, truth: Tensor) -> float:
    a, b = ours.detach().cpu().double(), truth.detach().cpu().double()
    return float((a - b).norm() / b.norm())


def orbit(count: int, width: int, height: int) -> tuple[Tensor, Tensor]:
    """Cameras on a circle around the seeded scene."""
    views = torch.zeros(count, 4, 4)
    for i in range(count):
        c, s = math.cos(0.7 * i), math.sin(0.7 * i)
        rows = [[c, 0, s, 0.1], [0, 1, 0, -0.2], [-s, 0, c, 5.0], [0, 0, 0, 1]]
        views[i] = torch.tensor(rows)
    focal = 0.8 * width
    K = torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    return views, K.expand(count, 3, 3).contiguous()


def small_case(device: torch.device) -> None:
    """A frame, its gradients, statistics and a packed frame."""
    scene, cameras = seeded_scene(2000), orbit(1, 80, 60)
    here = [part.to(device) for part in (*scene, *cameras)]
    gradients(rasterize, here, 80, 60, RasterOptions(sh_degree=3, render_mode="RGB+D"))
    splat_statistics(*here[:4], *here[5:], 80, 60)  # pyright: ignore
    rasterize_packed(pack(*here[:5]), *here[5:], 80, 60, OPTIONS)  # pyright: ignore
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def first_frame(environment: dict[str, str]) -> float:
    """Seconds from the first call to the finished picture, in a process of its own."""
    code = (
        "import time, torch; torch.zeros(1).cuda()\n"
        "from gpu import seeded_scene, orbit, rasterize, OPTIONS\n"
        "parts = [p.cuda() for p in (*seeded_scene(1000), *orbit(1, 320, 240))]\n"
        "torch.cuda.synchronize(); t = time.perf_counter()\n"
        "rasterize(*parts, 320, 240, OPTIONS)[0].cpu(); print(time.perf_counter() - t)"
    )
    here = Path(__file__).parent
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=here, env=environment, capture_output=True, text=True
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip().splitlines()[-1])
    return float(done.stdout.split()[-1])


def name_of(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def table(report: Report) -> str:
    """The figures that were asked for, one line each."""
    lines = []
    for unit, rows in report.get("compile", {}).get("units", {}).items():
        parts = [f"{a} {r['seconds']:.2f} s {r['bytes']:,} B" for a, r in rows.items()]
        lines.append(f"{unit + '.cu':14}" + "   ".join(parts))
    for name in ("first_frame_cold_seconds", "first_frame_cached_seconds"):
        if name in report.get("compile", {}):
            lines.append(f"{name} {report['compile'][name]:.2f}")
    for name, found in report.get("parity", {}).items():
        if isinstance(found, dict):
            found = "  ".join(f"{k} {v:.3g}" for k, v in found.items())
        lines.append(f"parity {name}: {found}")
    lines += _speeds(report)
    for check, found in report.get("sanitizer", {}).items():
        last = found["lines"][-1] if isinstance(found, dict) and found["lines"] else found
        lines.append(f"sanitizer {check}: {last}")
    return "\n".join(lines)


def _speeds(report: Report) -> list[str]:
    peers, lines = report.get("gsplat", {}), []
    for size, rows in report.get("times", {}).items():
        if not isinstance(rows, dict):
            continue
        forward = rows["forward_ms"]["median"]
        both = rows["forward_and_backward_ms"]["median"]
        lines.append(
            f"{int(size):>9,} Gaussians: forward {forward:.2f} ms (queued"
            f" {rows['forward_ms']['back_to_back']:.2f}), with backward {both:.2f},"
            f" statistics {rows['statistics_ms']['median']:.2f},"
            f" int8 {rows['packed_int8_ms']['median']:.2f} in"
            f" {rows['packed_int8_bytes'] / rows['scene_bytes']:.2f} of the memory"
            f" at {rows['packed_int8_psnr']:.1f} dB"
        )
        if rows.get("stages_ms"):
            stages = "  ".join(f"{k} {v:.3f}" for k, v in rows["stages_ms"].items())
            lines.append(f"          {stages}")
        if size in peers:
            for kind in ("dense", "packed"):
                theirs = peers[size][f"{kind}_forward_ms"]["median"]
                trained = peers[size][f"{kind}_forward_and_backward_ms"]["median"]
                lines.append(
                    f"          gsplat {kind}: forward {theirs:.2f} ms ({theirs / forward:.2f}x"
                    f" ours), with backward {trained:.2f} ({trained / both:.2f}x),"
                    f" {peers[size][f'{kind}_psnr']:.1f} dB apart"
                )
    if "skipped" in peers:
        lines.append(f"gsplat: {peers['skipped']}")
    return lines


if __name__ == "__main__":
    sys.exit(main())

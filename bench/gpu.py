"""Everything that needs a GPU: is it right, and how fast is it?

    bench/gpu.sh [--sizes 100000,1000000,5000000] [--only parity,times,...] [--rehearse]

Sections, each of which may fail without the others: compile (every CUDA source by NVRTC, cold and
from the cache; the only one without a GPU), parity (values, gradients, statistics and packed
scenes against the CPU path and the twin), fields_parity (encodings, networks and radiance fields
against the CPU), times (forward, backward, statistics, packed, stages), fields (beside torch and,
where it is installed, tiny-cuda-nn), fit (training steps a second), gsplat (the same where it can
be imported), sanitizer (compute-sanitizer on a small case). Writes bench/results/gpu.json after
each section, without a GPU bench/results/gpu_compile.json.
--rehearse runs it all on the CPU path with tiny scenes, so that no GPU time goes to typos.
"""

from __future__ import annotations

import argparse
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

import gpu_fields
import torch
from gpu_cases import (
    OPTIONS,
    Report,
    Scene,
    TimedKernels,
    errors,
    gradients,
    one,
    orbit,
    psnr,
    relative,
    render_call,
    small_case,
    training_call,
)
from gpu_table import table
from raster_cpu import seeded_scene
from record import write
from torch import Tensor

from fieldpress.fields import encoding_cuda
from fieldpress.gaussians.model import SplatModel
from fieldpress.gaussians.train import Trainer, TrainSettings
from fieldpress.render import _reference, cuda, splat_cuda
from fieldpress.render.packed import PackedGaussians, pack, rasterize_packed
from fieldpress.render.photometric import photometric_loss
from fieldpress.render.splat import RasterOptions, rasterize
from fieldpress.render.statistics import statistics as splat_statistics
from fieldpress.scenes.cameras import Cameras

ARCHITECTURES = ("sm_80", "sm_90", "sm_120")
WIDTH, HEIGHT = 1920, 1080
SANITIZER_SECONDS = 100
SECTIONS = "compile,parity,fields_parity,times,fields,fit,gsplat,sanitizer"
# A radiance field's encoding of the default kind, its networks, a picture's.
KIND = {"DIMS": 3, "FEATURES": 2, "LATTICE": 2, "STORAGE": 0}
NETWORKS = {"LEVELS": 10, "NEURONS": 32, "HIDDEN": 1, "OUTPUTS": 16}
HEAD = {"HEAD_NEURONS": 32, "HEAD_HIDDEN": 2}
FIELD_UNITS = [
    (encoding_cuda.LIBRARY, unit, tuple((f"FIELDPRESS_{k}", v) for k, v in macros.items()))
    for unit, macros in {
        "encode": KIND, "scatter": KIND, "slope": KIND, "adam": {}, "march": {},
        "network": KIND | NETWORKS, "radiance": KIND | NETWORKS | HEAD,
    }.items()
]  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="100000,1000000,5000000")
    parser.add_argument(
        "--only", default="compile,parity,fields_parity,times,fields,fit,gsplat,sanitizer"
    )
    parser.add_argument("--frames", type=int, default=30)
    parser.add_argument("--rehearse", action="store_true")
    parser.add_argument("--small-case", action="store_true", help="what the sanitizer runs")
    args = parser.parse_args()
    if args.small_case:
        small_case(torch.device("cuda"))
        gpu_fields.small_case(torch.device("cuda"))
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
        channels = (("FIELDPRESS_CHANNELS", 3),)
        units = [(cuda.LIBRARY, u, channels if "blend" in u else ()) for u in cuda.LIBRARY.units]
        for library, unit, macros in [*units, *FIELD_UNITS]:
            rows = {}
            for arch in ARCHITECTURES:
                began = time.perf_counter()
                size = len(cuda.compile_unit(unit, arch, macros, library))
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
        report["photometric"] = self._photometric()
        packed = pack(*scene)
        image, _ = rasterize_packed(packed.to(self.device), *here[5:], 400, 300, OPTIONS)
        whole, _ = rasterize_packed(packed, *cameras, 400, 300, OPTIONS)
        report["packed_psnr"] = psnr(image, whole)
        return report

    def _photometric(self) -> Report:
        image, target = torch.rand(2, 1, 200, 300, 3, generator=torch.Generator().manual_seed(2))
        found = []
        for device in (self.device, torch.device("cpu")):
            x = image.to(device).requires_grad_()
            value = photometric_loss(x, target.to(device))
            found.append((float(value.detach()), torch.autograd.grad(value, x)[0]))
        return {"value": abs(found[0][0] - found[1][0]), "grad": relative(found[0][1], found[1][1])}

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
        report["workspace_bytes"] = self._workspace(draw)
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

            def draw_packed(k: int, packed: PackedGaussians = packed) -> Any:
                view = one(cameras, k)
                return rasterize_packed(packed, *view, self.width, self.height, OPTIONS)

            report[f"packed_{kind}_bytes"] = packed.size
            report[f"packed_{kind}_ms"] = self._median(draw_packed)
            report[f"packed_{kind}_workspace_bytes"] = self._workspace(draw_packed)
            report[f"packed_{kind}_psnr"] = psnr(draw_packed(0)[0], draw(0)[0])
        report["fps"] = 1000 / report["forward_ms"]["median"]
        return report

    def fit(self) -> Report:
        """Training steps a second at the first size, on renders of the scene."""
        size, steps = self.sizes[0], 10 * self.frames
        scene, cameras = self._scene(size)
        photos = torch.cat([
            rasterize(*scene, *one(cameras, k), self.width, self.height, OPTIONS)[0]  # pyright: ignore
            for k in range(len(cameras[0]))
        ]).clamp(0, 1)  # fmt: skip
        means, quats, scales, opacities, colors = scene
        start = SplatModel(
            means=means, quats=quats, scales=scales.log(), opacities=torch.logit(opacities, 1e-6),
            sh0=colors[:, :1].clone(), shN=torch.zeros_like(colors[:, 1:]),
        )  # fmt: skip
        views = Cameras(cameras[0].cpu(), cameras[1].cpu(), self.width, self.height)
        trainer = Trainer(start, views, photos, TrainSettings(steps=2 * steps))
        first = [trainer.step() for _ in range(5)]
        self._wait()
        began = time.perf_counter()
        last = [trainer.step() for _ in range(steps)][-5:]
        self._wait()
        seconds = time.perf_counter() - began
        if statistics.mean(last) >= statistics.mean(first):
            raise RuntimeError(f"the loss did not fall: {first} to {last}")
        return {"gaussians": size, "steps_per_second": steps / seconds, "loss": [first, last]}

    def fields_parity(self) -> Report:
        """Encodings, networks and radiance fields against the CPU's."""
        return gpu_fields.parity(self.device)

    def fields(self) -> Report:
        """Milliseconds of encodings, networks and pictures."""
        points, size = (1 << 20, 800) if self.width == WIDTH else (2000, 16)
        return gpu_fields.times(self.device, self._median, points, size)

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

    def _workspace(self, call: Callable[[int], Any]) -> int | None:
        if self.device.type != "cuda":
            return None
        self._wait()
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        call(0)
        self._wait()
        return torch.cuda.max_memory_allocated(self.device) - before

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


def first_frame(environment: dict[str, str]) -> float:
    """Seconds from the first call to the finished picture, in a process of its own."""
    code = (
        "import time, torch; torch.zeros(1).cuda()\n"
        "from gpu_cases import seeded_scene, orbit, rasterize, OPTIONS\n"
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


if __name__ == "__main__":
    sys.exit(main())

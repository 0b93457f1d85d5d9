"""CUDA at run time: sources to machine code by NVRTC, kept in a cache, launched on torch's stream.

Neither a CUDA toolkit nor a compiler is needed: NVRTC comes with the extras cuda12 and cuda13, and
with every CUDA build of torch.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import tempfile
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

NATIVE = Path(__file__).with_name("native")
MOST_SHAPES = 4096  # Launch shapes that are kept.
OLDEST = (7, 0)  # Compute capability: warps whose lanes are scheduled on their own.
Macros = tuple[tuple[str, int], ...]


@dataclass(frozen=True)
class Library:
    """The CUDA sources of a folder.

    Attributes:
        folder: where they and their headers lie; those of this domain are found as well.
        units: the kernels of each source NAME.cu.
    """

    folder: Path
    units: Mapping[str, tuple[str, ...]]

    @cached_property
    def unit_of(self) -> dict[str, str]:
        """The source of each kernel."""
        return {kernel: unit for unit, kernels in self.units.items() for kernel in kernels}

    def sources(self, unit: str) -> list[Path]:
        """All that the machine code of a source may depend on."""
        folders = dict.fromkeys((self.folder, NATIVE))
        headers = [path for folder in folders for path in sorted(folder.glob("*.h"))]
        return [self.folder / f"{unit}.cu", *headers, *sorted(NATIVE.glob("nvrtc/*"))]


LIBRARY = Library(
    NATIVE,
    {
        "project": ("prepare_camera", "project", "write_details"),
        "sort": ("sort_count", "sort_begin", "sort_pass"),
        "tiles": ("emit", "find_ranges"),
        "blend": ("blend",),
        "unblend": ("unblend",),
        "measure": ("measure",),
        "unproject": ("unproject", "finish_pose"),
        "gather": ("gather",),
        "loss": ("loss_moments", "loss_compare", "loss_gradient"),
    },
)


class Kernels(Protocol):
    """Compiled kernels on one device."""

    device: torch.device
    processors: int

    def launch(
        self, kernel: str, blocks: int, threads: int, *arguments: int, macros: Macros = ()
    ) -> None:
        """Runs `threads` threads in each of `blocks` blocks; arguments are of eight bytes each."""
        ...


def require(device: torch.device | str) -> torch.device:
    """The device, if it can be used; ValueError with one sentence that says why not."""
    try:
        wanted = torch.device(device)
    except RuntimeError:
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {device!r}") from None
    if wanted.type == "cpu":
        return wanted
    if wanted.type != "cuda":
        raise ValueError(f"device: expected cpu, cuda or cuda:N, got {device}")
    if not torch.backends.cuda.is_built():
        raise ValueError(
            f"device: {device} needs a CUDA build of torch, this is {torch.__version__}"
        )
    if not torch.cuda.is_available():
        raise ValueError(f"device: {device} needs an NVIDIA GPU and its driver, torch finds none")
    count = torch.cuda.device_count()
    index = torch.cuda.current_device() if wanted.index is None else wanted.index
    if index >= count:
        raise ValueError(f"device: expected cuda:0 to cuda:{count - 1}, got {device}")
    if torch.cuda.get_device_capability(index) < OLDEST:
        have = ".".join(map(str, torch.cuda.get_device_capability(index)))
        raise ValueError(f"device: expected compute capability 7.0 or newer, {device} has {have}")
    _cuda_core()
    return torch.device("cuda", index)


def compile_unit(unit: str, arch: str, macros: Macros = (), library: Library = LIBRARY) -> bytes:
    """A cubin of UNIT.cu for an architecture such as sm_90; needs NVRTC, no GPU.

    Raises ValueError where NVRTC is missing or refuses the source.
    """
    core = _cuda_core()
    options = core.ProgramOptions(
        name=f"{unit}.cu",
        arch=arch,
        std="c++17",
        include_path=[str(path) for path in (library.folder, NATIVE, NATIVE / "nvrtc")],
        define_macro=["FIELDPRESS_CUDA", *((name, str(value)) for name, value in macros)],
        device_as_default_execution_space=True,
        ftz=True,  # exp2 in one instruction; no alpha that is drawn is subnormal.
    )
    source = (library.folder / f"{unit}.cu").read_text(encoding="utf-8")
    try:
        return bytes(core.Program(source, "c++", options).compile("cubin").code)
    except Exception as error:  # cuda-core has no one class for what NVRTC says.
        raise ValueError(f"{unit}.cu for {arch}: NVRTC refused it: {error}") from error


def cached_unit(unit: str, arch: str, macros: Macros = (), library: Library = LIBRARY) -> bytes:
    """`compile_unit`, from the user's cache where it has been compiled before."""
    path = cache_folder() / f"{unit}-{arch}-{_digest(unit, arch, macros, library)}.cubin"
    try:
        stored = path.read_bytes()
        if stored[:32] == hashlib.sha256(stored[32:]).digest():
            return stored[32:]
    except OSError:
        pass
    code = compile_unit(unit, arch, macros, library)
    _store(path, hashlib.sha256(code).digest() + code)
    return code


def cache_folder() -> Path:
    """$XDG_CACHE_HOME/fieldpress/cuda, or that below ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "fieldpress" / "cuda"


def _store(path: Path, data: bytes) -> None:
    """Whole or not at all; a cache that cannot be written is no failure."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
            file.write(data)
        os.replace(file.name, path)
    except OSError:
        pass


def _digest(unit: str, arch: str, macros: Macros, library: Library = LIBRARY) -> str:
    """Changes with all that the machine code depends on."""
    nvrtc = importlib.import_module("cuda.bindings.nvrtc").nvrtcVersion()
    whole = hashlib.sha256(repr((arch, macros, tuple(map(str, nvrtc)))).encode())
    for path in library.sources(unit):
        whole.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()[:24]


def _cuda_core() -> Any:
    for name in ("cuda.core", "cuda.core.experimental"):  # The latter before version 0.5.
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if hasattr(module, "Program"):
            return module
    raise ValueError(
        "device: cuda needs cuda-core and NVRTC: pip install 'fieldpress[cuda13]' (or cuda12)"
    )


def uploaded(data: bytes, device: torch.device) -> Tensor:
    """The bytes on the device; on CUDA by way of pinned memory, so that nobody waits."""
    here = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    if device.type != "cuda":
        return here
    pinned = torch.empty(len(data), dtype=torch.uint8, pin_memory=True)
    pinned.copy_(here)
    return pinned.to(device, non_blocking=True)


class DeviceKernels:
    """Compiles each unit for the device when it is first launched."""

    def __init__(self, device: torch.device, library: Library = LIBRARY) -> None:
        self.device, self.library = device, library
        properties = torch.cuda.get_device_properties(device)
        self.processors = properties.multi_processor_count
        self.arch = f"sm_{properties.major}{properties.minor}"
        self._core = _cuda_core()
        self._kernels: dict[tuple[str, Macros], Any] = {}
        self._streams: dict[int, Any] = {}
        self._shapes: dict[tuple[int, int], Any] = {}
        self._here = threading.local()
        torch.cuda.init()

    def launch(
        self, kernel: str, blocks: int, threads: int, *arguments: int, macros: Macros = ()
    ) -> None:
        """See `Kernels`; on the current stream of torch."""
        if torch.cuda.current_device() != self.device.index:
            with torch.cuda.device(self.device):
                return self.launch(kernel, blocks, threads, *arguments, macros=macros)
        if not hasattr(self._here, "ready"):
            # The driver wants a context in every thread: autograd and viewers have their own, and
            # torch makes one current only when it first calls the runtime there.
            self._core.Device(self.device.index).set_current()
            self._here.ready = True
        found = self._kernels.get((kernel, macros)) or self._load(kernel, macros)
        handle = torch.cuda.current_stream(self.device).cuda_stream
        stream = self._streams.get(handle)
        if stream is None:
            stream = self._streams[handle] = self._core.Stream.from_handle(handle)
        shape = self._shapes.get((blocks, threads))
        if shape is None:
            if len(self._shapes) >= MOST_SHAPES:
                self._shapes.clear()
            shape = self._core.LaunchConfig(grid=blocks, block=threads)
            self._shapes[blocks, threads] = shape
        self._core.launch(stream, shape, found, *arguments)

    def _load(self, kernel: str, macros: Macros) -> Any:
        unit = self.library.unit_of[kernel]
        code = cached_unit(unit, self.arch, macros, self.library)
        module = self._core.ObjectCode.from_cubin(code)
        for name in self.library.units[unit]:
            self._kernels[name, macros] = module.get_kernel(name)
        return self._kernels[kernel, macros]


def kernels_on(device: torch.device, library: Library = LIBRARY) -> DeviceKernels:
    """The kernels of a GPU; ValueError with one sentence where it cannot be used."""
    return DeviceKernels(require(device), library)

"""The import rule, the names of modules, and the stubs of the compiled modules."""

from __future__ import annotations

import ast
import importlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "fieldpress"
LEAVES = {"quant", "render", "scenes"}
ALLOWED = {
    "quant": set(),
    "render": set(),
    "scenes": set(),
    "gaussians": LEAVES,
    "fields": LEAVES,
    "viewer": {"scenes"},
    "studio": LEAVES | {"gaussians", "fields"},
}
NAMELESS = {"utils", "util", "helpers", "helper", "common", "core", "misc"}
IMPORTERS = {"import_module", "__import__"}


def package_sources() -> list[Path]:
    """Every Python source of the package: root files and domain folders, stubs included."""
    found = list(ROOT.glob("*.py"))
    for domain in ALLOWED:
        found += [path for suffix in ("py", "pyi") for path in (ROOT / domain).rglob(f"*.{suffix}")]
    return sorted(found)


def resolve(level: int, module: str, folder: tuple[str, ...]) -> tuple[str, ...]:
    """The absolute dotted path of an import found in `folder` (its parts below the package)."""
    if level == 0:
        return tuple(module.split("."))
    base = (PACKAGE, *folder)
    if level > len(base):
        return PACKAGE, "beyond its root"
    return base[: len(base) - level + 1] + tuple(module.split(".") if module else ())


def imported(source: str, folder: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
    """Line and absolute dotted path of all that a module imports, wherever it does so."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield node.lineno, resolve(0, alias.name, folder)
        elif isinstance(node, ast.ImportFrom):
            base = resolve(node.level, node.module or "", folder)
            for alias in node.names:
                yield node.lineno, (*base, alias.name)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            function = node.func
            name = function.attr if isinstance(function, ast.Attribute) else ""
            name = function.id if isinstance(function, ast.Name) else name
            if name in IMPORTERS and isinstance(node.args[0].value, str):
                text = node.args[0].value
                level = len(text) - len(text.lstrip("."))
                yield node.lineno, resolve(level, text.lstrip("."), folder)


def violations(source: str, path: str) -> list[str]:
    """Each import in the file `path` (relative to the root) that the layers forbid."""
    folder = PurePosixPath(path).parts[:-1]
    if not folder:
        return []  # Root files see all.
    allowed = ALLOWED[folder[0]] | {folder[0]}
    found = []
    for line, target in imported(source, folder):
        if target[0] == PACKAGE and (len(target) == 1 or target[1] not in allowed):
            found.append(f"{path}:{line}: {folder[0]} imports {'.'.join(target)}")
    return found


@pytest.mark.parametrize("path", package_sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_obey_the_layers(path):
    relative = path.relative_to(ROOT).as_posix()
    assert violations(path.read_text(encoding="utf-8"), relative) == []


def test_every_domain_has_its_rule():
    domains = {
        path.parent.name for path in ROOT.glob("*/__init__.py") if path.parent.name[0] not in "._"
    }
    assert domains == set(ALLOWED)


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("quant/a.py", "from ..scenes.cameras import Cameras"),
        ("quant/a.py", "from .. import scenes"),
        ("quant/a.py", "from .. import __version__"),
        ("quant/a.py", "from .. import *"),
        ("quant/a.py", "import fieldpress"),
        ("quant/a.py", "import numpy, fieldpress.render.splat as s"),
        ("quant/a.py", "from fieldpress import render"),
        ("quant/a.py", "from fieldpress.render.splat import rasterize"),
        ("quant/_native.pyi", "from ..render import splat"),
        ("quant/deep/a.py", "from ...render import splat"),
        ("quant/deep/a.py", "from ....elsewhere import splat"),
        ("render/a.py", "def f():\n    from ..gaussians.model import SplatModel"),
        ("render/a.py", "class A:\n    def f(self):\n        import fieldpress.quant"),
        ("scenes/a.py", "if TYPE_CHECKING:\n    from ..render.splat import RasterOptions"),
        ("scenes/a.py", "try:\n    from .. import viewer\nexcept ImportError:\n    pass"),
        ("gaussians/a.py", "from ..fields import mlp"),
        ("gaussians/a.py", "from ..models import load"),
        ("gaussians/a.py", "from ..viewer import server"),
        ("fields/a.py", "from ..gaussians.model import SplatModel"),
        ("fields/a.py", "import importlib\nimportlib.import_module('fieldpress.gaussians')"),
        ("fields/a.py", "import_module('..gaussians.model', __package__)"),
        ("fields/a.py", "__import__('fieldpress.gaussians.model')"),
        ("viewer/a.py", "from ..render.splat import rasterize"),
        ("viewer/a.py", "from ..gaussians.model import SplatModel"),
    ],
)
def test_a_violation_is_seen(path, source):
    assert len(violations(source, path)) == 1


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("quant/a.py", "from . import container\nfrom .container import read\nimport torch"),
        ("quant/a.py", "from ..quant.container import read\nimport fieldpress.quant.container"),
        ("quant/deep/a.py", "from ..container import read\nfrom . import b"),
        ("quant/a.py", "import fieldpress_extras\nfrom fieldpressed import scenes"),
        ("gaussians/a.py", "from ..quant import container\nfrom ..render.splat import rasterize"),
        ("gaussians/a.py", "from ..scenes.cameras import Cameras\nfrom .model import SplatModel"),
        ("fields/a.py", "def f():\n    from fieldpress.quant import container"),
        ("viewer/a.py", "from ..scenes.cameras import Cameras"),
        ("models.py", "from . import gaussians, fields, viewer\nimport fieldpress.render"),
        ("quant/a.py", "import importlib\nimportlib.import_module(name)"),
    ],
)
def test_what_is_allowed_is_not_reported(path, source):
    assert violations(source, path) == []


def test_no_module_is_named_for_nothing():
    folders = [ROOT / name for name in (*ALLOWED, "tests", "bench")]
    paths = [*ROOT.glob("*.py"), *ROOT.glob("*/")]
    paths += [path for folder in folders for path in folder.rglob("*")]
    bad = [path for path in paths if path.name.split(".")[0].strip("_") in NAMELESS]
    assert bad == []


def stub_names(source: str) -> set[str]:
    """Public functions, classes and annotated constants that a stub declares."""
    names = set()
    for node in ast.parse(source).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            names.add(node.target.id)
        elif isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def test_stub_names_are_found():
    stub = "from torch import Tensor\nA: int\n_b: int\nclass C: ...\ndef f(x: Tensor) -> int: ..."
    assert stub_names(stub) == {"A", "C", "f"}


@pytest.mark.parametrize(
    "domain", sorted(name for name in ALLOWED if (ROOT / name / "native").is_dir())
)
def test_stub_declares_what_is_compiled(domain):
    try:
        native = importlib.import_module(f"{PACKAGE}.{domain}._native")
    except ModuleNotFoundError:
        pytest.skip(f"{PACKAGE}.{domain}._native is not built")
    stub = ROOT / domain / "_native.pyi"
    assert stub.exists(), f"{domain}/_native is compiled without a stub"
    compiled = {name for name in dir(native) if not name.startswith("_")}
    assert stub_names(stub.read_text(encoding="utf-8")) == compiled

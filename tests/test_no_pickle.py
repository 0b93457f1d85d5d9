"""Nothing of what is read is ever run: no pickle, no eval, no unpacking of archives to disk."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
DOMAINS = ("fields", "gaussians", "quant", "render", "scenes", "viewer", "bench")
MODULES = {"pickle", "cPickle", "_pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
RUNS = {"eval", "exec", "compile"}
EXTRACTS = {"extract", "extractall", "unpack_archive"}


def sources() -> list[Path]:
    return [*ROOT.glob("*.py"), *(p for d in DOMAINS for p in sorted((ROOT / d).rglob("*.py")))]


def is_constant(call: ast.Call, name: str, value: object) -> bool:
    found = {k.arg: k.value for k in call.keywords}.get(name)
    return isinstance(found, ast.Constant) and found.value is value


def faults(text: str) -> Iterator[str]:
    """What of a source would let a file run code, or write where it likes."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (f"import {a.name}" for a in node.names if a.name.split(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in MODULES:
            yield f"from {node.module}"
        elif isinstance(node, ast.Call):
            yield from called(node)


def called(node: ast.Call) -> Iterator[str]:
    if isinstance(node.func, ast.Name):
        if node.func.id in RUNS:
            yield node.func.id
        return
    if not isinstance(node.func, ast.Attribute):
        return
    name, owner = node.func.attr, ast.unparse(node.func.value)
    if (owner, name) == ("torch", "load") and not is_constant(node, "weights_only", True):
        yield "torch.load without weights_only=True"
    if owner in ("np", "numpy") and name == "load" and not is_constant(node, "allow_pickle", False):
        yield "np.load without allow_pickle=False"
    if is_constant(node, "allow_pickle", True):
        yield "allow_pickle=True"
    if owner == "yaml" and name in ("load", "unsafe_load", "full_load", "load_all"):
        yield f"yaml.{name}"
    if name in EXTRACTS:
        yield name
    if (owner, name) == ("os", "system") or is_constant(node, "shell", True):
        yield "a shell"


@pytest.mark.parametrize("path", sources(), ids=lambda path: str(path.relative_to(ROOT)))
def test_no_source_lets_a_file_run_code(path: Path) -> None:
    assert list(faults(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    "text",
    [
        "import pickle", "from pickle import loads", "import torch\ntorch.load('x')",
        "torch.load('x', weights_only=False)", "np.load('x')", "np.load('x', allow_pickle=True)",
        "yaml.load('x')", "eval('1')", "archive.extractall('x')",
        "subprocess.run('x', shell=True)",
    ],
)  # fmt: skip
def test_the_rule_sees(text: str) -> None:
    assert list(faults(text))

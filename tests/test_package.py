"""The package's files that must agree: table and tree, versions, README and the command."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

import fieldpress
from fieldpress.__main__ import VERBS

ROOT = Path(__file__).resolve().parents[1]
NOT_INSTALLED = {"tests", "bench", "docs", "build", "dist", "demo-out"}
ELSEWHERE = {"plugin", "splats", "nerf"}  # Of studio: imported inside nerfstudio.


@pytest.fixture(scope="module")
def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_wheel_table_names_every_root_file_and_folder(pyproject: dict[str, Any]) -> None:
    """An editable install imports what the table lacks; the wheel silently does not have it."""
    table = pyproject["tool"]["scikit-build"]["wheel"]["packages"]
    files = {path.name for path in ROOT.glob("*.py")} | {"py.typed"}
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")} - NOT_INSTALLED
    assert table == {f"fieldpress/{name}": name for name in files | folders}


def test_versions_agree(pyproject: dict[str, Any]) -> None:
    assert pyproject["project"]["version"] == fieldpress.__version__


def test_build_group_holds_the_build_requirements(pyproject: dict[str, Any]) -> None:
    """The Makefile builds without isolation, from the group."""
    assert set(pyproject["build-system"]["requires"]) <= set(
        pyproject["dependency-groups"]["build"]
    )


def test_readme_shows_the_verbs_that_exist() -> None:
    readme = (ROOT / "README.md").read_text()
    shown = set(re.findall(r"^fieldpress (\w+)", readme, flags=re.MULTILINE))
    tabled = set(re.findall(r"^\| `(\w+)` \|", readme, flags=re.MULTILINE))
    assert shown == tabled == set(VERBS)


def test_readme_has_room_for_results() -> None:
    readme = (ROOT / "README.md").read_text()
    assert readme.index("<!-- results:begin -->") < readme.index("<!-- results:end -->")


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md"])
def test_links_to_files_lead_somewhere(name: str) -> None:
    targets = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text())
    assert [t for t in targets if not (ROOT / t).exists()] == []


@pytest.mark.wheel
def test_installed_version_is_the_imported_one() -> None:
    try:
        installed = importlib.metadata.version("fieldpress")
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("not installed: imported from a path")
    assert installed == fieldpress.__version__


def test_load_and_save_are_the_face() -> None:
    from fieldpress import models

    assert (fieldpress.load, fieldpress.save) == (models.load, models.save)
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        _ = fieldpress.lod  # type: ignore[attr-defined]


@pytest.mark.wheel
def test_help_does_not_wait_for_torch() -> None:
    code = (
        "import sys; from fieldpress.__main__ import main\n"
        "assert main(['compress', '--help']) == main(['--version']) == 0\n"
        "sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True).returncode == 0


@pytest.mark.wheel
def test_every_module_imports() -> None:
    """Also from the wheel, where a file that the table forgot would be missing."""
    root = Path(str(fieldpress.__file__)).parent
    modules = {"fieldpress." + p.stem for p in root.glob("*.py") if not p.stem.startswith("__")}
    for folder in root.glob("*/__init__.py"):
        if folder.parent.name not in NOT_INSTALLED:
            modules |= {
                f"fieldpress.{folder.parent.name}.{p.stem}" for p in folder.parent.glob("*.py")
            }
    modules -= {f"fieldpress.studio.{name}" for name in ELSEWHERE}
    code = (
        "import importlib\nfor m in " + repr(sorted(modules)) + ":\n    importlib.import_module(m)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.wheel
def test_pages_are_installed() -> None:
    """Files that are no Python go into the wheel with their folder."""
    from fieldpress.viewer.server import page
    from fieldpress.viewer.splat_page import SCRIPTS

    assert "class App" in page("title")
    folder = Path(str(fieldpress.__file__)).parent / "viewer" / "page"
    assert all((folder / name).is_file() for name in (*SCRIPTS, "splat_page.html"))

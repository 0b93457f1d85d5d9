"""What a sweep is to measure: scenes, methods and the values of their knobs, from a file."""

from __future__ import annotations

import glob
import itertools
import json
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import remote

SPLAT_JSON = ("meta.json", "lod-meta.json")  # Unbundled SOG: scenes, not manifests.
SAFE_NAME = re.compile(r"[^/\\\x00-\x1f]{1,80}")  # A scene's name is also that of its folder.
UNSAFE = re.compile(r"[/\\\x00-\x1f]")
SPLAT_SUFFIX = re.compile(r"(\.compressed)?\.(ply|spz|sog|fpz|json)$", re.IGNORECASE)
MOST_POINTS = 1000  # Of one method on one scene.
MOST_BYTES = 1 << 20

Settings = dict[str, float]


@dataclass(frozen=True)
class Knob:
    """A number that a method can be set to: its default values and the range that is allowed."""

    values: tuple[float, ...]
    low: float
    high: float
    whole: bool = False
    high_allowed: bool = True

    def check(self, value: Any, where: str) -> float:
        """The number. Raises ValueError naming where it stands."""
        kinds = (int,) if self.whole else (int, float)
        if isinstance(value, kinds) and not isinstance(value, bool):
            below = value <= self.high if self.high_allowed else value < self.high
            if self.low <= value and below:  # Neither is true of NaN.
                return value
        kind = "a whole number" if self.whole else "a number"
        top = f"to {self.high:g}" if self.high_allowed else f"to less than {self.high:g}"
        got = _shown(value)
        raise ValueError(f"{where}: expected {kind} from {self.low:g} {top}, got {got}")


PRUNE = Knob((0.0, 0.1, 0.2, 0.35, 0.6), 0, 1, high_allowed=False)
SH_DEGREE = Knob((4, 1, 0), 0, 4, whole=True)  # 4: as the scene has them.
TARGET_DB = Knob((32, 36.5, 40, 44, 48), 5, 90)
KNOBS: dict[str, dict[str, Knob]] = {
    "fieldpress": {"target_db": TARGET_DB},
    "fieldpress-fast": {"target_db": TARGET_DB},
    "spz": {
        "prune": PRUNE,
        "sh_degree": Knob((4, 0), 0, 4, whole=True),
        "sh_bits": Knob((8, 7, 6, 5, 4), 1, 8, whole=True),
    },
    "compressed.ply": {"prune": PRUNE, "sh_degree": SH_DEGREE},
    "sog": {"prune": PRUNE, "sh_degree": SH_DEGREE},
    "lightgaussian-posthoc": {
        "prune": Knob((0.0, 0.15, 0.3, 0.45, 0.66, 0.8), 0, 1, high_allowed=False),
        "sh_degree": Knob((2,), 0, 4, whole=True),
        "vq_share": Knob((0.6,), 0, 1),
        "vq_steps": Knob((1000,), 0, 100_000, whole=True),
    },
}
METHODS = tuple(name for name in KNOBS if name != "fieldpress-fast")  # Where none is named.


@dataclass(frozen=True)
class SceneEntry:
    """A splat file or folder, the photographs to measure it on, and what reports call it."""

    name: str
    path: Path | str  # A string is a URL.
    scene: Path | None = None
    downscale: float = 1.0


@dataclass(frozen=True)
class MethodEntry:
    """A method and the values of all its knobs."""

    name: str
    values: Mapping[str, tuple[float, ...]]

    def points(self, sh_degree: int) -> list[Settings]:
        """What to run on a scene of that degree: every combination that differs, in order."""
        found: list[Settings] = []
        for combination in itertools.product(*self.values.values()):
            settings = dict(zip(self.values, combination, strict=True))
            if "sh_degree" in settings:
                settings["sh_degree"] = min(settings["sh_degree"], sh_degree)
                if not settings["sh_degree"]:
                    settings.pop("sh_bits", None)
            if settings not in found:
                found.append(settings)
        return found


@dataclass(frozen=True)
class Manifest:
    """A whole sweep."""

    scenes: tuple[SceneEntry, ...]
    methods: tuple[MethodEntry, ...]

    def to_json(self) -> dict[str, Any]:
        """The manifest as a file would have it, paths as they were found."""
        scenes = [
            {
                "name": entry.name,
                "path": str(entry.path),
                "scene": None if entry.scene is None else str(entry.scene),
                "downscale": entry.downscale,
            }
            for entry in self.scenes
        ]
        methods = [
            {"name": m.name} | {k: list(v) for k, v in m.values.items()} for m in self.methods
        ]
        return {"scenes": scenes, "methods": methods}


def gather(sources: Sequence[str], methods: Sequence[Any] = METHODS) -> Manifest:
    """The manifest that is named, or one for the splat files, patterns and URLs that are.

    `methods`, as a manifest has them, are those where it names none.

    Raises:
        ValueError: one line that names the file, the entry and what is wrong with it.
    """
    if not sources:
        raise ValueError(f"expected a manifest ({', '.join(PARSERS)}) or splat files, got nothing")
    manifests = [s for s in sources if not remote.is_url(s) and _is_manifest(Path(s))]
    if manifests and len(sources) > 1:
        raise ValueError(f"{manifests[0]}: a manifest stands alone, got {len(sources)} inputs")
    if manifests:
        return read_manifest(manifests[0], methods)
    for source in sources:
        if not (_is_pattern(source) or remote.is_url(source) or Path(source).exists()):
            raise FileNotFoundError(f"{source}: no such file or folder")
    return _Reader("inputs", Path()).manifest({"scenes": list(sources)}, methods)


def read_manifest(path: str | Path, methods: Sequence[Any] = METHODS) -> Manifest:
    """A manifest from JSON, TOML or YAML; its paths are relative to its folder.

    Raises:
        ValueError: one line that names the file, the entry and what is wrong with it.
    """
    path = Path(path)
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"{path}: expected a manifest of at most {MOST_BYTES} bytes")
        text = path.read_bytes().decode("utf-8")
    except OSError as error:
        raise ValueError(f"{path}: {(error.strerror or 'not readable').lower()}") from None
    except UnicodeDecodeError:
        raise ValueError(f"{path}: expected text in UTF-8") from None
    kind, parse = PARSERS.get(path.suffix, PARSERS[".json"])
    try:
        raw = parse(text)
    except ImportError:
        raise ValueError(f"{path}: YAML needs PyYAML: pip install 'fieldpress[batch]'") from None
    except (ValueError, RecursionError) as error:
        said = " ".join(str(error).split())
        raise ValueError(f"{path}: not {kind}: {said}") from None
    return _Reader(str(path), path.parent).manifest(raw, methods)


def _parse_yaml(text: str) -> Any:
    import yaml

    try:
        if any(isinstance(event, yaml.AliasEvent) for event in yaml.parse(text)):
            raise ValueError("aliases are not taken")  # A few of them can stand for gigabytes.
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


PARSERS = {
    ".json": ("JSON", json.loads),
    ".toml": ("TOML", tomllib.loads),
    ".yaml": ("YAML", _parse_yaml),
    ".yml": ("YAML", _parse_yaml),
}


def _shown(value: Any) -> str:
    shown = repr(value)
    return shown if len(shown) <= 60 else shown[:57] + "..."


def _is_manifest(path: Path) -> bool:
    if _is_pattern(str(path)):
        return False
    return path.suffix in PARSERS and path.name not in SPLAT_JSON and not path.is_dir()


def _is_pattern(text: str) -> bool:
    """Whether a path is to be looked up: it has wildcards, and is no file of that name."""
    if remote.is_url(text):
        return "*" in text  # A ? begins a query.
    return glob.has_magic(text) and not Path(text).exists()


@dataclass(frozen=True)
class _Reader:
    """Turns what a file says into a manifest; `name` and `folder` are the file's."""

    name: str
    folder: Path

    def wrong(self, where: str, expected: str, got: Any) -> ValueError:
        return ValueError(f"{self.name}: {where}: expected {expected}, got {_shown(got)}")

    def manifest(self, raw: Any, methods: Sequence[Any]) -> Manifest:
        table = self.table(raw, "manifest", ("scenes", "methods"))
        return Manifest(
            tuple(self.scenes(self.listed(table.get("scenes"), "scenes"))),
            tuple(self.methods(self.listed(table.get("methods", list(methods)), "methods"))),
        )

    def table(self, raw: Any, where: str, keys: Sequence[str]) -> Mapping[str, Any]:
        if not isinstance(raw, Mapping):
            raise self.wrong(where, f"a table of {', '.join(keys)}", raw)
        for key in raw:
            if key not in keys:
                raise self.wrong(where, f"only {', '.join(keys)}", key)
        return raw

    def listed(self, raw: Any, where: str) -> list[Any]:
        if not isinstance(raw, list) or not raw:
            raise self.wrong(where, "a list that is not empty", raw)
        return raw

    def scenes(self, raw: list[Any]) -> list[SceneEntry]:
        found: list[SceneEntry] = []
        for number, item in enumerate(raw, 1):
            for one in self.matches(item, f"scene {number}"):
                entry = self.scene(one, f"scene {number}", {scene.name for scene in found})
                found.append(entry)
        return found

    def matches(self, item: Any, where: str) -> list[Any]:
        """The paths that a pattern with * stands for; all else as it is."""
        if not isinstance(item, str) or "\x00" in item:
            return [item]
        if remote.is_url(item):
            found = remote.matches(item) if _is_pattern(item) else [item]
        elif _is_pattern(str(self.folder / item)):
            found = sorted(glob.glob(item, root_dir=self.folder, recursive=True))
        else:
            return [item]
        if not found:
            raise self.wrong(where, "a pattern that matches files", item)
        return found

    def scene(self, raw: Any, where: str, taken: set[str]) -> SceneEntry:
        given = {"path": raw} if isinstance(raw, str) else raw
        table = self.table(given, where, ("path", "scene", "downscale", "name"))
        path = table.get("path")
        if not isinstance(path, str) or not remote.is_url(path):
            path = self.path(path, f"{where}, path")
        photos = table.get("scene")
        downscale = Knob((), 1, 64).check(
            table.get("downscale", 1), f"{self.name}: {where}, downscale"
        )
        if "downscale" in table and photos is None:
            raise self.wrong(f"{where}, downscale", "it only beside scene", downscale)
        return SceneEntry(
            name=self.scene_name(table, path, where, taken),
            path=path,
            scene=None if photos is None else self.path(photos, f"{where}, scene"),
            downscale=float(downscale),
        )

    def scene_name(
        self, table: Mapping[str, Any], path: Path | str, where: str, taken: set[str]
    ) -> str:
        name = table.get("name")
        if name is None:  # The file's own, with a number where that is taken.
            own = _short_name(path)
            names = itertools.chain([own], (f"{own}-{i}" for i in itertools.count(2)))
            return next(n for n in names if n not in taken)
        if not isinstance(name, str) or not SAFE_NAME.fullmatch(name) or name.startswith("."):
            raise self.wrong(f"{where}, name", "1 to 80 characters without / or a dot ahead", name)
        if name in taken:
            raise self.wrong(f"{where}, name", "one that no other scene has", name)
        return name

    def path(self, raw: Any, where: str) -> Path:
        if not isinstance(raw, str) or not raw or "\x00" in raw:
            raise self.wrong(where, "a path", raw)
        path = self.folder / raw
        try:
            found = path.exists()
        except OSError:  # Too long for the system.
            found = False
        if not found:
            raise ValueError(f"{self.name}: {where}: {path}: no such file or folder")
        return path

    def methods(self, raw: list[Any]) -> list[MethodEntry]:
        found: list[MethodEntry] = []
        for number, item in enumerate(raw, 1):
            entry = self.method(item, f"method {number}")
            if entry.name in [method.name for method in found]:
                raise self.wrong(f"method {number}", "each method once", entry.name)
            found.append(entry)
        return found

    def method(self, raw: Any, where: str) -> MethodEntry:
        given = {"name": raw} if isinstance(raw, str) else raw
        name = given.get("name") if isinstance(given, Mapping) else given
        if not isinstance(name, str) or name not in KNOBS:
            raise self.wrong(where, f"one of {', '.join(KNOBS)}", name)
        knobs = KNOBS[name]
        table = self.table(given, f"{where}, {name}", ("name", *knobs))
        values = {
            key: self.values(table[key], knob, f"{where}, {name}, {key}")
            if key in table
            else knob.values
            for key, knob in knobs.items()
        }
        if math.prod(len(v) for v in values.values()) > MOST_POINTS:
            raise self.wrong(f"{where}, {name}", f"at most {MOST_POINTS} points", len(values))
        return MethodEntry(name, values)

    def values(self, raw: Any, knob: Knob, where: str) -> tuple[float, ...]:
        items = raw if isinstance(raw, list) else [raw]
        checked = [knob.check(item, f"{self.name}: {where}") for item in self.listed(items, where)]
        return tuple(dict.fromkeys(checked))


def _short_name(path: Path | str) -> str:
    """What a scene is called that was given no name: the file's, or the folder's it lies in."""
    place = path.resolve() if isinstance(path, Path) else Path(path.partition("://")[2])
    name = SPLAT_SUFFIX.sub("", place.name)
    while name in ("", "point_cloud", "meta", "lod-meta") or name.startswith("iteration_"):
        place = place.parent
        name = place.name
        if place == place.parent:
            break
    return UNSAFE.sub("_", name).lstrip(".")[:80] or "scene"

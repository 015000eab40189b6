"""The code of segops: what a stage imports, and a hash of what that does.

A stage depends on the behaviour of the modules that it imports and on the versions of the libraries
that decide its result. The stage ``code`` writes both into one file a stage, on which DVC's stages
depend; the fingerprint of a training and the packaging of a bundle follow the same imports.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from segops.behaviour import assigns, texts, without_unused, wordless
from segops.files import sha256_bytes, sha256_lines, sha256_tree, write_json

ROOT = Path(__file__).parent
PACKAGE = ROOT.name
STAGES = f"{PACKAGE}.stages"

UNHASHED = tuple(
    f"{PACKAGE}.{name}"
    for name in (
        "behaviour", "code", "library", "params.hardware", "params.messages", "params.registry",
        "paths", "progress", "record", "release", "runtime.file_kinds",
    )
)  # fmt: skip
"""Modules whose code decides nothing about a stage's result, or nothing that is not seen otherwise:
``dvc.yaml`` names the paths itself, what the registry hands over enters a training's fingerprint by
its content, and which modules a stage has stands in the file that is written of it."""

DECISIVE: dict[str, tuple[str, ...]] = {
    "PIL": ("pillow",),
    "albumentations": ("albumentations", "opencv-python-headless"),
    "captum": ("captum",),
    "cv2": ("opencv-python-headless",),
    "great_expectations": ("great-expectations",),
    "lightning_fabric": ("lightning-fabric",),
    "matplotlib": ("matplotlib",),
    "numpy": ("numpy",),
    "pandas": ("pandas", "pyarrow"),
    "pyarrow": ("pyarrow",),
    "safetensors": ("safetensors",),
    "scipy": ("scipy",),
    "segmentation_models_pytorch": ("segmentation-models-pytorch", "timm", "torchvision"),
    "timm": ("timm",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
}
"""Imported name -> distributions whose version decides what a stage that imports it comes to. A
module whose result names further versions lists their distributions in a constant LIBRARIES."""


@dataclass(frozen=True)
class StageCode:
    """What a stage's result depends on beside its data and parameters.

    Attributes:
        modules: Hash of what each module of segops does, and of each file that one names.
        libraries: Version of each distribution that decides the result.
    """

    modules: dict[str, str]
    libraries: dict[str, str]

    @property
    def code_hash(self) -> str:
        """SHA-256 over the modules, in hexadecimal."""
        return sha256_lines(f"{name} {self.modules[name]}" for name in sorted(self.modules))

    @property
    def libraries_hash(self) -> str:
        """SHA-256 over the libraries' versions, in hexadecimal."""
        return sha256_lines(f"{name} {self.libraries[name]}" for name in sorted(self.libraries))

    def to_json(self) -> dict[str, Any]:
        """As the stage ``code`` writes it."""
        return asdict(self)


def stage_names() -> list[str]:
    """The stages whose code is hashed: all but ``code`` itself."""
    names = {path.stem for path in (ROOT / "stages").glob("*.py")}
    return sorted(names - {"__init__", "code"})


def stage_code(stage: str) -> StageCode:
    """What the result of a stage depends on beside its data and parameters.

    Args:
        stage: Its name in ``dvc.yaml``.
    """
    return stage_codes()[stage]


def stage_codes() -> dict[str, StageCode]:
    """What :func:`stage_code` tells, of each of :func:`stage_names`.

    What was read is kept beside Python's byte code, for as long as no file of segops changes.
    """
    state = _state()
    read = _kept(state)
    if read is None:
        read = {stage: _stage(stage) for stage in stage_names()}
        if _state() == state:  # nobody edited it meanwhile
            with suppress(OSError):  # an installation that cannot be written to
                write_json(_kept_at(), {"state": state, "stages": read})
    return {
        stage: StageCode(one["modules"], {name: version(name) for name in one["libraries"]})
        for stage, one in read.items()
    }


def _state() -> str:
    """SHA-256 over all that decides what is read of the code, in hexadecimal."""
    return sha256_lines([sys.version, sha256_tree(ROOT)])


def _kept_at() -> Path:
    return Path(cache_from_source(str(ROOT / "stages.py"))).with_suffix(".json")


def _kept(state: str) -> dict[str, Any] | None:
    """What was read of the stages in this state; None where that is not kept."""
    try:
        kept = json.loads(_kept_at().read_text(encoding="utf-8"))
        return dict(kept["stages"]) if kept["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _stage(stage: str) -> dict[str, Any]:
    """Hash of each module of a stage, and the libraries that decide its result."""
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    for name, path in closure([f"{STAGES}.{stage}"], UNHASHED).items():
        source = _source(path)
        modules[name] = source.behaviour
        libraries.update(source.libraries)
        for file in _named_files(path):
            modules[file.relative_to(ROOT).as_posix()] = sha256_bytes(file.read_bytes())
    return {"modules": dict(sorted(modules.items())), "libraries": sorted(libraries)}


def closure(entries: Iterable[str], without: Iterable[str] = ()) -> dict[str, Path]:
    """The modules of segops that running some of them imports, and the file of each.

    Imports inside of functions count, and so do modules that the code names in a string of their
    own, as those are that run in another process. Imports under TYPE_CHECKING do not count.

    Args:
        entries: Names of the modules to begin with.
        without: Modules and packages that are left out, with what they import.
    """
    left_out = tuple(without)
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        path = module_file(name)
        if path is None or name in found:
            continue
        if any(name == one or name.startswith(f"{one}.") for one in left_out):
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_source(path).imports]
    return found


def module_file(name: str) -> Path | None:
    """The file of a module of segops; None where `name` is no such module."""
    top, *parts = name.split(".")
    if top != PACKAGE:
        return None
    place = ROOT.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class _Source:
    """A module as its file was when it was read: SHA-256 of its behaviour, and what it imports."""

    behaviour: str
    imports: tuple[str, ...]
    libraries: frozenset[str]
    strings: frozenset[str]


def _source(path: Path) -> _Source:
    return _read(path, path.read_bytes())


@cache
def _read(path: Path, content: bytes) -> _Source:
    tree = wordless(ast.parse(content, str(path)))
    package = list(path.relative_to(ROOT.parent).parent.parts)
    nodes = list(ast.walk(tree))
    strings = frozenset(texts(nodes))
    names = [*_imported(nodes, package), *(one for one in strings if one.startswith(f"{PACKAGE}."))]
    decisive = {name.partition(".")[0] for name in names} & DECISIVE.keys()
    libraries = {one for name in decisive for one in DECISIVE[name]}
    for node in tree.body:
        if assigns(node, "LIBRARIES"):
            libraries.update(texts(ast.walk(node)))
    return _Source(
        sha256_bytes(ast.unparse(without_unused(tree)).encode()),
        tuple(name for name in names if module_file(name)),
        frozenset(libraries),
        strings,
    )


def _imported(nodes: Iterable[ast.AST], package: list[str]) -> Iterator[str]:
    """All names that are imported and that may be modules; `package` is where the module lies."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, *(node.module.split(".") if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def _named_files(module: Path) -> list[Path]:
    """The files beside a module, or in the ``templates`` there, that it or one of them names."""
    beside = {
        path.name: path
        for directory in (module.parent, module.parent / "templates")
        for path in directory.glob("*.*")
        if path.suffix != ".py"
    }
    found: dict[str, Path] = {}
    waiting = [one for one in _source(module).strings if one in beside]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = beside[name]
            text = beside[name].read_text(encoding="utf-8") if name.endswith(".html") else ""
            waiting += [one for one in beside if f'"{one}"' in text]
    return list(found.values())

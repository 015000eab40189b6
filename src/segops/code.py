"""Finds the modules that a stage imports, and hashes their behaviour.

The stage ``code`` writes these hashes, with the versions of the libraries that decide the result,
into a file per stage on which DVC's stages depend. The fingerprint of a training and the packaging
of a bundle follow the same imports.
"""

from __future__ import annotations

import ast
import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
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
        "behaviour", "code", "library", "logs", "params.compatibility", "params.hardware",
        "params.messages", "params.registry", "paths", "progress", "record", "release",
        "runtime.file_kinds",
    )
)  # fmt: skip
"""Modules whose code does not decide a stage's result, or whose effect is tracked otherwise:
``dvc.yaml`` names the paths, the fingerprint of a training holds the hash of what comes from the
registry, the file of a stage lists its modules, and `library` calls the stages."""

DECISIVE: dict[str, tuple[str, ...]] = {
    "PIL": ("pillow",),
    "albumentations": ("albumentations", "opencv-python-headless"),
    "captum": ("captum",),
    "cv2": ("opencv-python-headless",),
    "great_expectations": ("great-expectations",),
    "lightning_fabric": ("lightning-fabric",),
    "matplotlib": ("matplotlib",),
    "numpy": ("numpy",),
    "onnx": ("onnx",),
    "onnxruntime": ("onnxruntime",),
    "openvino": ("openvino",),
    "pandas": ("pandas", "pyarrow"),
    "pyarrow": ("pyarrow",),
    "safetensors": ("safetensors",),
    "scipy": ("scipy",),
    "segmentation_models_pytorch": ("segmentation-models-pytorch", "timm", "torchvision"),
    "timm": ("timm",),
    "torch": ("torch",),
    "torchvision": ("torchvision",),
}
"""Imported name -> distributions whose version decides the result of a stage that imports it. A
module whose result names further versions lists their distributions in a constant LIBRARIES."""


@dataclass(frozen=True)
class StageCode:
    """What a stage's result depends on besides its data and parameters.

    Attributes:
        modules: Hash of the behaviour of each segops module, and of each file that a module names.
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
        """Return the content of the file that stage ``code`` writes."""
        return asdict(self)


def stage_names() -> list[str]:
    """Return the stages whose code is hashed: all but ``code`` itself."""
    names = {path.stem for path in (ROOT / "stages").glob("*.py")}
    return sorted(names - {"__init__", "code"})


def stage_code(stage: str) -> StageCode:
    """Return what the result of a stage depends on besides its data and parameters.

    Args:
        stage: Its name in ``dvc.yaml``.
    """
    return stage_codes()[stage]


def stage_codes() -> dict[str, StageCode]:
    """Return :func:`stage_code` of all :func:`stage_names`.

    A cache beside Python's byte code is valid until a file of segops changes.
    """
    state = _state()
    stages = _cached(state)
    if stages is None:
        stages = {stage: _parts(f"{STAGES}.{stage}") for stage in stage_names()}
        if _state() == state:  # no file was edited in between
            with suppress(OSError):  # the installation may be read-only
                write_json(_cache_path(), {"state": state, "stages": stages})
    return {
        stage: StageCode(parts["modules"], _versions(parts["libraries"]))
        for stage, parts in stages.items()
    }


def module_code(module: str) -> StageCode:
    """Return what the result of a module depends on besides its data and parameters.

    Args:
        module: Its full name.
    """
    parts = _parts(module)
    return StageCode(parts["modules"], _versions(parts["libraries"]))


def _versions(libraries: Iterable[str]) -> dict[str, str]:
    """Return the version of each distribution that is installed; the others decide nothing."""
    versions = {}
    for name in libraries:
        with suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def _state() -> str:
    """Return the SHA-256 over Python's version and all files of segops, in hexadecimal."""
    return sha256_lines([sys.version, sha256_tree(ROOT)])


def _cache_path() -> Path:
    return Path(cache_from_source(str(ROOT / "stages.py"))).with_suffix(".json")


def _cached(state: str) -> dict[str, Any] | None:
    """Return the cached stages of this state, or None."""
    try:
        cached = json.loads(_cache_path().read_text(encoding="utf-8"))
        return dict(cached["stages"]) if cached["state"] == state else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _parts(entry: str) -> dict[str, Any]:
    """Return the hash of each module that `entry` imports, and the libraries that decide."""
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    for name, path in closure([entry], UNHASHED).items():
        source = _source(path)
        modules[name] = source.behaviour
        libraries.update(source.libraries)
        for file in _named_files(path):
            modules[file.relative_to(ROOT).as_posix()] = sha256_bytes(file.read_bytes())
    return {"modules": dict(sorted(modules.items())), "libraries": sorted(libraries)}


def closure(entries: Iterable[str], without: Iterable[str] = ()) -> dict[str, Path]:
    """Return the segops modules that some modules import, directly or not, and their files.

    Imports inside functions count, and so do modules that a string names, as for those that run in
    another process. Imports under TYPE_CHECKING do not count; neither do modules and packages
    `without`, nor their imports.
    """
    left_out = tuple(without)
    found: dict[str, Path] = {}
    waiting = list(entries)
    while waiting:
        name = waiting.pop()
        path = module_file(name)
        if path is None or name in found:
            continue
        if any(name == module or name.startswith(f"{module}.") for module in left_out):
            continue
        found[name] = path
        waiting += [name.rpartition(".")[0], *_source(path).imports]
    return found


def module_file(name: str) -> Path | None:
    """Return the file of a segops module; None if `name` is no such module."""
    top, *parts = name.split(".")
    if top != PACKAGE:
        return None
    place = ROOT.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


@dataclass(frozen=True)
class _Source:
    """A module's source: SHA-256 of its behaviour, its imports, libraries and strings."""

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
    named = (text for text in strings if text.startswith(f"{PACKAGE}."))
    names = [*_imported(nodes, package), *named]
    decisive = {name.partition(".")[0] for name in names} & DECISIVE.keys()
    libraries = {distribution for name in decisive for distribution in DECISIVE[name]}
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
    """Yield all imported names that may be modules; `package` is the importing package."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package[: len(package) - node.level + 1] if node.level else []
            base = [*parents, *(node.module.split(".") if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def _named_files(module: Path) -> list[Path]:
    """Return the files beside a module or in its ``templates`` that it names, directly or not."""
    beside = {
        path.name: path
        for directory in (module.parent, module.parent / "templates")
        for path in directory.glob("*.*")
        if path.suffix != ".py"
    }
    found: dict[str, Path] = {}
    waiting = [text for text in _source(module).strings if text in beside]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found[name] = beside[name]
            text = beside[name].read_text(encoding="utf-8") if name.endswith(".html") else ""
            waiting += [other for other in beside if f'"{other}"' in text]
    return list(found.values())

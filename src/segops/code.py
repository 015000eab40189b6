"""The code of segops as what it does: import closures, and hashes that words do not move.

A stage depends on the behaviour of the modules that it imports and on the versions of the libraries
that decide its result. The stage ``code`` writes both into one file a stage, on which DVC's stages
depend; the fingerprint of a training and the packaging of a bundle follow the same imports.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

from segops.files import sha256_bytes, sha256_lines

ROOT = Path(__file__).parent
PACKAGE = ROOT.name
STAGES = f"{PACKAGE}.stages"

UNHASHED = tuple(f"{PACKAGE}.{name}" for name in ("code", "params.messages", "paths", "registry"))
"""Modules whose code decides nothing about a stage's result: messages are words, ``dvc.yaml`` names
the paths itself, and what the registry hands over enters a training's fingerprint by content."""

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

HARMLESS = frozenset(
    {
        "filelock",
        "huggingface_hub",
        "jinja2",
        "markupsafe",
        "mlflow",
        "psutil",
        "pydantic",
        "tqdm",
        "yaml",
    }
)
"""Imported names of libraries that decide no stage's result: another version reruns nothing."""

_LEVELS = frozenset({"debug", "info", "warning", "error", "exception", "critical", "log"})
_SPOKEN = frozenset({"track", "exclusive"})
"""Functions that are given words for progress and messages."""
_SPECIAL_FIELD = re.compile(r"\b(ClassVar|InitVar|KW_ONLY)\b")


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
    modules: dict[str, str] = {}
    libraries: set[str] = set()
    for name, path in closure([f"{STAGES}.{stage}"], UNHASHED).items():
        source = _source(path)
        modules[name] = source.behaviour
        libraries.update(source.libraries)
        for file in _named_files(path):
            modules[file.relative_to(ROOT).as_posix()] = sha256_bytes(file.read_bytes())
    return StageCode(
        dict(sorted(modules.items())), {name: version(name) for name in sorted(libraries)}
    )


def closure(entries: Iterable[str], without: Iterable[str] = ()) -> dict[str, Path]:
    """The modules of segops that running some of them imports, and the file of each.

    Imports inside of functions count, and so do modules that the code names in a string of their
    own, as those are that run in another process. Imports for type hints alone do not count.

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


def behaviour(text: str | bytes) -> str:
    """Python code reduced to what it does, in one spelling.

    Comments, docstrings, type hints, what is raised or logged in words, `description=` of
    parameters and the layout of the text are gone; so are imports and private functions that served
    those alone. The spelling is that of this Python: another may have another.

    Args:
        text: The source of a module.

    Raises:
        SyntaxError: It is not Python.
    """
    return ast.unparse(_without_unused(_Wordless().visit(ast.parse(text))))


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
    tree = _Wordless().visit(ast.parse(content, str(path)))
    package = list(path.relative_to(ROOT.parent).parent.parts)
    nodes = list(ast.walk(tree))
    strings = frozenset(_texts(nodes))
    names = [*_imported(nodes, package), *(one for one in strings if one.startswith(f"{PACKAGE}."))]
    decisive = {name.partition(".")[0] for name in names} & DECISIVE.keys()
    libraries = {one for name in decisive for one in DECISIVE[name]}
    for node in tree.body:
        if _assigns(node, "LIBRARIES"):
            libraries.update(_texts(ast.walk(node)))
    return _Source(
        sha256_bytes(ast.unparse(_without_unused(tree)).encode()),
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


class _Wordless(ast.NodeTransformer):
    """Takes words and type hints out of a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        """Drop docstrings and what is logged."""
        value = node.value
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            return None
        if isinstance(value, ast.Call) and isinstance(value.func, ast.Attribute):
            owner = value.func.value
            if isinstance(owner, ast.Name) and owner.id == "log" and value.func.attr in _LEVELS:
                return None
        return self.generic_visit(node)

    def visit_If(self, node: ast.If) -> Any:
        """Drop imports for type hints."""
        if isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            return [self.visit(one) for one in node.orelse] or None
        return self._with_body(node)

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Drop the words of an exception, of progress, of a parameter, and the type of a cast."""
        name = _called(node)
        if name.endswith(("Error", "Exception", "Warning")) or name == "warn":
            return ast.Call(node.func, [], [])
        self.generic_visit(node)
        if name == "cast" and len(node.args) == 2:
            return node.args[1]
        if name == "Field":
            node.keywords = [one for one in node.keywords if one.arg != "description"]
        if name in _SPOKEN:
            node.args = [one for one in node.args if not _is_text(one)]
        return node

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        """Drop the words of what a function makes an exception of."""
        self.generic_visit(node)
        for one in ast.walk(node):
            if isinstance(one, ast.Call):
                one.args = [given for given in one.args if not _is_text(given)]
        return node

    def visit_Assert(self, node: ast.Assert) -> ast.AST:
        """Drop what a failed assertion says."""
        return ast.Assert(self.visit(node.test), None)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Drop what a function returns, in the words of type hints."""
        node.returns = None
        return self._with_body(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """As of any function."""
        node.returns = None
        return self._with_body(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        """Drop the type hint of an argument."""
        node.annotation = None
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST | None:
        """Drop the type hint of a variable; `visit_ClassDef` has seen to those of fields."""
        if getattr(node, "is_field", False):
            return self.generic_visit(node)
        if node.value is None:
            return None
        return ast.Assign([node.target], self.visit(node.value), lineno=node.lineno)

    def visit_Assign(self, node: ast.Assign) -> ast.AST | None:
        """Drop the number of the release, which would make all stages stale at every release."""
        return None if _assigns(node, "__version__") else self.generic_visit(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Keep the type hints of fields where they decide, as in the sections of parameters."""
        for one in node.body:
            if isinstance(one, ast.AnnAssign):
                one.is_field = True  # type: ignore[attr-defined]
                if not _reads_hint(node, one):
                    one.annotation = ast.Constant(...)
        return self._with_body(node)

    def visit_Module(self, node: ast.Module) -> ast.AST:
        """Visit what a module holds."""
        return self._with_body(node)

    def _with_body(self, node: Any) -> ast.AST:
        self.generic_visit(node)
        kept = [one for one in node.body if not isinstance(one, ast.Pass)]
        node.body = kept or [ast.Pass()]
        return cast(ast.AST, node)


def _reads_hint(owner: ast.ClassDef, field: ast.AnnAssign) -> bool:
    """Whether the type hint of a field may decide something; in a plain class it does not."""
    bases = {ast.unparse(base).rpartition(".")[2] for base in owner.bases}
    is_special = _SPECIAL_FIELD.search(ast.unparse(field.annotation))
    return not bases <= {"NamedTuple", "Protocol"} or is_special is not None


def _without_unused(tree: Any) -> Any:
    """A module without the imports and private definitions that nothing there uses any more."""
    exported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname == alias.name
    } | {one for node in tree.body if _assigns(node, "__all__") for one in _texts(ast.walk(node))}
    names = {
        node: {one.id for one in ast.walk(node) if isinstance(one, ast.Name)} for node in tree.body
    }
    while True:
        used = exported.union(*names.values())
        unused = [node for node in names if not _is_used(node, used)]
        if not unused:
            break
        for node in unused:
            del names[node]
    for node in names:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if _bound(alias) in used]
    tree.body = list(names)
    return tree


def _is_used(node: ast.AST, used: set[str]) -> bool:
    """Whether a statement of a module binds a name that is used, or does more than that."""
    if isinstance(node, ast.ImportFrom) and node.module == "__future__":
        return False
    if isinstance(node, ast.Import | ast.ImportFrom):
        return any(_bound(alias) in used for alias in node.names)
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return not node.name.startswith("_") or node.name in used or bool(node.decorator_list)
    return True


def _bound(alias: ast.alias) -> str:
    return alias.asname or alias.name.partition(".")[0]


def _called(node: ast.Call) -> str:
    function = node.func
    if isinstance(function, ast.Attribute):
        return function.attr
    return function.id if isinstance(function, ast.Name) else ""


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.JoinedStr) or (
        isinstance(node, ast.Constant) and isinstance(node.value, str)
    )


def _assigns(node: ast.AST, name: str) -> bool:
    return isinstance(node, ast.Assign) and any(
        isinstance(one, ast.Name) and one.id == name for one in node.targets
    )


def _texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    for one in nodes:
        if isinstance(one, ast.Constant) and isinstance(one.value, str):
            yield one.value

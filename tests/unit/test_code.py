"""A hash of code moves with what the code does, and with no word of it."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from segops import code
from segops.behaviour import behaviour, texts, without_unused, wordless
from segops.predict.package import ROOM
from tests.support.rewording import Rewording

HARMLESS = frozenset(
    {"filelock", "huggingface_hub", "jinja2", "markupsafe", "mlflow", "psutil", "pydantic",
     "pydantic_core", "torch_pruning", "tqdm", "yaml"}
)  # fmt: skip
"""Imported names of libraries that decide no stage's result: another version reruns nothing. What
torch-pruning leaves of a model is part of the training's fingerprint."""
SHOWN = (
    "segops.report.",
    "segops.quality.duplicate_rules",
    "segops.quality.expectations",
    "segops.quality.jpeg_damage",
    "segops.quality.metadata",
    "segops.quality.misfit",
    "segops.quality.split_differences",
    "segops.quality.warnings",
    "segops.metrics.catalogue",
    "segops.metrics.slices",
    "segops.evaluate.corruptions",
    "segops.evaluate.subsets",
    "segops.voc.metadata",
)
"""Modules that write words into pages and tables: these are a result, and decide."""
DECISIVE_WORDS = {
    "segops.evaluate.speed": {r"^VmHWM:\s+(\d+) kB"},
    "segops.export.make": {
        "0..255, not normalised; any N, H and W; channels as in `channels`",
        "logits; the class of a pixel is the first largest along axis 1",
        " bands as stored",
    },
    "segops.evaluate.image_table": {"class "},
    "segops.evaluate.kept_champion": {"champion, version "},
    "segops.evaluate.results": {"%Y-%m-%d %H:%M", " UTC"},
    "segops.metrics.wrong_pixels": {"false alarm"},
    "segops.runtime.images": {"unknown pixel mode"},
    "segops.runtime.pyfunc_model": {"image in row "},
    "segops.predict.trained": {"the value of a pixel is the class id"},
    "segops.quality.described": {"image and mask"},
    "segops.quality.runner": {"an error without a message"},
    "segops.quality.file_facts": {"no such file", "cannot be read: "},
    "segops.train.engine": {"step "},
    "segops.voc.hashes": {" x "},
    "segops.train.hardware": {r"(\S+) does not have a deterministic implementation"},
    "segops.train.launch": {
        "Connection closed by peer",
        "Connection reset by peer",
        "Connection was likely closed",
        "Broken pipe",
    },
    "segops.words": {" GB", " MB"},
}
"""Words elsewhere that are hashed, because they decide or are written into a result."""
MODULES = {
    name: path
    for stage in code.stage_names()
    for name, path in code.closure([f"segops.stages.{stage}"], code.UNHASHED).items()
}
BEFORE = '''
"""A module."""
from __future__ import annotations
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast
from pydantic import Field
from segops.runtime.errors import SegopsError
from segops.runtime.section import Section
if TYPE_CHECKING:
    from pathlib import Path
log = logging.getLogger("segops")
LIMIT: int = 3

@dataclass
class Point:
    """A point."""
    x: float
    y: float = 0.0

class Loop(Section):
    """Parameters."""
    lr: float = Field(0.1, description="Learning rate.")

def area(points: Sequence[Point], path: Path | None = None) -> float:
    """The area."""
    if not points:  # nothing there
        raise SegopsError(f"{path}: {_said(points)}. Add some.")
    action = "Add some."
    if len(points) > 99:
        action = f"Take {', '.join(str(one) for one in points)} away."
    if len(points) > 98:
        raise SegopsError(action)
    log.info("%d points", len(points))
    assert path is None, "not now"
    return cast(float, math.fsum(one.x * one.y for one in points))

def _said(points: Sequence[Point]) -> str:
    return f"{len(points)} points"

def __getattr__(name: str) -> int:
    return {"AREA": 1}[name]

class _Registered(Section):
    pass
'''
WORDS = [
    ("A module.", "Another text."),
    ("Learning rate.", "The rate, in words of one's own."),
    ("  # nothing there", ""),
    ("{_said(points)}. Add some.", "no points; expected three"),
    ("%d points", "%d of them"),
    ('"%d points", len(points)', '"some"'),
    ("not now", "never"),
    ('action = "Add some."', 'action = "Add a point."'),
    ("{', '.join(str(one) for one in points)} away", "some away"),
    ("cast(float, ", "cast(int, "),
    ("Sequence[Point], path", "list[Point], path"),
    ("from collections.abc import Sequence", "from collections.abc import Iterable, Sequence"),
    ("-> float", "-> int"),
    ("LIMIT: int = 3", "LIMIT = 3"),
    ("x: float\n", "x: int\n"),
    ("    from pathlib import Path", "    from pathlib import Path, PurePath"),
    ('f"{len(points)} points"', '"none"'),
    ("math.fsum(one.x * one.y for", "math.fsum(\n        (one.x * one.y)\n        for"),
]  # fmt: skip
DEEDS = [
    ("LIMIT: int = 3", "LIMIT: int = 4"),
    ("y: float = 0.0", "y: float = 1.0"),
    ("    y: float = 0.0", "    y: float = 0.0\n    z: float = 0.0"),
    ("lr: float", "lr: int"),
    ("Field(0.1", "Field(0.2"),
    ("one.x * one.y", "one.y * one.x"),
    ("if not points", "if len(points) < 3"),
    ("len(points) > 98", "len(points) > 97"),
    ('{"AREA": 1}', '{"AREA": 2}'),
    ("class _Registered(Section)", "class _Other(Section)"),
    ('log.info("%d points", len(points))', 'log.info("%d points", count := len(points))'),
    ("raise SegopsError", "raise ValueError"),
    ("path is None", "path is not None"),
    ("import math", "import mymath as math"),
    ("path: Path | None = None", "path: Path | None = ..."),
    ('getLogger("segops")', 'getLogger("other")'),
]


def replaced(old: str, new: str) -> str:
    assert BEFORE.count(old) >= 1, old
    return BEFORE.replace(old, new, 1)


@pytest.mark.parametrize(("old", "new"), WORDS)
def test_words_change_no_behaviour(old: str, new: str) -> None:
    assert behaviour(replaced(old, new)) == behaviour(BEFORE)


@pytest.mark.parametrize(("old", "new"), DEEDS)
def test_deeds_change_the_behaviour(old: str, new: str) -> None:
    assert behaviour(replaced(old, new)) != behaviour(BEFORE)


@pytest.mark.parametrize("name", sorted(MODULES))
def test_a_module_may_be_reworded_and_laid_out_anew(name: str) -> None:
    text = MODULES[name].read_text()
    reworded = ast.unparse(Rewording().visit(ast.parse(text)))
    assert reworded != text
    assert behaviour(reworded) == behaviour(text)
    assert behaviour(text + "\nANOTHER = 1\n") != behaviour(text)


def test_no_message_is_hashed() -> None:
    """What is logged or raised must be put together where it is: elsewhere it counts as a deed."""
    hashed = {
        name: {
            one
            for one in texts(ast.walk(without_unused(wordless(ast.parse(path.read_text())))))
            if re.search("[A-Za-z,.] | [A-Za-z]", one) and one.strip(", :")
        }
        for name, path in MODULES.items()
        if not name.startswith(SHOWN)
    }
    assert {name: words for name, words in hashed.items() if words} == DECISIVE_WORDS


def test_every_library_decides_or_is_said_to_be_harmless() -> None:
    imported = {
        name.partition(".")[0]
        for path in MODULES.values()
        for node in ast.walk(ast.parse(path.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom) and not node.level
            else []
        )
    }
    foreign = imported - set(sys.stdlib_module_names) - {"segops"}
    assert foreign <= code.DECISIVE.keys() | HARMLESS
    assert not code.DECISIVE.keys() & HARMLESS


@pytest.mark.slow
def test_the_closure_is_what_the_stage_really_imports() -> None:
    """In a process of its own, because this one has imported more."""
    script = (
        "import sys, segops.stages.train;"
        "print(*(n for n in sys.modules if n.partition('.')[0] == 'segops'))"
    )
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    rooms = tuple(f"{one}." for one in code.UNHASHED)
    loaded = {one for one in found.stdout.split() if not f"{one}.".startswith(rooms)}
    assert {"segops.train.loop", "segops.models.losses", "segops.runtime.classes"} <= loaded
    assert loaded <= set(code.stage_code("train").modules)


def test_what_another_process_runs_belongs_to_the_stage() -> None:
    assert "segops.evaluate.scoring" in code.stage_code("evaluate").modules
    modules = code.stage_code("package").modules
    exported = {name for name, path in MODULES.items() if path.is_relative_to(ROOM)}
    assert exported - set(code.UNHASHED) <= set(code.stage_code("export").modules)
    room = {name for name in exported if not name.startswith("segops.runtime.exported")}
    assert {"segops.runtime.load", "segops.runtime.pyfunc_model"} <= room
    assert room - set(code.UNHASHED) <= set(modules)


def test_the_registry_decides_no_training() -> None:
    rooms = {name.split(".")[1] for name in code.stage_code("train").modules if "." in name}
    assert "train" in rooms
    assert not {"record", "release"} & rooms
    assert "segops.release.resolve" in code.closure(["segops.stages.train"])


def test_imports_are_written_as_imports() -> None:
    """The contracts see no other; commands name stages and formats; bundles, flows lie apart."""
    named = {
        path.relative_to(code.ROOT).as_posix()
        for path in code.ROOT.rglob("*.py")
        if "import_module" in path.read_text() or "__import__" in path.read_text()
    }
    assert named == {
        "cli/common.py", "cli/life.py", "importers/write.py", "runtime/opener.py",
    }  # fmt: skip


def test_only_exceptions_are_called_errors() -> None:
    """What is given to a class of such a name counts as words."""
    ends = ("Error", "Exception", "Warning")
    for path in MODULES.values():
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef) and node.name.endswith(ends):
                bases = [ast.unparse(base).rpartition(".")[2] for base in node.bases]
                assert [base for base in bases if base.endswith(ends)], (path, node.name)


def test_templates_belong_to_the_pages_that_they_make() -> None:
    files = {
        stage: {one.rpartition("/")[2] for one in code.stage_code(stage).modules if "/" in one}
        for stage in code.stage_names()
    }
    shared = {"base.html", "parts.html", "style.css", "scroll.js"}
    own = {"evaluation.html", "controls.css", "evaluation.css", "evaluation.js", "tables.js",
           "gallery.html"}  # fmt: skip
    assert files["validate"] == shared | {"validation.html"}
    assert files["evaluate"] == shared | own
    assert not files["train"] | files["package"] | files["prepare"] | files["augment"]


def test_the_modules_of_a_bundle_import_one_another_relatively() -> None:
    """In a bundle segops has another name."""
    for path in ROOM.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            named = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                named.append(node.module or "")
            assert not [one for one in named if one.partition(".")[0] == "segops"], path


def test_what_was_read_is_kept_until_something_decides_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "segops"
    shutil.copytree(code.ROOT, root, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setattr(code, "ROOT", root)
    true = code.stage_codes()
    (kept,) = (root / "__pycache__").iterdir()
    text = kept.read_text()
    other = text.replace(true["train"].modules["segops.files"], "f" * 64)

    kept.write_text(other)
    assert code.stage_codes()["train"].modules["segops.files"] == "f" * 64
    for spoilt in (text[:-9], "[]", "{}", '{"state": null}'):
        kept.write_text(spoilt)
        assert code.stage_codes() == true
        assert kept.read_text() == text

    with monkeypatch.context() as changed:
        changed.setattr(sys, "version", "3.99")
        kept.write_text(other)
        assert code.stage_codes() == true
    kept.write_text(other)
    page = root / "report" / "templates" / "style.css"
    page.write_text(page.read_text() + "p {}")
    now = code.stage_codes()
    assert now["train"] == true["train"]
    assert now["evaluate"] != true["evaluate"]

    shutil.rmtree(kept.parent)
    kept.parent.touch()  # where nothing can be written
    assert code.stage_codes() == now


def test_a_file_that_is_no_python_is_named(tmp_path: Path) -> None:
    with pytest.raises(SyntaxError):
        behaviour("def")

"""What README, CONTRIBUTING and ``docs/`` name exists: commands, keys, files, links, rooms."""

from __future__ import annotations

import re
import shlex
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

import segops
from segops.cli import app
from segops.params.file import Params, parse_params
from tools import reference

ROOT = Path(__file__).parents[3]
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8")
    for path in (*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/**/*.md")))
}
TEXT = "\n".join(PAGES.values())


def blocks(page: str, language: str = r"\w*") -> list[str]:
    """The code blocks of a page."""
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    return found


def prose(page: str) -> str:
    """A page without its code blocks."""
    return re.sub(r"^```\w*\n.*?^```", "", page, flags=re.MULTILINE | re.DOTALL)


CODE = sorted({one for page in PAGES.values() for one in re.findall(r"`([^`\n]+)`", prose(page))})
"""Everything that a page sets as code within a sentence."""


def test_the_reference_is_what_the_code_says() -> None:
    written = {path.name: path.read_text(encoding="utf-8") for path in reference.PAGES.iterdir()}
    expected = reference.pages()
    assert written.keys() == expected.keys()
    stale = [name for name, text in expected.items() if written[name] != text]
    assert not stale, f"docs/reference is behind the code; run: {reference.COMMAND}"


def test_every_parameter_and_command_says_what_it_is() -> None:
    assert "None" not in reference.parameters()
    assert "None" not in reference.commands()
    assert [key for key in Params().flat() if f"`{key}`" not in reference.parameters()] == []


def test_the_api_page_takes_signatures_and_docstrings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segops, "__all__", ("read",), raising=False)
    monkeypatch.setattr(segops, "read", parse_params, raising=False)
    page = reference.pages()["api.md"]
    assert "segops.read(tree: Any, name: str = 'params.yaml') -> Params" in page
    assert "- `SegopsError`: As `load_params`." in page


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {one.split()[1] for one in CODE if one.startswith("make ")}
    for page in PAGES.values():
        named |= {
            name for one in blocks(page) for name in re.findall(r"^make ([a-z-]+)", one, re.M)
        }
    assert {"demo", "test", "lint"} <= named
    assert named <= targets


SHOWN = sorted(
    {
        line.strip()
        for page in PAGES.values()
        for block in blocks(page, language="")
        for line in block.splitlines()
        if line.startswith("segops ") and "[OPTIONS]" not in line
    }
)


def find(words: list[str]) -> Any:
    """The command that some words name; takes the words off the list."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        if words[0].startswith("-") if words else command.invoke_without_command:
            break  # options of a group, or a group that is a command too
        assert words, "a group of commands"
        assert words[0] in command.commands, f"segops has no command {words[0]}"
        command = command.commands[words.pop(0)]
    return command


@pytest.mark.parametrize("line", SHOWN)
def test_commands_exist_and_take_what_they_are_given(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    command = find(words)
    command.make_context(command.name, words)  # parses, runs nothing
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    of_the_comment = re.findall(r"--[a-z][a-z-]*", line.partition("#")[2])
    assert set(of_the_comment) <= known


def test_commands_within_sentences_exist() -> None:
    commands: Any = typer.main.get_command(app)
    groups = {
        f"segops {name}" for name, one in commands.commands.items() if hasattr(one, "commands")
    }
    groups.add("segops")
    named = [one for one in CODE if one.startswith("segops ") and one not in groups]
    assert len(named) > 10
    for one in named:
        words = one.split()[1:]
        command = find(words)
        known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
        assert {word for word in words if word.startswith("--")} <= known, one


def test_modules_that_are_run_exist() -> None:
    named = set(re.findall(r"python -m ((?:tools|benchmarks|segops)[\w.]*)", TEXT))
    assert reference.COMMAND.split()[-1] in named
    assert [name for name in named if find_spec(name) is None] == []


FILES = (
    ".py",
    ".yaml",
    ".json",
    ".png",
    ".html",
    ".csv",
    ".parquet",
    ".txt",
    ".onnx",
    ".safetensors",
)
"""Suffixes of files whose names look like a parameter's."""


def test_parameters_within_sentences_exist() -> None:
    sections = {field.alias or name for name, field in Params.model_fields.items()}
    known = [f"{key}." for key in Params().flat()]
    for one in CODE:
        key = one.partition(":")[0]
        if re.fullmatch(r"[a-z_]+(\.[a-z0-9_]+)+", key) and key.partition(".")[0] in sections:
            is_file = key.endswith(FILES)
            prefixes = [name for name in known if f"{key}.".startswith(name)]
            assert is_file or prefixes or any(name.startswith(f"{key}.") for name in known), one


@pytest.mark.parametrize("name", PAGES)
def test_what_a_page_sets_into_params_is_possible(name: str) -> None:
    for block in blocks(PAGES[name], "yaml"):
        tree = yaml.safe_load(block)
        if isinstance(tree, dict) and tree.keys() & {"data", "model", "train", "predict"}:
            parse_params(tree, f"{name}:\n{block}")


def anchors(page: str) -> set[str]:
    """The anchors of a page's headings, as repositories on the web make them."""
    headings = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("name", PAGES)
def test_links_and_pictures_lead_somewhere(name: str) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", prose(PAGES[name])):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (ROOT / name).parent / path if path else ROOT / name
        assert file.exists(), f"{name} links {target}"
        if anchor:
            assert anchor in anchors(file.read_text(encoding="utf-8")), f"{name} links {target}"


def test_every_page_of_the_docs_is_reached_from_the_map() -> None:
    index = PAGES["docs/index.md"]
    others = [name.removeprefix("docs/") for name in PAGES if name.startswith("docs/")]
    assert [one for one in others if one != "index.md" and f"]({one})" not in index] == []


def test_files_within_sentences_exist() -> None:
    rooms = ("src", "flows", "tests", "docs", "docker", "tools", "benchmarks", "recipes")
    added = re.findall(r"^\*\*`([^`]+)`\*\*, a new file:", TEXT, re.MULTILINE)
    named = [one for one in CODE if one.startswith(tuple(f"{room}/" for room in rooms))]
    named = [one for one in named if one not in added]
    assert len(named) > 5
    for one in named:
        if not re.search(r"[A-Z]{3}| ", one):  # NAME stands for a name that the reader chooses
            assert list(ROOT.glob(one.rstrip("/"))), one


def test_the_architecture_names_every_room() -> None:
    page = PAGES["docs/explanation/architecture.md"]
    rooms = {
        path.relative_to(ROOT / "src/segops").parts[0].removesuffix(".py")
        for path in (ROOT / "src/segops").rglob("*.py")
    }
    rooms -= {"__init__", "__main__", "__pycache__", "py"}
    assert len(rooms) > 20
    assert [room for room in sorted(rooms) if f"`{room}`" not in page] == []


def test_the_table_of_faults_names_each_test_that_makes_one() -> None:
    rows = re.findall(
        r"^\|.*\| `([^`]+)::(\w+)(?:\[[^`]*\])?` \|$", PAGES["docs/explanation/faults.md"], re.M
    )
    assert len(rows) >= 35
    named = {(file, test) for file, test in rows}
    folder = ROOT / "tests"
    for file, test in named:
        assert f"def {test}(" in (folder / file).read_text(), f"{file}::{test}"
    made = {
        (f"faults/{path.name}", test)
        for path in (folder / "faults").glob("test_*.py")
        for test in re.findall(r"^def (test_\w+)", path.read_text(), re.M)
    }
    assert made <= named

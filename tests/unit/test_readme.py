"""What the README says of commands and parameters is true."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer.main

from segops.cli import app
from segops.params.file import Params
from segops.runtime.section import Section

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def parameter_rows(prefix: str, section: Any, defaults: dict[str, Any]) -> list[str]:
    rows = []
    for name, field in section.model_fields.items():
        key = f"{prefix}{field.alias or name}"
        if isinstance(field.annotation, type) and issubclass(field.annotation, Section):
            rows += parameter_rows(f"{key}.", field.annotation, defaults)
        else:
            rows.append(f"| `{key}` | `{json.dumps(defaults[key])}` | {field.description} |")
    return rows


def test_every_parameter_stands_in_the_table() -> None:
    expected = "\n".join(parameter_rows("", Params, Params().flat()))
    assert expected in README, f"the README's table should read:\n{expected}"


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z-]+)`", README)) | set(
        re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)
    )
    assert {"demo", "bench-gpu", "test-slow"} <= named
    assert named <= targets


def shown_commands() -> list[str]:
    """The lines of the code blocks that call segops, comments included."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    return [line for block in blocks for line in block.splitlines() if line.startswith("segops ")]


@pytest.mark.parametrize("line", shown_commands())
def test_commands_exist_and_take_what_they_are_given(line: str) -> None:
    _, *words = shlex.split(line, comments=True)
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        assert words[0] in command.commands, f"{line!r}: segops has no command {words[0]}"
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)  # parses, runs nothing
    known = {name for one in command.params for name in (*one.opts, *one.secondary_opts)}
    of_the_comment = re.findall(r"--[a-z][a-z-]*", line.partition("#")[2])
    assert set(of_the_comment) <= known


def test_the_code_blocks_show_commands() -> None:
    assert len(shown_commands()) > 15


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert [path for path in pictures if not (ROOT / path).is_file()] == []

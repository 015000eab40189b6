"""The workflows for GitHub and GitLab: their commands exist, and are shell."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from segops.cli import app

CI = sorted((Path(__file__).parents[2] / "docker/ci").glob("*.yaml"))


def scripts(tree: Any) -> Iterator[str]:
    """All shell in a workflow."""
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "run":
                yield value
            elif key == "script":
                yield "\n".join(value)
            else:
                yield from scripts(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from scripts(value)


@pytest.mark.parametrize("path", CI, ids=lambda path: path.stem)
def test_commands_of_workflows_exist(path: Path) -> None:
    found = list(scripts(yaml.safe_load(path.read_text())))
    assert len(found) >= 2
    root: Any = typer.main.get_command(app)
    commands = 0
    for script in found:
        subprocess.run(["sh", "-n", "-c", script], check=True)
        for name, rest in re.findall(r"(?<![\w/$:-])(?:\.venv/bin/)?segops (\w+)(.*)", script):
            options = {one for each in root.commands[name].params for one in each.opts}
            assert set(re.findall(r"--[a-z-]+", rest)) <= options
            commands += 1
    assert commands >= 2

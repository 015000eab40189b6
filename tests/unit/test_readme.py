"""What the README says of commands and parameters is true."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from segops.params import Params, Section

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
    targets = set(re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = set(re.findall(r"`make ([a-z]+)`", README)) | set(
        re.findall(r"^make ([a-z]+)", README, re.MULTILINE)
    )
    assert named
    assert named <= targets


def test_pictures_exist() -> None:
    pictures = re.findall(r"!\[[^]]+\]\(([^)]+)\)", README)
    assert pictures
    assert [path for path in pictures if not (ROOT / path).is_file()] == []

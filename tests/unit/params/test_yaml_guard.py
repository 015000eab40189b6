"""A ``params.yaml`` that would take hours or all memory is refused at once, in one sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from segops.params import yaml_guard
from segops.params.file import load_params
from segops.runtime.errors import SegopsError

_BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 9)}]\n" for level in range(1, 30)
)
_CHAIN = "a0: &a0 [x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}]\n" for n in range(1, 60))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (_BOMB, "more than 20,000 values or 50 levels, its aliases unfolded"),
        (_CHAIN, "more than 20,000 values or 50 levels, its aliases unfolded"),
        ("train: " + "[" * 3000, "nested deeper than 50 levels"),
        ("train: " + "[" * 3000 + "]" * 3000, "nested deeper than 50 levels"),
        ("{a: " * 3000, "nested deeper than 50 levels"),
        ("- " * 3000 + "1", "nested deeper than 50 levels"),
        ("a: [" + "1," * 30_000 + "]", "more than 20,000 values"),
        ("train: {seed: " + "9" * 5000 + "}", "a number of 5,000 characters; expected at most 100"),
        ("a: 0x" + "f" * 5000, "a number of 5,002 characters"),
        ('a: !!int "' + "1:" * 3000 + '1"', "a number of 6,001 characters"),
        ("a: " + "x" * 300_000, "it has 300,003 characters; expected at most 200,000"),
        ("a: &a [*a]", "an alias stands inside the value that it names"),
        ("a: &a {<<: *a}", "an alias stands inside the value that it names"),
        ("a: 2024-99-99", "no value that can be read (month must be in 1..12)"),
        ("a: !!bool 3", "no value that can be read"),
        ('a: !!int ""', "no value that can be read"),
        ("a: !!timestamp x", "no value that can be read"),
        ("a: !!python/object/apply:os.abort []", "could not determine a constructor"),
    ],
)
def test_a_hostile_file_is_refused(text: str, expected: str, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(SegopsError, match=re.escape(expected)) as refused:
        load_params(tmp_path)
    assert "params.yaml: not readable as YAML: " in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "a: &shared {b: 1}\nc: *shared\nd: {<<: *shared, e: [2.5, true, null]}",
        "a: 2024-01-02\nb: 0x1f\nc: 1_000\nd: !!set {x, y}",
        "",
    ],
)
def test_an_ordinary_file_is_read_as_before(text: str) -> None:
    found: Any = yaml_guard.load(text)
    assert found == yaml.safe_load(text)

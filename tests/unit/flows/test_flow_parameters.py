"""Whoever may start runs chooses no directory: a flow takes none as a parameter."""

from __future__ import annotations

import importlib
import inspect
from pathlib import Path

import pytest
from prefect import Flow

import flows

PLACES = {"root", "workspace", "checkout", "directory", "cwd", "path"}
FLOWS = {
    name: found
    for file in sorted(Path(flows.__file__).parent.glob("*.py"))
    if "@flow" in file.read_text()
    for name, found in vars(importlib.import_module(f"flows.{file.stem}")).items()
    if isinstance(found, Flow)
}


@pytest.mark.parametrize("name", FLOWS)
def test_no_parameter_is_a_directory(name: str) -> None:
    parameters = inspect.signature(FLOWS[name].fn, eval_str=True).parameters.values()
    assert not PLACES & {one.name for one in parameters}
    assert not [one for one in parameters if "Path" in str(one.annotation)]
    kinds = {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}
    assert not kinds & {one.kind for one in parameters}


def test_the_flows_are_found() -> None:
    assert {"retrain", "approve"} <= set(FLOWS)

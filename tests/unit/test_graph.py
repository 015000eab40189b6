"""``dvc.yaml`` is the one graph: its outputs and its stages are the code's."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from segops import code, paths

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = GRAPH["stages"]


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "code"])
def test_a_stage_depends_on_its_code_through_one_file(stage: str) -> None:
    own = [path for path in STAGES[stage]["deps"] if path.startswith(("code/", "src/"))]
    assert own == [str(paths.code_of(stage))]


def test_the_code_of_every_stage_is_written() -> None:
    assert STAGES["code"]["always_changed"] is True
    assert outputs("code") == {str(paths.code_of(name)) for name in STAGES if name != "code"}
    assert set(code.stage_names()) | {"code"} == set(STAGES)


def outputs(stage: str) -> set[str]:
    listed = STAGES[stage]["outs"] + STAGES[stage].get("metrics", [])
    return {name for one in listed for name in ([one] if isinstance(one, str) else one)}


def test_outputs_are_the_paths_that_the_code_knows() -> None:
    declared = set().union(*(outputs(stage) for stage in STAGES if stage != "code"))
    known = {
        str(value)
        for name, value in vars(paths).items()
        if name.isupper()
        and isinstance(value, Path)
        and not str(value).startswith((".segops", str(paths.PRETRAINED)))
    } - {str(paths.LEDGER), str(paths.TEST_SCORES)}
    assert declared == known


def test_what_can_be_made_again_is_never_pushed() -> None:
    for stage in STAGES:
        for one in STAGES[stage]["outs"] + STAGES[stage].get("metrics", []):
            assert isinstance(one, dict), f"{one}: say push: false or cache: false"
            for path, settings in one.items():
                assert settings.get("push") is False or settings.get("cache") is False, path


def test_every_stage_has_its_module_and_no_module_lacks_its_stage() -> None:
    modules = {
        path.stem for path in (ROOT / "src/segops/stages").glob("*.py") if path.stem != "__init__"
    }
    assert modules == set(STAGES)

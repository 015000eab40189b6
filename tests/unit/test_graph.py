"""``dvc.yaml`` is the one graph: its dependencies cover the code, its outputs are the code's."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import grimp
import pytest
import yaml

from segops import paths
from segops.predict.package import runtime_modules

ROOT = Path(__file__).parents[2]
GRAPH = yaml.safe_load((ROOT / "dvc.yaml").read_text())
STAGES: dict[str, dict[str, Any]] = GRAPH["stages"]

# Modules that no import shows: run in a process of their own, or copied into the model.
ALSO = {
    "package": (
        "segops.predict.pyfunc_model",
        *(
            f"segops.{name.removesuffix('.py').replace('/', '.')}".removesuffix(".__init__")
            for name in runtime_modules()
        ),
    ),
    "evaluate": ("segops.evaluate.worker",),
}


@cache
def import_graph() -> grimp.ImportGraph:
    return grimp.build_graph("segops")


def module_path(module: str) -> Path:
    path = Path("src", *module.split("."))
    return path / "__init__.py" if (ROOT / path).is_dir() else path.with_suffix(".py")


def closure(stage: str) -> set[Path]:
    """Source files that running a stage imports, packages' ``__init__`` included."""
    modules: set[str] = set()
    for start in (f"segops.stages.{stage}", *ALSO.get(stage, ())):
        modules |= {start} | set(import_graph().find_upstream_modules(start))
    for module in list(modules):
        parts = module.split(".")
        modules |= {".".join(parts[:end]) for end in range(1, len(parts))}
    return {module_path(module) for module in modules}


def code_dependencies(stage: str) -> set[Path]:
    paths = (Path(path) for path in STAGES[stage]["deps"] if path.startswith("src/"))
    return {
        found.relative_to(ROOT)
        for path in paths
        for found in ([ROOT / path] if (ROOT / path).is_file() else (ROOT / path).rglob("*"))
        if found.is_file() and "__pycache__" not in found.parts
    }


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_cover_the_import_closure(stage: str) -> None:
    missing = {str(path) for path in closure(stage) - code_dependencies(stage)}
    assert not missing, f"add to deps of {stage} in dvc.yaml: {sorted(missing)}"


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_name_no_code_that_the_stage_does_not_run(stage: str) -> None:
    modules = {path for path in code_dependencies(stage) if path.suffix == ".py"}
    surplus = {str(path) for path in modules - closure(stage)}
    assert not surplus, f"a change there would run {stage} for nothing: {sorted(surplus)}"


@pytest.mark.parametrize("stage", STAGES)
def test_dependencies_hold_the_pinned_versions(stage: str) -> None:
    assert "constraints.txt" in STAGES[stage]["deps"]


def outputs(stage: str) -> set[str]:
    listed = STAGES[stage]["outs"] + STAGES[stage].get("metrics", [])
    return {name for one in listed for name in ([one] if isinstance(one, str) else one)}


def test_outputs_are_the_paths_that_the_code_knows() -> None:
    declared = set().union(*(outputs(stage) for stage in STAGES))
    known = {
        str(value)
        for name, value in vars(paths).items()
        if name.isupper() and isinstance(value, Path) and not str(value).startswith(".segops")
    }
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

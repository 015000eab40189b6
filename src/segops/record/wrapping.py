"""What MLflow puts around a bundle, and that a bundle's digest does not cover: checked against it.

MLflow runs its copy of the bundle's script and installs its copy of the bundle's requirements.
Python's byte code of the script, which it writes where MLflow loads a model in place, may lie
there; it has to be what this Python compiles.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from segops.predict.package import REQUIREMENTS
from segops.record.byte_code import is_of

SCRIPTS = ("runtime/pyfunc_model.py", "pyfunc_model.py")
"""Path of a bundle's MLflow script: in format 2, in format 1."""
KEY = "bundle"
"""Key of the bundle in the artifacts of MLflow's context."""
DESCRIPTION, CONDA, PYTHON = "MLmodel", "conda.yaml", "python_env.yaml"
META = "registered_model_meta"
"""File with name and version that MLflow adds when it loads a registered model."""
TOOL = re.compile(r"(python|pip|setuptools|wheel)([=<>]=?[\w.]+)?")
"""What MLflow installs beside the requirements."""


def script(bundle: Path) -> Path | None:
    """Return the script of a bundle that MLflow runs; None where it is missing."""
    return next((bundle / path for path in SCRIPTS if (bundle / path).is_file()), None)


def faults(directory: Path, bundle: Path, description: Mapping[str, Any]) -> Iterator[str]:
    """Yield what MLflow would use in a model's directory and its bundle does not cover.

    Args:
        directory: What MLflow saved.
        bundle: The bundle in it.
        description: Content of its ``MLmodel``.

    Raises:
        OSError, KeyError, TypeError, ValueError, yaml.YAMLError: A file that MLflow saved lacks
            what it has to hold.
    """
    own = script(bundle)
    if own is None:
        yield f"its bundle lacks {SCRIPTS[0]}"
        return
    yield from _described(description["flavors"], own.name)
    known = {directory / name for name in (DESCRIPTION, CONDA, PYTHON, REQUIREMENTS, META)}
    known |= {directory / own.name, directory / "__pycache__", *bundle.parents}
    for path in sorted(directory.rglob("*")):
        if path in known or bundle in (path, *path.parents):
            continue
        if path.parent == directory / "__pycache__":
            if not is_of(path, own):
                yield (
                    f"{path.relative_to(directory).as_posix()} is not what this Python compiles "
                    f"from {own.name}; delete it if another Python wrote it"
                )
        else:
            yield f"{path.relative_to(directory).as_posix()} does not belong beside its bundle"
    if (directory / own.name).read_bytes() != own.read_bytes():
        yield f"{own.name} is not the bundle's {own.relative_to(bundle).as_posix()}"
    wanted = set(_lines(bundle))
    for name, entries in _environment(directory):
        for entry in entries:
            if entry not in wanted and not TOOL.fullmatch(entry):
                yield f"{name} names {entry!r}, which the bundle does not require"


def _described(flavors: Mapping[str, Any], own: str) -> Iterator[str]:
    flavor = flavors["python_function"]
    found = {
        "flavors": [*flavors],
        "artifacts": [*flavor["artifacts"]],
        "loader_module": flavor["loader_module"],
        "model_code_path": Path(flavor["model_code_path"]).name,
        "env": flavor["env"],
        **{key: flavor.get(key) for key in ("code", "data", "python_model")},
    }
    expected = {
        "flavors": ["python_function"],
        "artifacts": [KEY],
        "loader_module": "mlflow.pyfunc.loaders.code_model",
        "model_code_path": own,
        "env": {"conda": CONDA, "virtualenv": PYTHON},
        **dict.fromkeys(("code", "data", "python_model")),
    }
    for key, value in expected.items():
        if found[key] != value:
            yield f"{DESCRIPTION} names {found[key]!r} as its {key}; expected {value!r}"


def _environment(directory: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield what is installed before the model is run, by the file that says so."""
    yield REQUIREMENTS, _lines(directory)
    conda, python = (
        yaml.safe_load((directory / name).read_text(encoding="utf-8")) for name in (CONDA, PYTHON)
    )
    sources = {f"-r {REQUIREMENTS}", "conda-forge", "defaults"}
    for name, tree in ((CONDA, conda), (PYTHON, python)):
        listed = [
            str(one)
            for key in ("channels", "dependencies", "build_dependencies")
            for entry in tree.get(key, [])
            for one in (entry["pip"] if isinstance(entry, dict) else [entry])
        ]
        yield name, [one for one in listed if one not in sources]


def _lines(directory: Path) -> list[str]:
    return (directory / REQUIREMENTS).read_text(encoding="utf-8").splitlines()

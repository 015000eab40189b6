"""Makes a bundle of a trained network by adding the code and the settings of prediction.

Files are copied and nothing is run, so that the stage needs no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import segops
from segops import files
from segops.runtime import opener
from segops.runtime.classes import Classes
from segops.runtime.errors import SegopsError

REQUIREMENTS = "requirements.txt"
PREDICT = "predict"
"""Key of ``model.json``: the prediction settings (:mod:`segops.runtime.predict_settings`)."""

LIBRARIES = (
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "pydantic",
    "safetensors",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
)
"""Libraries that the runtime and the MLflow script import; torchvision must match torch."""

ENTRIES = ("segops.runtime.load", "segops.runtime.opener", "segops.runtime.pyfunc_model")
"""The modules of a bundle's runtime that other code calls."""
EXPORTED = "exported"
"""The package of the runtime that exports have and bundles have not."""
ROOM = Path(segops.__file__).with_name(opener.RUNTIME)
"""The directory that is copied into every bundle."""


def package(
    trained: Path,
    target_dir: Path,
    predict: Mapping[str, Any] | None = None,
    bit_depth: int | None = None,
    classes: Classes | None = None,
    bands: Sequence[str] = (),
) -> None:
    """Make a bundle, whole or not at all.

    Args:
        trained: What :func:`segops.predict.trained.write_trained` wrote, or a bundle.
        target_dir: The bundle's directory; its former content is replaced. May be `trained`.
        predict: Settings of prediction, as section `predict` of ``params.yaml``; None: those that
            `trained` holds, else whole images.
        bit_depth: `data.bit_depth` of ``params.yaml``.
        classes: Colours and background of its classes; None: what `trained` says.
        bands: `data.bands` of ``params.yaml``.

    Raises:
        SegopsError: `trained` lacks a file, or has other classes.
    """
    model: dict[str, Any] = files.read_json(trained / opener.MODEL)
    model["format"] = opener.FORMAT
    weights = trained / opener.WEIGHTS
    if not weights.is_file():
        raise SegopsError(f"{weights}: no such file. `dvc repro train` makes it.")
    if predict is not None:
        model[PREDICT] = dict(predict)
        model[opener.BIT_DEPTH] = bit_depth
        model.pop(opener.BANDS, None)
        if bands:
            model[opener.BANDS] = list(bands)
    if classes is not None:
        if list(classes.names) != model["class_names"]:
            raise SegopsError(
                f"{trained}: trained with other classes than data.classes in params.yaml. "
                "`dvc repro train` trains anew."
            )
        model |= classes.to_model()
    text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with files.atomic_directory(target_dir) as temporary:
        (temporary / opener.MODEL).write_text(text, encoding="utf-8")
        (temporary / opener.WEIGHTS).write_bytes(weights.read_bytes())
        for name, content in _copied(ROOM).items():
            copy = temporary / name
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(content)


def is_by_this_code(bundle: Path, source: Path | None = None) -> bool:
    """Whether this code would package the same files, to the byte.

    A change of docstrings makes no stage stale, but it changes the copies of the code.

    Args:
        bundle: The bundle.
        source: The directory of another checkout's package `segops`; None: this code's.
    """
    source = ROOM.parent if source is None else source
    if not (source / opener.RUNTIME).is_dir():
        return False
    held, copied = opener.Bundle.read(bundle), _copied(source / opener.RUNTIME)
    own = {name for name in held.files if name.startswith(f"{opener.RUNTIME}/")}
    return (
        held.model.get("segops_version") == _version(source)
        and own <= copied.keys()
        and all(held.files.get(name) == content for name, content in copied.items())
    )


def _version(source: Path) -> str | None:
    text = (source / "__init__.py").read_text(encoding="utf-8")
    found = re.search(r'^__version__ = "(.+)"$', text, re.MULTILINE)
    return None if found is None else found[1]


def _copied(room: Path) -> dict[str, bytes]:
    """The runtime's files and the list of the libraries, by their path in a bundle."""
    return {REQUIREMENTS: requirements(LIBRARIES).encode(), **code_files(room)}


def code_files(room: Path, exported: bool = False) -> dict[str, bytes]:
    """The runtime's files by their path in a bundle or, with `exported`, in an export.

    Args:
        room: The directory of the runtime.
        exported: Whether to add what runs networks in other forms.
    """
    return {
        path.relative_to(room.parent).as_posix(): path.read_bytes()
        for path in sorted(room.rglob("*.py"))
        if exported or EXPORTED not in path.relative_to(room).parts
    }


def requirements(libraries: Sequence[str] = LIBRARIES) -> str:
    """Lines of a ``requirements.txt`` with the exact versions of libraries installed here.

    The local label of a build (`+cu130`) is left out: only the builder's own index has it.
    """
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in libraries)

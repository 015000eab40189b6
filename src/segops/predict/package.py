"""Makes a bundle of a trained network: adds the code that predicts, and how it is to predict.

Everything is copied, nothing is run, so that the stage needs no torch.
"""

from __future__ import annotations

import ast
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segops
from segops import files
from segops.errors import SegopsError

from . import isolate

if TYPE_CHECKING:
    from torch import nn

    from ..models.zoo import ModelSpec

PYFUNC_MODEL = "pyfunc_model.py"
REQUIREMENTS = "requirements.txt"
PREDICT = "predict"
"""Key of ``model.json`` that holds the settings of :class:`segops.params.PredictParams`."""

LIBRARIES = (
    "huggingface-hub",
    "mlflow",
    "numpy",
    "pandas",
    "pillow",
    "safetensors",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
)
"""What the runtime and the MLflow script import; torchvision must match torch."""

_ROOT = Path(segops.__file__).parent
_ENTRIES = [tuple(isolate.ENTRY.split(".")), ("predict", "isolate")]


def package(trained: Path, target_dir: Path, predict: Mapping[str, Any] | None = None) -> None:
    """Make a bundle, whole or not at all.

    Args:
        trained: What :func:`segops.predict.trained.write_trained` wrote, or a bundle.
        target_dir: The bundle's directory; what lies there is replaced.
        predict: How the bundle is to predict, as `predict` in ``params.yaml``; None: plainly.

    Raises:
        SegopsError: `trained` lacks a file.
    """
    model: dict[str, Any] = files.read_json(trained / isolate.MODEL)
    weights = trained / isolate.WEIGHTS
    if not weights.is_file():
        raise SegopsError(f"{weights}: no such file. `dvc repro train` makes it.")
    if predict is not None:
        model[PREDICT] = dict(predict)
    text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
    with files.atomic_directory(target_dir) as temporary:
        (temporary / isolate.MODEL).write_text(text, encoding="utf-8")
        (temporary / isolate.WEIGHTS).write_bytes(weights.read_bytes())
        (temporary / REQUIREMENTS).write_text(requirements(), encoding="utf-8")
        (temporary / PYFUNC_MODEL).write_bytes((_ROOT / "predict" / PYFUNC_MODEL).read_bytes())
        for module in runtime_modules():
            copy = temporary / isolate.RUNTIME / module
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((_ROOT / module).read_bytes())


def write_bundle(
    target_dir: Path,
    network: nn.Module,
    spec: ModelSpec,
    class_names: Sequence[str],
    training_images: Mapping[str, str],
    extra: Mapping[str, Any],
    predict: Mapping[str, Any] | None = None,
) -> None:
    """Write a bundle of a network in memory, whole or not at all.

    Args:
        target_dir: The directory; what lies there is replaced.
        network: As :func:`segops.predict.trained.write_trained` takes it, and so the next four.
        spec: What it takes to build the network.
        class_names: The names in id order.
        training_images: SHA-256 of every image that had a part in training, by image id.
        extra: Anything else worth keeping.
        predict: How the bundle is to predict, as `predict` in ``params.yaml``; None: plainly.

    Raises:
        SegopsError: Names and network disagree on the number of classes.
        ValueError: `extra` is not JSON.
    """
    from .trained import write_trained  # brings torch, which the stage does without

    with tempfile.TemporaryDirectory(prefix="segops-") as scratch:
        trained = Path(scratch) / "trained"
        write_trained(trained, network, spec, class_names, training_images, extra)
        package(trained, target_dir, predict)


def requirements() -> str:
    """Lines of a ``requirements.txt`` with the exact versions installed here.

    A build's own label (`+cu130`) is left out: it exists on no package index but the builder's.
    """
    return "".join(f"{name}=={version(name).partition('+')[0]}\n" for name in LIBRARIES)


def runtime_modules() -> list[str]:
    """The modules that predicting takes, relative to the package, sorted.

    Found by following the relative imports from the entry modules, so that a change elsewhere in
    segops changes no bundle.

    Raises:
        ImportError: One of them imports segops by its name, which would break the isolation.
    """
    found: set[str] = set()
    waiting = list(_ENTRIES)
    while waiting:
        parts = waiting.pop()
        path = _source(parts)
        name = path.relative_to(_ROOT).as_posix()
        if name in found:
            continue
        found.add(name)
        waiting += [parts[:length] for length in range(len(parts))]
        waiting += _imports(path, parts if path.name == "__init__.py" else parts[:-1])
    return sorted(found)


def _source(parts: tuple[str, ...]) -> Path:
    """The file of a package or module of segops."""
    package = _ROOT.joinpath(*parts, "__init__.py")
    return package if package.is_file() else _ROOT.joinpath(*parts).with_suffix(".py")


def _imports(path: Path, package: tuple[str, ...]) -> Iterator[tuple[str, ...]]:
    """The modules of segops that a file imports relatively; `package` is the one it lies in."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            absolute = [name.name for name in node.names]
        elif isinstance(node, ast.ImportFrom):
            absolute = [] if node.level else [node.module or ""]
        else:
            continue
        if any(name.partition(".")[0] == "segops" for name in absolute):
            raise ImportError(f"{path}:{node.lineno}: travels in bundles; import it relatively")
        if isinstance(node, ast.ImportFrom) and node.level:
            base = package[: len(package) - node.level + 1]
            base += tuple(node.module.split(".")) if node.module else ()
            yield base
            # `from .. import name` may name a module or something inside one.
            yield from (
                (*base, name.name) for name in node.names if _source((*base, name.name)).is_file()
            )

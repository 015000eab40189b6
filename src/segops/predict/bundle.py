"""The bundle: a directory that holds all it takes to predict, segops not needed.

    weights.safetensors   the network's weights; nothing is pickled
    model.json            what to build, the classes, the images that it was trained on
    runtime/              copies of the modules of segops that predicting takes
    pyfunc_model.py       the script that MLflow runs ("models from code")
    requirements.txt      exact versions of the libraries

This is what is evaluated, registered and served. The same weights and code give the same bytes, and
the bundle's digest names them: no time, no path, no machine enters it. Two bundles of one network
made under other versions of the libraries differ in ``requirements.txt``.
"""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.torch
import torch
from numpy.typing import NDArray
from torch import nn

import segops
from segops import files
from segops.errors import SegopsError

from . import isolate
from .predictor import Prediction

if TYPE_CHECKING:
    # A bundle brings its own copy of the zoo; importing ours as well would take seconds.
    from ..models.zoo import ModelSpec

PYFUNC_MODEL = "pyfunc_model.py"
REQUIREMENTS = "requirements.txt"

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


class BundledPredictor:
    """The predictor of a bundle, run by the bundle's own code.

    Attributes:
        model: Content of the bundle's ``model.json``.
        class_names: The names in id order.
        device: Where it predicts.
    """

    def __init__(self, inner: Any, model: dict[str, Any]) -> None:
        self._inner = inner
        self.model = model
        self.class_names: tuple[str, ...] = tuple(inner.class_names)
        self.device: Any = inner.device

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """As :meth:`segops.predict.predictor.Predictor.predict`."""
        with _own_errors():
            found = self._inner.predict(image)
        return Prediction(found.mask, found.confidence)

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As :meth:`segops.predict.predictor.Predictor.predict_mask`."""
        with _own_errors():
            mask: NDArray[np.uint8] = self._inner.predict_mask(image)
        return mask

    def predict_bytes(self, content: bytes | str, name: str = "image") -> tuple[bytes, float]:
        """As :meth:`segops.predict.predictor.Predictor.predict_bytes`."""
        with _own_errors():
            mask, confidence = self._inner.predict_bytes(content, name)
        return mask, confidence


def write_bundle(
    target_dir: Path,
    network: nn.Module,
    spec: ModelSpec,
    class_names: Sequence[str],
    training_images: Mapping[str, str],
    extra: Mapping[str, Any],
) -> None:
    """Write a bundle, whole or not at all.

    Args:
        target_dir: The directory; what lies there is replaced.
        network: As :func:`segops.models.zoo.build` returns it for `spec`, trained.
        spec: What it takes to build the network.
        class_names: The names in id order.
        training_images: SHA-256 of every image that had a part in training, by image id; the
            selection split's too, because it chose the checkpoint.
        extra: Anything else worth keeping, ready for JSON; the same at every run of the same
            training (no times), because it enters the digest.

    Raises:
        SegopsError: Names and network disagree on the number of classes.
        ValueError: `extra` is not JSON.
    """
    if spec.classes != len(class_names):
        raise SegopsError(
            f"The network has {spec.classes} classes, but {len(class_names)} names are given: "
            f"{', '.join(class_names)}."
        )
    model = {
        "format": isolate.FORMAT,
        "spec": asdict(spec),
        "class_names": list(class_names),
        "palette": "VOC colours; the value of a pixel is the class id",
        "training_images": dict(sorted(training_images.items())),
        "segops_version": segops.__version__,
        "extra": dict(extra),
    }
    text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
    # Clones, because tensors that share memory are refused, and views would save what they hide.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    with files.atomic_directory(target_dir) as temporary:
        (temporary / isolate.MODEL).write_text(text, encoding="utf-8")
        (temporary / isolate.WEIGHTS).write_bytes(safetensors.torch.save(state))
        (temporary / REQUIREMENTS).write_text(requirements(), encoding="utf-8")
        (temporary / PYFUNC_MODEL).write_bytes((_ROOT / "predict" / PYFUNC_MODEL).read_bytes())
        for module in runtime_modules():
            copy = temporary / isolate.RUNTIME / module
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes((_ROOT / module).read_bytes())


def load_bundle(
    directory: Path, device: str = "cpu", expected_digest: str | None = None
) -> BundledPredictor:
    """Open a bundle with the code that lies in it.

    Args:
        directory: The bundle.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.
        expected_digest: What :func:`bundle_digest` must say; checked before any of the bundle's
            code is run.

    Raises:
        SegopsError: The directory is no bundle, has another digest, or cannot be used here.
    """
    with _own_errors():
        inner = isolate.open_bundle(directory, device, expected_digest)
    return BundledPredictor(inner, read_model(directory))


def read_model(directory: Path) -> dict[str, Any]:
    """Content of a bundle's ``model.json``, read without running any of the bundle's code.

    Raises:
        SegopsError: The file is missing or is not JSON.
    """
    model: dict[str, Any] = files.read_json(directory / isolate.MODEL)
    return model


def bundle_digest(directory: Path) -> str:
    """SHA-256 over the paths and contents of all files of a bundle, in hexadecimal.

    Raises:
        SegopsError: There is no such directory.
    """
    if not directory.is_dir():
        raise SegopsError(f"{directory}: no such directory. The stage `train` writes a bundle.")
    return files.sha256_tree(directory)


def weights_sha256(directory: Path) -> str:
    """SHA-256 of a bundle's weights, in hexadecimal.

    Raises:
        SegopsError: The file is missing.
    """
    path = directory / isolate.WEIGHTS
    if not path.is_file():
        raise SegopsError(f"{path}: no such file. The stage `train` writes a bundle.")
    return files.sha256_file(path)


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


@contextmanager
def _own_errors() -> Iterator[None]:
    """Turn the errors of a bundle's own code, a class of its own, into ours."""
    try:
        yield
    except isolate.BundleError as error:
        raise SegopsError(str(error)) from error
    except Exception as error:
        if type(error).__name__ == "SegopsError" and not isinstance(error, SegopsError):
            raise SegopsError(str(error)) from error
        raise

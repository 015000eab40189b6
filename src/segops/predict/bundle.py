"""The bundle: a directory that holds all it takes to predict, segops not needed.

    weights.safetensors   the network's weights; nothing is pickled
    model.json            what to build, the classes, the images that it was trained on
    runtime/              a copy of segops.runtime; its pyfunc_model.py is what MLflow runs
    requirements.txt      exact versions of the libraries

This is what is evaluated, registered and served. The same weights and code give the same bytes, and
the bundle's digest names them: no time, no path, no machine enters it. Two bundles of one network
made under other versions of the libraries differ in ``requirements.txt``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.runtime.predictor import Prediction

if TYPE_CHECKING:
    from torch import Tensor, nn


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
        """As :meth:`segops.runtime.predictor.Predictor.predict`."""
        with _own_errors():
            found = self._inner.predict(image)
        return Prediction(found.mask, found.confidence)

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_mask`."""
        with _own_errors():
            mask: NDArray[np.uint8] = self._inner.predict_mask(image)
        return mask

    def predict_bytes(self, content: bytes | str, name: str = "image") -> tuple[bytes, float]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_bytes`."""
        with _own_errors():
            mask, confidence = self._inner.predict_bytes(content, name)
        return mask, confidence

    @property
    def says_confidence(self) -> bool:
        """Whether it can tell the probability of every pixel; bundles of old cannot."""
        return hasattr(self._inner, "predict_tensors")

    def predict_tensors(self, image: NDArray[np.uint8]) -> tuple[Tensor, Tensor]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_tensors`.

        Raises:
            SegopsError: The bundle was made before bundles could; see :attr:`says_confidence`.
        """
        self._require("predict_tensors")
        with _own_errors():
            mask, top = self._inner.predict_tensors(image)
        return mask, top

    def predict_probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_probabilities`.

        Raises:
            SegopsError: The bundle was made before bundles could.
        """
        self._require("predict_probabilities")
        with _own_errors():
            probabilities: NDArray[np.float32] = self._inner.predict_probabilities(image)
        return probabilities

    @property
    def network(self) -> nn.Module:
        """The network, built by the bundle's own code."""
        self._require("network")
        network: nn.Module = self._inner.network
        return network

    def _require(self, name: str) -> None:
        if not hasattr(self._inner, name):
            raise SegopsError(
                f"The model's bundle has no {name}: it was made by segops "
                f"{self.model.get('segops_version', '(unknown)')}, before bundles had it. "
                "`dvc repro package` makes a new bundle of the same weights."
            )


def load_bundle(
    directory: Path,
    device: str = "cpu",
    expected_digest: str | None = None,
    predict: Mapping[str, Any] | None = None,
) -> BundledPredictor:
    """Open a bundle with the code that lies in it.

    Args:
        directory: The bundle.
        device: A torch device, or `auto`: the GPU if there is one, else the CPU.
        expected_digest: What :func:`bundle_digest` must say; checked before any of the bundle's
            code is run.
        predict: How to predict instead of the bundle's own way, as `predict` in ``params.yaml``.

    Raises:
        SegopsError: The directory is no bundle, has another digest, or cannot be used here.
    """
    with _own_errors():
        inner = opener.open_bundle(directory, device, expected_digest, predict)
    return BundledPredictor(inner, read_model(directory))


def read_model(directory: Path) -> dict[str, Any]:
    """Content of a bundle's ``model.json``, read without running any of the bundle's code.

    Raises:
        SegopsError: The file is missing or is not JSON.
    """
    model: dict[str, Any] = files.read_json(directory / opener.MODEL)
    return model


def bundle_digest(directory: Path) -> str:
    """SHA-256 over the paths and contents of all files of a bundle, in hexadecimal.

    Raises:
        SegopsError: There is no such directory.
    """
    if not directory.is_dir():
        raise SegopsError(f"{directory}: no such directory. The stage `package` writes a bundle.")
    return files.sha256_tree(directory)


@contextmanager
def _own_errors() -> Iterator[None]:
    """Turn the errors of a bundle's own code, a class of its own, into ours."""
    try:
        yield
    except opener.BundleError as error:
        raise SegopsError(str(error)) from error
    except Exception as error:
        if type(error).__name__ == "SegopsError" and not isinstance(error, SegopsError):
            raise SegopsError(str(error)) from error
        raise

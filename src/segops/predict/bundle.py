"""A bundle: a directory that holds all that prediction needs except the libraries.

    weights.safetensors   the network's weights; nothing is pickled
    model.json            the network's specification, the classes, the images trained on
    runtime/              a copy of segops.runtime; MLflow runs its pyfunc_model.py
    requirements.txt      exact versions of the libraries

It holds no time, no path and no name of a machine: its digest is the same for the same weights,
code, settings and versions of the libraries.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.runtime import opener
from segops.runtime.bands import channels_of
from segops.runtime.classes import Classes
from segops.runtime.errors import SegopsError
from segops.runtime.predict_settings import PredictSettings
from segops.voc.reading import Bands

if TYPE_CHECKING:
    from torch import nn

    from segops.runtime.predictor import Prediction


TORCH = "torch"
EXPORT = "export"
"""Key of an export's ``model.json``: what it is of, and how other software runs it."""


class BundledPredictor:
    """The predictor of a bundle, run by the bundle's own code.

    A method that the code of an old bundle lacks raises a SegopsError.

    Attributes:
        model: Content of the bundle's ``model.json``.
        class_names: The names in id order.
        classes: The classes with their colours and their background.
        device: The device of the network.
        runtime: What runs the network: :data:`TORCH`, or the format of an export.
        digest: SHA-256 over the files that it was opened from; see :func:`bundle_digest`.
    """

    def __init__(self, inner: Any, model: dict[str, Any], digest: str) -> None:
        self._inner = inner
        self.model, self.digest = model, digest
        self.class_names: tuple[str, ...] = tuple(inner.class_names)
        self.classes = Classes.of_model(model)
        self.device: Any = inner.device
        self.runtime: str = runtime_of(model)

    def predict(self, image: NDArray[np.uint8]) -> Prediction:
        """As :meth:`segops.runtime.predictor.Predictor.predict`."""
        prediction: Prediction = self._call("predict", image)
        return prediction

    def predict_mask(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_mask`."""
        mask: NDArray[np.uint8] = self._call("predict_mask", image)
        return mask

    def predict_bytes(self, content: bytes | str, name: str = "image") -> tuple[bytes, float]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_bytes`."""
        mask, confidence = self._call("predict_bytes", content, name)
        return mask, confidence

    @property
    def bundle_digest(self) -> str:
        """Digest of the bundle; of an export, that of the bundle that it was made of."""
        return str(self.model[EXPORT]["bundle_digest"]) if EXPORT in self.model else self.digest

    @property
    def channels(self) -> int:
        """Channels of an image; three are RGB."""
        return channels_of(self.model)

    def require_channels(self, channels: int, name: str) -> None:
        """Check that the model, called `name` in messages, is one for images of `channels`.

        Raises:
            SegopsError: It is not.
        """
        if self.channels != channels:
            raise SegopsError(
                f"{name}: this model takes images of {self.channels} channels, the data have "
                f"{channels} (data.channels, data.bands). Use a model of these data; where this is "
                "the champion, give the new one another `registry.model`."
            )

    @property
    def bands(self) -> Bands:
        """Which of the channels come from files of further directories."""
        directories = tuple(self.model.get(opener.BANDS, ()))
        return Bands(self.channels - len(directories), directories)

    @property
    def max_pixels(self) -> int:
        """Images of more pixels are refused. The bundle's own code reads all other settings."""
        settings = self.model.get("predict") or {}
        return int(settings.get("max_pixels", PredictSettings().max_pixels))

    @property
    def bit_depth(self) -> int | None:
        """As of :func:`segops.runtime.images.decode_consumer_image`."""
        depth: int | None = self.model.get(opener.BIT_DEPTH, 16)
        return depth

    @property
    def says_confidence(self) -> bool:
        """Whether :meth:`predict_tensors` works; the code of old bundles lacks it."""
        return hasattr(self._inner, "predict_tensors")

    def predict_tensors(
        self, image: NDArray[np.uint8]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_tensors`, in NumPy's arrays."""
        mask, top = self._call("predict_tensors", image)
        return _fetched(mask), _fetched(top)

    def predict_probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As :meth:`segops.runtime.predictor.Predictor.predict_probabilities`."""
        probabilities: NDArray[np.float32] = self._call("predict_probabilities", image)
        return probabilities

    def batch_logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """As :meth:`segops.runtime.predictor.Predictor.batch_logits`."""
        logits: NDArray[np.float32] = self._call("batch_logits", images)
        return logits

    @property
    def network(self) -> nn.Module:
        """The network, built by the bundle's own code."""
        network: nn.Module = self._get("network")
        return network

    def _call(self, name: str, *arguments: Any) -> Any:
        method = self._get(name)
        with _own_errors():
            return method(*arguments)

    def _get(self, name: str) -> Any:
        if not hasattr(self._inner, name):
            if self.runtime != TORCH:
                raise SegopsError(
                    f"This model is an export for {self.runtime}, which has no {name}. Use the "
                    "model that it was made of."
                )
            raise SegopsError(
                f"The model's bundle has no {name}: it was made by segops "
                f"{self.model.get('segops_version', '(unknown)')}, before bundles had it. "
                "`dvc repro package` makes a new bundle of the same weights."
            )
        return getattr(self._inner, name)


def load_bundle(
    directory: Path,
    device: str = "cpu",
    expected_digest: str | None = None,
    predict: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> BundledPredictor:
    """Open a bundle, or an export, with the code that lies in it.

    Its files are read once: what the digest is checked on is what is used.
    Nothing here imports torch, but for the code of a bundle that needs it.

    Arguments as of :func:`segops.runtime.opener.open_bundle`.

    Raises:
        SegopsError: The directory is no bundle, has another digest, or cannot be used here.
    """
    return open_read(read_bundle(directory, expected_digest), device, predict, threads)


def read_bundle(directory: Path, expected_digest: str | None = None) -> opener.Bundle:
    """Read the files of a bundle or an export once, without running any of its code.

    Raises:
        SegopsError: The directory is no bundle, or has another digest.
    """
    with _own_errors():
        bundle = opener.Bundle.read(directory, expected_digest)
        _ = bundle.model  # whoever asks for it meets no other error
        return bundle


def open_read(
    bundle: opener.Bundle,
    device: str = "cpu",
    predict: Mapping[str, Any] | None = None,
    threads: int | None = None,
) -> BundledPredictor:
    """Open a bundle that was read; arguments and errors are those of :func:`load_bundle`."""
    if not re.fullmatch(r"auto|cpu|cuda(:\d+)?", device):
        raise SegopsError(f"device {device!r}: expected auto, cpu, cuda or cuda:N.")
    with _own_errors():
        return BundledPredictor(bundle.open(device, predict, threads), bundle.model, bundle.digest)


def runtime_of(model: Mapping[str, Any]) -> str:
    """What runs the network of a bundle or export, by its ``model.json``."""
    form = str(model.get("format"))
    return form if form in (opener.ONNX, opener.OPENVINO) else TORCH


def _fetched(values: Any) -> Any:
    """An array of torch as one of NumPy; arrays of NumPy as they are."""
    return values.cpu().numpy() if hasattr(values, "cpu") else values


def read_model(directory: Path) -> dict[str, Any]:
    """Content of a bundle's ``model.json``, read without running any of the bundle's code."""
    model: dict[str, Any] = files.read_json(directory / opener.MODEL)
    return model


def weights_sha256(bundle: opener.Bundle) -> str:
    """SHA-256 of a bundle's weights, or of those that an export was made of, in hexadecimal."""
    model = bundle.model
    if EXPORT in model:
        return str(model[EXPORT]["weights_sha256"])
    return files.sha256_bytes(bundle.files[opener.WEIGHTS])


def size(bundle: opener.Bundle) -> int:
    """Bytes of the files of a bundle or export."""
    return sum(map(len, bundle.files.values()))


def bundle_digest(directory: Path) -> str:
    """SHA-256 over the paths and contents of all files of a bundle, in hexadecimal."""
    return read_bundle(directory).digest


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise a SegopsError in place of the bundle's own error classes."""
    try:
        yield
    except opener.BundleError as error:
        raise SegopsError(str(error)) from error
    except Exception as error:
        if type(error).__name__ == "SegopsError" and not isinstance(error, SegopsError):
            raise SegopsError(str(error)) from error
        raise

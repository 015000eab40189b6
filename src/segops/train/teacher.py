"""The trained model whose class probabilities a training learns beside the masks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

from torch import nn

from segops.predict import seen
from segops.runtime import opener
from segops.runtime.bands import channels_of
from segops.runtime.errors import SegopsError

KEY = "train.teacher"


@dataclass(frozen=True)
class Teacher:
    """A trained model of segops, as the files of its bundle.

    Attributes:
        files: Content of each file by its relative path.
        digest: SHA-256 over them; see :func:`segops.predict.bundle.bundle_digest`.
        model: Its permanent address: ``models:/NAME/VERSION``, or the path of a bundle.
        training_images: SHA-256 of every image that had a part in its training, by image id.
        training_pixels: Hashes of the pixels of these images; see :mod:`segops.predict.seen`.
    """

    files: Mapping[str, bytes]
    digest: str
    model: str
    training_images: Mapping[str, str]
    training_pixels: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Path, model: str, class_names: Sequence[str], channels: int) -> Teacher:
        """Read the model of a bundle, without running the bundle's code.

        Args:
            bundle: The bundle's directory.
            model: Its permanent address.
            class_names: The names of the student's classes in id order.
            channels: Channels of the images.

        Raises:
            SegopsError: `bundle` is no bundle, or its model has other classes or is one for images
                of other channels.
        """
        with _named(model):
            held = opener.Bundle.read(bundle)
            described = held.model
        _require_same_classes(model, described.get("class_names", ()), class_names)
        own = channels_of(described)
        if own != channels:
            raise SegopsError(
                f"{KEY}: {model}: a model of images of {own} channels; the data has {channels}. "
                f"Name a model of images of {channels} channels, or set it to null."
            )
        images, pixels = (described.get(key, {}) for key in (seen.IMAGES, seen.PIXELS))
        return cls(held.files, held.digest, model, images, pixels)

    def network(self) -> nn.Module:
        """Build the network with the bundle's own code, in evaluation mode and without gradients.

        It maps images (N, B, H, W), uint8, to logits (N, C, H, W).

        Raises:
            SegopsError: The bundle cannot be used with the libraries installed here.
        """
        with _named(self.model):
            network: nn.Module = opener.Bundle(Path(self.model), self.files).open().network
        return network.eval().requires_grad_(False)


@contextmanager
def _named(model: str) -> Iterator[None]:
    """Raise a SegopsError that names the teacher in place of the opener's error."""
    # Not by `predict.bundle`: how images are predicted does not decide a training.
    try:
        yield
    except opener.BundleError as error:
        raise SegopsError(f"{KEY}: {model}: {error}") from error


def _require_same_classes(model: str, theirs: Sequence[str], ours: Sequence[str]) -> None:
    for number, names in enumerate(zip_longest(theirs, ours)):
        if names[0] != names[1]:
            found, expected = ("missing" if one is None else repr(one) for one in names)
            raise SegopsError(
                f"{KEY}: {model}: its classes differ from data.classes: class {number} is "
                f"{found}, expected {expected}. Name a model of the same classes, or set "
                f"{KEY} to null."
            )

"""The trained model that a training starts from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from torch import Tensor

from segops.files import read_json, sha256_bytes
from segops.models.pruning import prune
from segops.predict import seen
from segops.runtime.bands import MOST_CHANNELS
from segops.runtime.errors import SegopsError
from segops.runtime.networks.pruned import Shapes
from segops.runtime.networks.zoo import ModelSpec
from segops.runtime.opener import MODEL, WEIGHTS


@dataclass(frozen=True)
class Start:
    """A trained model of segops.

    Attributes:
        weights: The state dict of its network.
        sha256: SHA-256 of its file of weights, in hexadecimal.
        training_images: SHA-256 of every image that had a part in its training, by image id.
        mean: Per-channel mean of its normalisation, in 0..1; its weights depend on it.
        std: Per-channel standard deviation of its normalisation, in 0..1.
        model: Its permanent address: ``models:/NAME/VERSION``, or the path of a bundle.
        training_pixels: Hashes of the pixels of these images; see :mod:`segops.predict.seen`.
        pruned_shapes: As of :class:`~segops.runtime.networks.zoo.ModelSpec`.
        left: SHA-256 of the weights that pruning left for this training; None: all of them.
    """

    weights: Mapping[str, Tensor]
    sha256: str
    training_images: Mapping[str, str]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    model: str
    training_pixels: Mapping[str, str] = field(default_factory=dict)
    pruned_shapes: Shapes = field(default_factory=dict)
    left: str | None = None

    @classmethod
    def of(cls, bundle: Path, model: str) -> Start:
        """The model of a bundle, read without running the bundle's code.

        Raises:
            SegopsError: `bundle` is no bundle, or its weights cannot be read.
        """
        content = read_json(bundle / MODEL)
        images, pixels = (content.get(key, {}) for key in (seen.IMAGES, seen.PIXELS))
        mean, std = (_values(bundle / MODEL, content, name) for name in ("mean", "std"))
        path = bundle / WEIGHTS
        try:
            file = path.read_bytes()
            weights = safetensors.torch.load(file)
        except (OSError, safetensors.SafetensorError) as error:
            raise SegopsError(
                f"model.start_from: {path}: cannot be read: {error}. Expected a bundle's weights."
            ) from None
        shapes = content["spec"].get("pruned_shapes") or {}
        return cls(weights, sha256_bytes(file), images, mean, std, model, pixels, shapes)

    def pruned(self, spec: ModelSpec, share: float) -> Start:
        """This model without a share of its channels.

        Args:
            spec: The specification of its network.
            share: As of :func:`segops.models.pruning.prune`.

        Raises:
            SegopsError: As :func:`segops.models.pruning.prune`.
        """
        shapes, weights = prune(spec, self.weights, share)
        left = sha256_bytes(safetensors.torch.save(weights))
        return replace(self, weights=weights, pruned_shapes=shapes, left=left)


def _values(path: Path, content: Mapping[str, Any], name: str) -> tuple[float, ...]:
    """A value for each channel from the specification of a bundle's network."""
    values = content.get("spec", {}).get(name)
    try:
        found = tuple(map(float, values))
        if not 2 <= len(found) <= MOST_CHANNELS:
            raise ValueError
    except (TypeError, ValueError):
        raise SegopsError(
            f"model.start_from: {path}: spec.{name}: found {values!r}, expected a number for "
            "each channel. Start from a bundle as `dvc repro package` makes it."
        ) from None
    return found


def all_images(own: Mapping[str, str], **earlier: Mapping[str, str]) -> dict[str, str]:
    """Hashes by id of the training images of a model (`own`) and of the models it was made from.

    An id of such a model that names another image here gets the argument's name as a prefix.
    """
    images = dict(own)
    for role, theirs in earlier.items():
        for image_id, digest in theirs.items():
            if images.setdefault(image_id, digest) != digest:
                images[f"{role}/{image_id}"] = digest
    return images

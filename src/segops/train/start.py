"""The trained model that a training begins from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import safetensors
import safetensors.torch
from torch import Tensor

from segops.errors import SegopsError
from segops.files import read_json, sha256_bytes
from segops.predict.isolate import MODEL, WEIGHTS


@dataclass(frozen=True)
class Start:
    """A trained model of ours.

    Attributes:
        weights: The state dict of its network.
        sha256: SHA-256 of its file of weights, in hexadecimal.
        training_images: SHA-256 of every image that had a part in its training, by image id.
    """

    weights: Mapping[str, Tensor]
    sha256: str
    training_images: Mapping[str, str]

    @classmethod
    def of(cls, bundle: Path) -> Start:
        """The model of a bundle; none of its code is run.

        Raises:
            SegopsError: It is no bundle, or its weights cannot be read.
        """
        images = read_json(bundle / MODEL).get("training_images", {})
        path = bundle / WEIGHTS
        try:
            content = path.read_bytes()
            weights = safetensors.torch.load(content)
        except (OSError, safetensors.SafetensorError) as error:
            raise SegopsError(
                f"model.start_from: {path}: cannot be read: {error}. Expected a bundle's weights."
            ) from None
        return cls(weights, sha256_bytes(content), images)


def all_images(own: Mapping[str, str], start: Start | None) -> dict[str, str]:
    """SHA-256 by id of all images that a model has seen, those of its start model included.

    An id that stands for another image there is told apart by a prefix.
    """
    images = dict(own)
    for image_id, digest in ({} if start is None else start.training_images).items():
        if images.setdefault(image_id, digest) != digest:
            images[f"start_from/{image_id}"] = digest
    return images

"""Writes a trained network: its weights, its specification, the classes, the images trained on.

The stage ``package`` makes a bundle of it; see :mod:`segops.predict.bundle`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import safetensors.torch
import torch
from torch import nn

import segops
from segops import files
from segops.predict import seen
from segops.runtime import opener
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    # A bundle has its own copy of the zoo; importing this copy too would take seconds.
    from segops.runtime.networks.zoo import ModelSpec


def write_trained(
    target_dir: Path,
    network: nn.Module,
    spec: ModelSpec,
    class_names: Sequence[str],
    training_images: Mapping[str, str],
    extra: Mapping[str, Any],
    training_pixels: Mapping[str, str] | None = None,
) -> None:
    """Write a trained network, whole or not at all.

    Args:
        target_dir: The directory; its former content is replaced.
        network: As :func:`segops.runtime.networks.zoo.build` returns it for `spec`, trained.
        spec: Its specification.
        class_names: The names in id order.
        training_images: SHA-256 of every image that had a part in training, by image id; also
            of the selection split, because it chose the checkpoint.
        extra: Further content of ``model.json``, ready for JSON. It enters the bundle's digest, so
            it must be the same at every run of the same training (no times).
        training_pixels: :func:`segops.voc.hashes.pixel_hash` of these images, where it is known.

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
        "format": opener.FORMAT,
        "spec": asdict(spec),
        "class_names": list(class_names),
        "palette": "the value of a pixel is the class id",
        seen.IMAGES: dict(sorted(training_images.items())),
        seen.PIXELS: dict(sorted((training_pixels or {}).items())),
        "segops_version": segops.__version__,
        "extra": dict(extra),
    }
    text = json.dumps(model, indent=2, sort_keys=True, allow_nan=False) + "\n"
    # Clones: safetensors refuses tensors that share memory, and a view would save its whole base.
    state = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, tensor in network.state_dict().items()
    }
    with files.atomic_directory(target_dir) as temporary:
        (temporary / opener.MODEL).write_text(text, encoding="utf-8")
        (temporary / opener.WEIGHTS).write_bytes(safetensors.torch.save(state))

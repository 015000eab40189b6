"""Bundles of networks that a test builds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import nn

from segops import files
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime import opener
from segops.runtime.networks.zoo import ModelSpec


def write_bundle(
    target_dir: Path,
    network: nn.Module,
    spec: ModelSpec,
    class_names: Sequence[str],
    training_images: Mapping[str, str],
    extra: Mapping[str, Any],
    predict: Mapping[str, Any] | None = None,
    bit_depth: int | None = None,
    bands: Sequence[str] = (),
) -> None:
    """As a training and stage `package` write it."""
    write_trained(target_dir, network, spec, class_names, training_images, extra)
    package(target_dir, target_dir, predict, bit_depth, bands=bands)


def weights_sha256(directory: Path) -> str:
    """SHA-256 of the weights of a trained network or of a bundle, in hexadecimal."""
    return files.sha256_file(directory / opener.WEIGHTS)

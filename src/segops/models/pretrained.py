"""Networks whose encoder starts from pretrained weights."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp

from segops.models.encoder_weights import (
    check_download,
    download,
    is_file,
    load_encoder_weights,
    timm_settings,
)
from segops.runtime.errors import SegopsError
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    PLAIN,
    ModelSpec,
    build,
    check_names,
    is_smp,
)


def normalisation(
    encoder: str, encoder_weights: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in 0..1, that an encoder's pretrained weights were made with.

    ImageNet's where the encoder starts at random or the weights do not say.

    Raises:
        SegopsError: Published weights are asked for and cannot be had.
    """
    settings: Any = {}
    if encoder_weights is not None and encoder.startswith("tu-"):
        if not is_file(encoder_weights):
            check_download(encoder, encoder_weights)
        config = timm_settings(encoder.removeprefix("tu-"))
        settings = asdict(config) if config else {}
    elif encoder_weights is not None and not is_file(encoder_weights) and is_smp(encoder):
        download(encoder, encoder_weights)
        settings = smp.encoders.get_preprocessing_params(encoder, encoder_weights)
    full = max(settings.get("input_range") or (0, 1))
    return (
        tuple(value / full for value in settings.get("mean", IMAGENET_MEAN)),
        tuple(value / full for value in settings.get("std", IMAGENET_STD)),
    )


def build_pretrained(
    spec: ModelSpec, encoder_weights: str | None = None, auxiliary: bool = False
) -> Segmenter:
    """Build a network, in training mode, and put pretrained weights into its encoder.

    Args:
        spec: As for :func:`segops.runtime.networks.zoo.build`.
        encoder_weights: `imagenet` or another name that SMP publishes weights of the encoder
            under, None (random), or the path of a local safetensors file or checkpoint.
        auxiliary: As for :func:`segops.runtime.networks.zoo.build`.

    Raises:
        SegopsError: As there, or the weights cannot be had or do not fit.
    """
    check_names(spec)
    if encoder_weights is None:
        return build(spec, auxiliary)
    if spec.architecture == PLAIN:
        raise SegopsError("model.encoder_weights: plain_cnn has no encoder; set it to null.")
    if is_file(encoder_weights):
        segmenter = build(spec, auxiliary)
        load_encoder_weights(segmenter.network.get_submodule("encoder"), Path(encoder_weights))
        return segmenter
    download(spec.encoder, encoder_weights)
    return build(spec, auxiliary, published=encoder_weights)

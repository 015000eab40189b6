"""Every network by name."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import is_equivalent_to_timm_universal
from torch import nn

from ..errors import SegopsError
from .encoder_weights import IMAGENET, check_download, load_encoder_weights
from .fcn import FCN
from .plain_cnn import PlainCNN
from .segmenter import Segmenter

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_STRIDE = 32

# Set by segops, or of no use here: `activation` and `aux_params` would change what comes out.
_RESERVED = frozenset(
    {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
)


@dataclass(frozen=True)
class ModelSpec:
    """What it takes to build a network; the weights apart.

    Attributes:
        architecture: A key of :data:`ARCHITECTURES`.
        encoder: Name of an SMP encoder, or `tu-` and the name of a timm model.
        classes: Number of classes C.
        options: Further keyword arguments of the architecture.
        mean: Per-channel mean for the normalisation, in 0..1, RGB.
        std: Per-channel standard deviation for the normalisation, in 0..1, RGB.
    """

    architecture: str
    encoder: str
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))


Builder = Callable[..., nn.Module]


def _fcn(finest: int) -> Builder:
    def build_fcn(*, encoder_name: str, encoder_weights: Any, classes: int, **options: Any) -> FCN:
        return FCN(encoder_name, encoder_weights, classes, finest, **options)

    build_fcn.__signature__ = inspect.signature(FCN)  # type: ignore[attr-defined]
    return build_fcn


ARCHITECTURES: dict[str, Builder] = {
    **smp.MODEL_ARCHITECTURES_MAPPING,
    "fcn8s": _fcn(8),
    "fcn16s": _fcn(16),
    "fcn32s": _fcn(32),
    "plain_cnn": PlainCNN,
}
"""Builders by name: SMP's classes, FCN (Long et al. 2015), and the plain baseline."""


def encoder_names() -> list[str]:
    """All encoder names of SMP; besides them, `tu-` and any timm model that gives features."""
    return list(smp.encoders.get_encoder_names())


def normalisation(
    encoder: str, encoder_weights: str | None
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation, in 0..1, that an encoder's pretrained weights were made with.

    ImageNet's where the encoder starts at random or the weights do not say.

    Raises:
        SegopsError: `imagenet` weights are asked for and cannot be had.
    """
    settings: Any = {}
    if encoder_weights is not None and encoder.startswith("tu-"):
        config = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
        settings = asdict(config) if config else {}
    elif encoder_weights == IMAGENET and _is_smp(encoder):
        check_download(encoder)
        settings = smp.encoders.get_preprocessing_params(encoder, IMAGENET)
    full = max(settings.get("input_range") or (0, 1))
    return (
        tuple(value / full for value in settings.get("mean", IMAGENET_MEAN)),
        tuple(value / full for value in settings.get("std", IMAGENET_STD)),
    )


def build(spec: ModelSpec, encoder_weights: str | None = None) -> Segmenter:
    """Build a network.

    Args:
        spec: What to build.
        encoder_weights: `imagenet`, None (random), or the path of a local safetensors file.

    Returns:
        A network in training mode that takes images in 0..255 of shape (N, 3, H, W), any size,
        and returns logits (N, C, H, W).

    Raises:
        SegopsError: An unknown architecture, encoder or option; a pair that does not work
            together; weights that cannot be had or do not fit.
    """
    _check_names(spec)
    options = dict(spec.options)
    if spec.architecture != "plain_cnn":
        options |= {"encoder_name": spec.encoder, "encoder_weights": None}
        if encoder_weights == IMAGENET:
            check_download(spec.encoder)
            options["encoder_weights"] = IMAGENET if _is_smp(spec.encoder) else True
    elif encoder_weights is not None:
        raise SegopsError("model.encoder_weights: plain_cnn has no encoder; set it to null.")
    if spec.architecture == "dpt":
        options.setdefault("dynamic_img_size", True)  # else a ViT takes one image size only
    try:
        network = ARCHITECTURES[spec.architecture](classes=spec.classes, **options)
        if encoder_weights not in (None, IMAGENET):
            load_encoder_weights(network.get_submodule("encoder"), Path(str(encoder_weights)))
        segmenter = Segmenter(
            network, spec.mean, spec.std, *_least_sizes(spec.architecture, network)
        )
        _try_once(segmenter, spec.classes)
    except SegopsError:
        raise
    except Exception as error:
        options_used = f" and options {spec.options}" if spec.options else ""
        raise SegopsError(
            f"model: architecture {spec.architecture} does not work with encoder {spec.encoder}"
            f"{options_used}: {type(error).__name__}: {error}. "
            f"{'Check model.options, or choose' if spec.options else 'Choose'} another encoder "
            "(resnet18 to resnet152 work with all architectures but dpt, which takes tu-vit "
            "models) or another architecture."
        ) from error
    return segmenter


def _check_names(spec: ModelSpec) -> None:
    if spec.architecture not in ARCHITECTURES:
        raise SegopsError(
            f"model.architecture: no architecture {spec.architecture!r}."
            f"{_close(spec.architecture, ARCHITECTURES)} Expected {', '.join(ARCHITECTURES)}."
        )
    if not (spec.architecture == "plain_cnn" or _is_encoder(spec.encoder)):
        timm_names = [f"tu-{name}" for name in timm.list_models()]
        raise SegopsError(
            f"model.encoder: no encoder {spec.encoder!r}."
            f"{_close(spec.encoder, [*encoder_names(), *timm_names])} Expected "
            f"{', '.join(encoder_names())}, or tu-NAME for a model NAME of timm."
        )
    allowed = set(inspect.signature(ARCHITECTURES[spec.architecture]).parameters)
    allowed -= _RESERVED | {"kwargs", "encoder_options", "finest"}
    # Further arguments reach timm's encoders; SMP would drop them silently for its own.
    free = not _is_smp(spec.encoder) and spec.architecture != "plain_cnn"
    unknown = [
        name for name in spec.options if name in _RESERVED or (name not in allowed and not free)
    ]
    if unknown:
        raise SegopsError(
            f"model.options: {spec.architecture} with encoder {spec.encoder} has no option "
            f"{', '.join(unknown)}; expected {', '.join(sorted(allowed)) or 'none'}."
            f"{_close(unknown[0], allowed)}"
        )


def _is_smp(encoder: str) -> bool:
    return encoder in smp.encoders.encoders


def _is_encoder(name: str) -> bool:
    if name.startswith("tu-"):
        return bool(timm.is_model(name.removeprefix("tu-").split(".")[0]))
    return _is_smp(name) or is_equivalent_to_timm_universal(name)


def _close(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), list(names), n=3)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _least_sizes(architecture: str, network: nn.Module) -> tuple[int, int]:
    """Stride and shortest side, in pixels, that a network needs."""
    encoder = getattr(network, "encoder", None)
    own = int(getattr(encoder, "output_stride", DEFAULT_STRIDE))
    if architecture == "dpt":  # its coarsest features have twice the stride of the patches
        return math.lcm(DEFAULT_STRIDE, 2 * own), 1
    if architecture == "pan":  # its pyramid halves the features three times
        return math.lcm(DEFAULT_STRIDE, own), 8 * own
    return math.lcm(DEFAULT_STRIDE, own), 1


@torch.no_grad()
def _try_once(segmenter: Segmenter, classes: int) -> None:
    """Run a small image through: some pairs fail only then."""
    segmenter.eval()
    shape = tuple(segmenter(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)).shape)
    segmenter.train()
    if shape != (1, classes, 64, 64):
        raise ValueError(f"an image of (64, 64) gives logits {shape}: check `upsampling`")

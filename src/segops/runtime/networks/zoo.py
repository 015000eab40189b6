"""Builds networks by the names of their architecture and encoder."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import is_equivalent_to_timm_universal
from torch import nn

from ..bands import RGB
from ..errors import SegopsError
from .dilated import DilatedDeepLabV3, DilatedDeepLabV3Plus, DilatedFCN, DilatedPSPNet
from .eomt import EoMT
from .fcn import FCN
from .heads import auxiliary_head
from .options import (
    MASKS,
    TOKENS,
    WITHOUT_ENCODER,
    any_size_options,
    dropout_options,
    put_dropout,
    stride_options,
)
from .pidnet import PIDNet
from .plain_cnn import PlainCNN
from .pruned import Shapes, shrink
from .segmenter import Segmenter
from .tokens import MLP, Linear

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
DEFAULT_STRIDE = 32
# Set by segops, or not supported: `activation` and `aux_params` would change the output.
_RESERVED = frozenset(
    {"encoder_name", "encoder_weights", "in_channels", "classes", "activation", "aux_params"}
    | {"finest"}
)
_COUNTS = frozenset({"blocks", "hidden", "layers", "queries", "width"})


@dataclass(frozen=True)
class ModelSpec:
    """Specification of a network without its weights.

    Attributes:
        architecture: A key of :data:`ARCHITECTURES`.
        encoder: Name of an SMP encoder, or `tu-` and the name of a timm model.
        classes: Number of classes C.
        options: Further keyword arguments of the architecture.
        mean: Per-channel mean for the normalisation, in 0..1; three channels are RGB.
        std: Per-channel standard deviation for the normalisation, in 0..1.
        output_stride: Stride of the encoder's coarsest features, by dilation: 8, 16, 32, or None
            for the architecture's own.
        dropout: Probability of dropout before the classifier; None for the architecture's own.
        pruned_shapes: What :func:`.pruned.shrink` gives the network; empty: it is not pruned.
    """

    architecture: str
    encoder: str
    classes: int
    options: dict[str, Any] = field(default_factory=dict)
    mean: tuple[float, ...] = IMAGENET_MEAN
    std: tuple[float, ...] = IMAGENET_STD
    output_stride: int | None = None
    dropout: float | None = None
    pruned_shapes: Shapes = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "mean", tuple(self.mean))
        object.__setattr__(self, "std", tuple(self.std))

    @property
    def channels(self) -> int:
        """Channels of an image: as many as the normalisation has values."""
        return len(self.mean)


ARCHITECTURES: dict[str, Callable[..., nn.Module]] = {
    **smp.MODEL_ARCHITECTURES_MAPPING,
    "fcn8s": partial(FCN, finest=8),
    "fcn16s": partial(FCN, finest=16),
    "fcn32s": partial(FCN, finest=32),
    "dilated_fcn": DilatedFCN,
    "dilated_pspnet": DilatedPSPNet,
    "dilated_deeplabv3": DilatedDeepLabV3,
    "dilated_deeplabv3plus": DilatedDeepLabV3Plus,
    "linear": Linear,
    "mlp": MLP,
    MASKS: EoMT,
    "pidnet": PIDNet,
    "plain_cnn": PlainCNN,
}
"""Builders by name: SMP's classes, FCN (Long et al. 2015), MMSegmentation's networks on dilated
encoders, vision transformers with a light head or with queries, and networks without an encoder."""


def encoder_names() -> list[str]:
    """All encoder names of SMP; besides them, `tu-` and any timm model that gives features."""
    return list(smp.encoders.get_encoder_names())


def build(spec: ModelSpec, auxiliary: bool = False, published: str | None = None) -> Segmenter:
    """Build a network with random weights.

    Args:
        spec: Specification of the network.
        auxiliary: Add an auxiliary FCN head on the encoder's next-to-last features. It is built
            last: the network starts the same with and without it.
        published: Name of published encoder weights that SMP or timm load from the local cache;
            :func:`segops.models.pretrained.build_pretrained` puts them there. None: random.

    Returns:
        A network in training mode.

    Raises:
        SegopsError: The architecture, the encoder or an option is unknown, architecture and encoder
            do not work together, or the network cannot have the output stride.
    """
    check_names(spec)
    options = _options(spec)
    if spec.channels != RGB:  # an architecture of the user's own need not know others
        options["in_channels"] = spec.channels
    if spec.architecture not in WITHOUT_ENCODER:
        # timm's encoders know their published weights without a name.
        weights = published if published is None or is_smp(spec.encoder) else True
        options |= {"encoder_name": spec.encoder, "encoder_weights": weights}
    elif auxiliary:
        raise SegopsError(
            f"model.auxiliary_weight: {spec.architecture} has no encoder for an auxiliary head; "
            "set it to 0."
        )
    if spec.architecture == MASKS and auxiliary:
        raise SegopsError(
            f"model.auxiliary_weight: {MASKS} has no features for an auxiliary head, and its "
            "queries are judged before each of its last blocks; set it to 0."
        )
    try:
        network = ARCHITECTURES[spec.architecture](classes=spec.classes, **options)
        if spec.dropout is not None and not dropout_options(spec.architecture, spec.dropout, {}):
            put_dropout(network, spec.dropout)
        shrink(network, spec.pruned_shapes)
        segmenter = Segmenter(
            network,
            spec.mean,
            spec.std,
            *_least_sizes(spec.architecture, network),
            _auxiliary(network, spec) if auxiliary else None,
        )
        _try_once(segmenter, spec)
    except SegopsError:
        raise
    except Exception as error:
        raise SegopsError(_not_together(spec, error)) from error
    return segmenter


def _options(spec: ModelSpec) -> dict[str, Any]:
    """The keyword arguments of the architecture, without encoder and classes."""
    options = any_size_options(spec.architecture, spec.encoder) | spec.options
    if spec.output_stride is not None:
        # The user's options take precedence over those derived from the stride (SMP's upsampling).
        options = stride_options(spec.architecture, spec.output_stride, spec.options) | options
    if spec.dropout is not None:
        options |= dropout_options(spec.architecture, spec.dropout, spec.options)
    return options


def _not_together(spec: ModelSpec, error: Exception) -> str:
    if spec.pruned_shapes:
        return (
            f"pruned_shapes: architecture {spec.architecture} with encoder {spec.encoder} does not "
            f"work with these shapes: {type(error).__name__}: {error}. Set model.architecture, "
            "model.encoder and model.options to those of the pruned model."
        )
    asked = {"options": spec.options, "output_stride": spec.output_stride}
    keys = [name for name, value in asked.items() if value]
    used = [f" and {name.replace('_', ' ')} {asked[name]}" for name in keys]
    reason = str(error) or "it gives no reason"
    first = f"Check {' and '.join(f'model.{name}' for name in keys)}, or choose"
    return (
        f"model: architecture {spec.architecture} does not work with encoder {spec.encoder}"
        f"{''.join(used)}: {type(error).__name__}: {reason}. "
        f"{first if keys else 'Choose'} another encoder "
        "(resnet18 to resnet152 work with all architectures but dpt, linear, mlp and eomt, which "
        "take tu-vit models) or another architecture."
    )


def _auxiliary(network: Any, spec: ModelSpec) -> nn.Module:
    channels = list(network.encoder.out_channels)
    if len(channels) < 3 or not channels[-2]:
        raise ValueError(f"no features for an auxiliary head: channels {channels} of the encoder")
    if spec.pruned_shapes:  # the encoder tells the numbers that it was built with
        network.eval()
        with torch.no_grad():
            channels[-2] = network.encoder(torch.zeros(1, spec.channels, 64, 64))[-2].shape[1]
        network.train()
    return auxiliary_head(channels[-2], spec.classes)


def check_names(spec: ModelSpec) -> None:
    """Raise a SegopsError if architecture, encoder or an option is unknown, or a count is none."""
    if spec.architecture not in ARCHITECTURES:
        raise SegopsError(
            f"model.architecture: no architecture {spec.architecture!r}."
            f"{_close(spec.architecture, ARCHITECTURES)} Expected {', '.join(ARCHITECTURES)}."
        )
    if not (spec.architecture in WITHOUT_ENCODER or _is_encoder(spec.encoder)):
        timm_names = [f"tu-{name}" for name in timm.list_models()]
        raise SegopsError(
            f"model.encoder: no encoder {spec.encoder!r}."
            f"{_close(spec.encoder, [*encoder_names(), *timm_names])} Expected "
            f"{', '.join(encoder_names())}, or tu-NAME for a model NAME of timm."
        )
    network = ARCHITECTURES[spec.architecture]
    allowed = {*inspect.signature(network).parameters, *getattr(network, "head_options", ())}
    allowed -= _RESERVED | {"kwargs", "options", "encoder_options"}
    # Further arguments reach timm's encoders; SMP would drop them silently for its own.
    free = not is_smp(spec.encoder) and spec.architecture not in WITHOUT_ENCODER
    unknown = [
        name for name in spec.options if name in _RESERVED or (name not in allowed and not free)
    ]
    if unknown:
        raise SegopsError(
            f"model.options: {spec.architecture} with encoder {spec.encoder} has no option "
            f"{', '.join(unknown)}; expected {', '.join(sorted(allowed)) or 'none'}."
            f"{_close(unknown[0], allowed)}"
        )
    for name in _COUNTS & allowed & spec.options.keys():
        count = spec.options[name]
        if type(count) is not int or count < 1:
            raise SegopsError(f"model.options.{name}: {count!r}; expected a whole number from 1.")


def is_smp(encoder: str) -> bool:
    """Whether an encoder is SMP's own and not timm's."""
    return encoder in smp.encoders.encoders


def _is_encoder(name: str) -> bool:
    if name.startswith("tu-"):
        return timm.is_model(name.removeprefix("tu-"))
    return is_smp(name) or is_equivalent_to_timm_universal(name)


def _close(name: str, names: Iterable[str]) -> str:
    found = difflib.get_close_matches(name.lower(), list(names), n=3)
    return f" Did you mean {' or '.join(found)}?" if found else ""


def _least_sizes(architecture: str, network: nn.Module) -> tuple[int, int]:
    """Stride and shortest side, in pixels, that a network needs."""
    own = int(getattr(getattr(network, "encoder", None), "output_stride", DEFAULT_STRIDE))
    if architecture.startswith("dilated_") or architecture in (*TOKENS, MASKS):
        return own, 1
    if architecture == "dpt":  # its coarsest features have twice the stride of the patches
        return math.lcm(DEFAULT_STRIDE, 2 * own), 1
    # The pyramid of PAN halves the features three times.
    return math.lcm(DEFAULT_STRIDE, own), 8 * own if architecture == "pan" else 1


@torch.no_grad()
def _try_once(segmenter: Segmenter, spec: ModelSpec) -> None:
    """Predict a small image: some pairs fail only then."""
    segmenter.eval()
    images = torch.zeros(1, spec.channels, 64, 64, dtype=torch.uint8)
    logits = segmenter(images, with_auxiliary=segmenter.auxiliary is not None)
    shape = tuple((logits[0] if isinstance(logits, tuple) else logits).shape)
    if shape != (1, spec.classes, 64, 64):
        raise ValueError(f"an image of (64, 64) gives logits {shape}: check `upsampling`")
    encoder: Any = segmenter.encoder
    asked = spec.output_stride is not None or spec.architecture.startswith("dilated_")
    if encoder is not None and asked:  # some encoders accept the option and ignore it
        stride = 64 // encoder(torch.zeros(1, spec.channels, 64, 64))[-1].shape[-1]
        if stride != encoder.output_stride:
            raise ValueError(
                f"the encoder's coarsest features have stride {stride}, not "
                f"{encoder.output_stride}: it cannot be dilated"
            )
    segmenter.train()

"""The licences of published encoder weights.

timm states the licence of its weights. segmentation-models-pytorch states none, so :data:`SMP`
holds what the projects state that its weights were converted from. A licence says nothing about the
images that the weights were trained on.

Sources, by the first words of the patterns: torchvision's repository (BSD 3-Clause) for ResNet,
ResNeXt, VGG, DenseNet and MobileNetV2; facebookresearch's semi-supervised-ImageNet1K-models and
WSL-Images (CC BY-NC 4.0) for `ssl`, `swsl` and `instagram`; cypw's DPNs, hujie-frank's SENet and
TensorFlow's models (Apache 2.0) for DPN, SENet, Inception, Xception and EfficientNet; timm's
metadata for what begins with `timm-` and for MobileOne; NVlabs' SegFormer (NVIDIA Source Code
License, for research only) for MiT.
"""

from __future__ import annotations

from fnmatch import fnmatchcase

UNKNOWN, NONE_NEEDED = "unknown", "none needed"
"""Names in place of a licence: not known; a random start has none."""

SMP: dict[str, str] = {
    "*/ssl": "cc-by-nc-4.0",
    "*/swsl": "cc-by-nc-4.0",
    "*/instagram": "cc-by-nc-4.0",
    "resnet*/imagenet": "bsd-3-clause",
    "resnext*/imagenet": "bsd-3-clause",
    "vgg*/imagenet": "bsd-3-clause",
    "densenet*/imagenet": "bsd-3-clause",
    "mobilenet_v2/imagenet": "bsd-3-clause",
    "dpn*/imagenet*": "apache-2.0",
    "se*/imagenet": "apache-2.0",
    "inception*/imagenet*": "apache-2.0",
    "xception/imagenet": "apache-2.0",
    "efficientnet-*": "apache-2.0",
    "timm-*": "apache-2.0",
    "mit_b*/imagenet": "nvidia-source-code-license",
    "mobileone_s*/imagenet": "mobileone-license",
}
"""Pattern of `ENCODER/NAME`, as SMP names encoder and weights, -> licence as timm spells it."""


def published(encoder: str, weights: str) -> str:
    """Return the licence of published weights in lower case, or :data:`UNKNOWN`.

    Args:
        encoder: Name of an SMP encoder, or `tu-` and the name of a timm model.
        weights: The name that they are published under, such as `imagenet`.
    """
    if "/" in weights:  # a path
        return UNKNOWN
    if encoder.startswith("tu-"):
        from segops.models.pretrained import IMAGENET, timm_settings  # takes seconds

        settings = timm_settings(encoder.removeprefix("tu-")) if weights == IMAGENET else None
        return str(getattr(settings, "license", None) or UNKNOWN).lower()
    name = f"{encoder}/{weights}"
    found = (licence for pattern, licence in SMP.items() if fnmatchcase(name, pattern))
    return next(found, UNKNOWN)


def published_weights(encoder: str) -> dict[str, str]:
    """The licence of each file of weights that is published for an encoder, by how it is asked for.

    The key is what `model.encoder` and `model.encoder_weights` hold, with a space between them.

    Args:
        encoder: As for :func:`published`; without timm's tag, those of all tags.
    """
    if not encoder.startswith("tu-"):
        from segmentation_models_pytorch.encoders import encoders

        names = encoders.get(encoder, {}).get("pretrained_settings") or {}
        return {f"{encoder} {name}": published(encoder, name) for name in names}
    import timm

    found = timm.list_pretrained(encoder.removeprefix("tu-").partition(".")[0])
    return {f"tu-{name} imagenet": published(f"tu-{name}", "imagenet") for name in found}

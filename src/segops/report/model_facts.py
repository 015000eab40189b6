"""Where a model came from and how it predicts, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from segops.params.semi_supervised import UNLABELLED_IMAGES
from segops.report.html import number, percent
from segops.report.page_inputs import Opponent
from segops.words import counted

KEYS = {
    "weights_sha256": "weights",
    "bundle_digest": "bundle",
    "data_hash": "data",
    "val_hash": "val",
    "metadata_hash": "metadata of val",
}
WITHOUT_ENCODER = ("pidnet", "plain_cnn")
"""Architectures of which the description names an encoder that they do not have."""


def lineages(
    name: str, about: str, evaluation: Mapping[str, Any], opponents: Sequence[Opponent]
) -> list[dict[str, Any]]:
    """For every model its name, its network, its way of predicting and its digests."""
    models = [(name, about, evaluation)]
    models += [(one.name, one.about, one.evaluation) for one in opponents]
    return [
        {
            "name": title,
            "rows": [(label, one[key]) for key, label in KEYS.items() if one.get(key)],
            "network": network,
            "predict": predict_words(one.get("predict")),
        }
        for title, network, one in models
    ]


def network_words(described: Mapping[str, Any]) -> str:
    """The network of a bundle's ``model.json`` in one line.

    As "pspnet with encoder resnet18, made from 180 images of train", "... and 20 without masks".
    """
    spec = described["spec"]
    network = str(spec["architecture"])
    if network not in WITHOUT_ENCODER:
        network += f" with encoder {spec['encoder']}"
    network += ", pruned" if spec.get("pruned_shapes") else ""
    without_masks = described.get("extra", {}).get(UNLABELLED_IMAGES, 0)
    with_masks = len(described["training_images"]) - without_masks
    more = f" and {without_masks} without masks" if without_masks else ""
    return f"{network}, made from {counted(with_masks, 'image')} of train{more}"


def predict_words(settings: Any) -> str:
    """``predict`` of an evaluation in one line; an evaluation of an older release has none."""
    if not isinstance(settings, Mapping):
        return "not recorded by this evaluation"
    parts = [_pieces(settings)]
    scales = [float(one) for one in settings.get("scales") or (1.0,)]
    if settings.get("flip"):
        parts.append("averaged with the mirrored image")
    if scales != [1.0]:
        parts.append("averaged over the scales " + ", ".join(f"{one:g}" for one in scales))
    crf = settings.get("crf")
    iterations = crf.get("iterations", 0) if isinstance(crf, Mapping) else 0
    if iterations:
        parts.append(
            f"refined by {iterations} iteration{'s' if iterations > 1 else ''} of a dense CRF"
        )
    return "; ".join(parts)


def _pieces(settings: Mapping[str, Any]) -> str:
    mode = settings.get("mode", "whole")
    if mode == "whole":
        return "each image whole"
    height, width = settings.get("window") or (None, None)
    overlap = percent(settings.get("overlap"), 0)
    windows = f"windows of {width} × {height} pixels that overlap by {overlap}"
    if mode == "window":
        return f"each image by {windows}"
    return (
        f"each image whole up to {number(settings.get('whole_pixels'))} pixels, above by {windows}"
    )

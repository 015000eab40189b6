"""What a training depends on, as hashes: the same fingerprint gives the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import segops
from segops.data.store import PackedStore
from segops.files import sha256_bytes, sha256_file, sha256_lines
from segops.models.encoder_weights import IMAGENET
from segops.params import Params

LIBRARIES = (
    "albumentations",
    "lightning-fabric",
    "numpy",
    "opencv-python-headless",
    "segmentation-models-pytorch",
    "timm",
    "torch",
    "torchvision",
)
ROOMS = ("augment", "data", "metrics", "models", "predict", "train", "voc")
"""Rooms whose code takes part in a training; with them goes ``stages/train.py``."""


def training_parts(
    settings: Params,
    store: PackedStore,
    policy: Mapping[str, Any],
    encoder_file: Path | None,
    device: str,
    precision: str,
) -> dict[str, str]:
    """Hashes of all that a training depends on.

    Args:
        settings: All parameters; those of the model and of the training count.
        store: The data; what train holds counts.
        policy: The augmentation policy as written.
        encoder_file: Local file of the encoder's first weights.
        device: As chosen.
        precision: As chosen.

    Returns:
        SHA-256 by name: `parameters`, `policy`, `data`, `code`, `libraries`, `device`.
    """
    model = settings.model.model_dump(mode="json")
    if encoder_file:  # it counts by what it holds, not by where it lies
        model["encoder_weights"] = sha256_file(encoder_file)
    parameters = {
        "model": model,
        "train": settings.train.model_dump(mode="json"),
        "classes": list(store.class_names),
    }
    return {
        "parameters": _hash(parameters),
        "policy": _hash(policy),
        "data": store.split_hash("train"),
        "code": code_hash(),
        "libraries": sha256_lines([f"{name} {version(name)}" for name in LIBRARIES]),
        "device": _hash([device, precision]),
    }


def fingerprint(parts: Mapping[str, str]) -> str:
    """One SHA-256 over the parts, in hexadecimal."""
    return sha256_lines([f"{name} {parts[name]}" for name in sorted(parts)])


def code_hash() -> str:
    """SHA-256 over the source files that take part in a training, in hexadecimal."""
    root = Path(segops.__file__).parent
    sources = [path for room in ROOMS for path in (root / room).rglob("*.py")]
    sources.append(root / "stages" / "train.py")
    return sha256_lines(
        f"{path.relative_to(root).as_posix()} {sha256_file(path)}" for path in sorted(sources)
    )


def encoder_file(root: Path, encoder_weights: str | None) -> Path | None:
    """The local file of the encoder's first weights, if that is what is asked for."""
    if encoder_weights in (None, IMAGENET):
        return None
    return root / Path(str(encoder_weights)).expanduser()


def _hash(content: Any) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())

"""The fingerprint of a training: trainings with the same fingerprint have the same weights."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segops.code import stage_code
from segops.data.store import PackedStore
from segops.files import sha256_bytes, sha256_file, sha256_lines
from segops.models.pretrained import is_file
from segops.train.job import TrainingSettings
from segops.train.start import Start
from segops.train.teacher import Teacher
from segops.voc.layout import UNLABELLED

STAGE = "train"
START, TEACHER = "start", "teacher"
"""Names of the parts for the model that a training starts from and for its teacher."""
OF_FIRST_RANK = frozenset({START, TEACHER})
"""Parts that rank zero alone has, because it alone fetches the models."""
PRECISION = "precision"
"""Name of the part that holds the precision itself in place of a hash."""


def training_parts(
    settings: TrainingSettings,
    store: PackedStore,
    policy: Mapping[str, Any],
    encoder_file: Path | None,
    device: str,
    precision: str,
    *,
    ranks: int = 1,
    executor: str = "cpu",
    start: Start | None = None,
    teacher: Teacher | None = None,
) -> dict[str, str]:
    """Hashes of all that a training depends on, by name, and the precision itself.

    Args:
        settings: All parameters, of which the sections `model` and `train` enter.
        store: The data, of which the split train enters, and images without masks where they are
            learned from.
        policy: The augmentation policy, as the stage `augment` wrote it.
        encoder_file: Local file of the encoder's initial weights.
        device: Kind of device.
        precision: Precision, after `auto` is resolved.
        ranks: Devices of all machines; batch norm sees the part of a batch on one device.
        executor: Device that augments batches; the noise of two devices differs in bits.
        start: The model to start from.
        teacher: The model whose class probabilities are learned.
    """
    model = settings.model.model_dump(mode="json")
    if encoder_file:  # its content enters, not its path
        model["encoder_weights"] = sha256_file(encoder_file)
    if start:
        model.pop("start_from")
    train = settings.train.model_dump(mode="json")
    if teacher:
        train.pop("teacher")
    parameters = {
        "model": model,
        "train": train,
        "classes": list(store.class_names),
    }
    pasted = settings.augment.copy_paste
    if pasted.p:
        parameters["copy_paste"] = pasted.model_dump(mode="json")
    code = stage_code(STAGE)
    parts = {
        "parameters": content_hash(parameters),
        "policy": content_hash(policy),
        "data": store.split_hash("train"),
        "code": code.code_hash,
        "libraries": code.libraries_hash,
        "device": content_hash([device, ranks, executor]),
        PRECISION: precision,
    }
    if settings.train.learns_unlabelled:
        parts[UNLABELLED] = store.split_hash(UNLABELLED)
    # The images of these models do not enter: they change the model's record, not its weights. What
    # pruning left does, in place of the version of the library that chose the channels.
    if start is not None:
        pruned = [] if start.left is None else [start.left]
        parts[START] = content_hash([start.sha256, start.mean, start.std, *pruned])
    if teacher is not None:
        parts[TEACHER] = teacher.digest
    return parts


def fingerprint(parts: Mapping[str, str]) -> str:
    """One SHA-256 over the parts, in hexadecimal."""
    return sha256_lines([f"{name} {parts[name]}" for name in sorted(parts)])


def encoder_file(root: Path, encoder_weights: str | None) -> Path | None:
    """The local file of the encoder's initial weights; None for a published name or null."""
    if encoder_weights is None:
        return None
    path = root / Path(encoder_weights).expanduser()
    return path if is_file(encoder_weights) or path.is_file() else None


def content_hash(content: Any) -> str:
    """SHA-256 of content as JSON, in hexadecimal."""
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())

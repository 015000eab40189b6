"""What a training depends on, as hashes: the same fingerprint gives the same weights."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import segops
from segops.data.store import PackedStore
from segops.files import sha256_bytes, sha256_file, sha256_lines
from segops.models.encoder_weights import is_file
from segops.params import Params
from segops.train.start import Start

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
STAGE = "segops.stages.train"
START = "start"
"""Name of the part that says which model a training started from; rank zero alone knows it."""
PRECISION = "precision"
"""Name of the part that is no hash but the precision itself."""


def training_parts(
    settings: Params,
    store: PackedStore,
    policy: Mapping[str, Any],
    encoder_file: Path | None,
    device: str,
    precision: str,
    *,
    ranks: int = 1,
    executor: str = "cpu",
    start: Start | None = None,
) -> dict[str, str]:
    """Hashes of all that a training depends on.

    Args:
        settings: All parameters; those of the model and of the training count.
        store: The data; what train holds counts.
        policy: The augmentation policy as written.
        encoder_file: Local file of the encoder's first weights.
        device: As chosen.
        precision: As chosen.
        ranks: Devices of all machines; batch norm sees each one's share of a batch.
        executor: Where batches are augmented, as chosen; their noise differs in bits.
        start: The model to start from.

    Returns:
        SHA-256 by name: `parameters`, `policy`, `data`, `code`, `libraries`, `device`, and `start`
        where there is one; and the `precision`.
    """
    model = settings.model.model_dump(mode="json")
    if encoder_file:  # it counts by what it holds, not by where it lies
        model["encoder_weights"] = sha256_file(encoder_file)
    if start:
        model.pop("start_from")
    parameters = {
        "model": model,
        "train": settings.train.model_dump(mode="json"),
        "classes": list(store.class_names),
    }
    pasted = settings.augment.copy_paste
    if pasted.p:
        parameters["copy_paste"] = pasted.model_dump(mode="json")
    parts = {
        "parameters": _hash(parameters),
        "policy": _hash(policy),
        "data": store.split_hash("train"),
        "code": code_hash(),
        "libraries": sha256_lines([f"{name} {version(name)}" for name in LIBRARIES]),
        "device": _hash([device, ranks, executor]),
        PRECISION: precision,
    }
    if start is None:
        return parts
    # Its images are no part of this: they change what is told of the model, not its weights.
    return parts | {START: _hash([start.sha256, start.mean, start.std])}


def fingerprint(parts: Mapping[str, str]) -> str:
    """One SHA-256 over the parts, in hexadecimal."""
    return sha256_lines([f"{name} {parts[name]}" for name in sorted(parts)])


def code_hash() -> str:
    """SHA-256 over the source files of segops that the stage imports, in hexadecimal."""
    found = sources()
    return sha256_lines(f"{name} {sha256_file(found[name])}" for name in sorted(found))


def sources() -> dict[str, Path]:
    """The modules of segops that the stage imports, itself included, and the file of each."""
    found: dict[str, Path] = {}
    waiting = [STAGE]
    while waiting:
        name = waiting.pop()
        path = _source(name)
        if path is None or name in found:
            continue
        found[name] = path
        waiting.append(name.rpartition(".")[0])
        waiting += _imports(path, name if path.name == "__init__.py" else name.rpartition(".")[0])
    return found


def _source(name: str) -> Path | None:
    """The file of a module of segops; None where `name` is no such module."""
    top, *parts = name.split(".")
    if top != "segops":
        return None
    place = Path(segops.__file__).parent.joinpath(*parts)
    files = (place / "__init__.py", place.with_suffix(".py"))
    return next((file for file in files if file.is_file()), None)


def _imports(path: Path, package: str) -> Iterator[str]:
    """All names that a file imports and that may be modules; `package` is the one it lies in."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1]
            base = [*(parents if node.level else []), *([node.module] if node.module else [])]
            yield ".".join(base)
            yield from (".".join([*base, alias.name]) for alias in node.names)


def encoder_file(root: Path, encoder_weights: str | None) -> Path | None:
    """The local file of the encoder's first weights, if that is what is asked for."""
    if encoder_weights is None:
        return None
    path = root / Path(encoder_weights).expanduser()
    return path if is_file(encoder_weights) or path.is_file() else None


def _hash(content: Any) -> str:
    return sha256_bytes(json.dumps(content, sort_keys=True).encode())

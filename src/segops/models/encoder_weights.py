"""Where an encoder's first weights come from: a download or a local safetensors file."""

from __future__ import annotations

import logging
import os
import re
import threading
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import timm
from huggingface_hub import constants, try_to_load_from_cache
from safetensors import SafetensorError
from safetensors.torch import load_file
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from ..errors import SegopsError

IMAGENET = "imagenet"
LEAST_MATCH = 0.9
"""Share of an encoder's tensors that a file must bring; below it, it is another network's file."""

SECONDS_TO_ANSWER = 1.5
_PREFIXES = ("", "encoder.", "network.encoder.", "model.", "backbone.", "module.", "features.")
log = logging.getLogger("segops")


@dataclass(frozen=True)
class LoadReport:
    """What a weights file brought.

    Attributes:
        matched: Names of the encoder's tensors that the file holds in the right shape.
        missing: Names that it does not hold.
        unexpected: Names in the file that the encoder does not have (a classifier, for instance).
        mismatched: Names that it holds in another shape, with both shapes.
    """

    matched: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]
    mismatched: tuple[str, ...]


def load_encoder_weights(encoder: nn.Module, path: Path) -> LoadReport:
    """Load a local safetensors file into an encoder.

    Names may carry a prefix, as `encoder.` in a whole network's file; timm's own files fit the
    `tu-` encoders. What is missing keeps its random start and is logged.

    Raises:
        SegopsError: The file is missing, is not safetensors, or fits fewer than 90 % of the
            encoder's tensors.
    """
    tensors = _read(path)
    expected = {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()}
    renamed = max(
        (_rename(tensors, strip, add) for strip in _PREFIXES for add in ("", "model.")),
        key=lambda names: sum(expected.get(name) == tuple(t.shape) for name, t in names.items()),
    )
    report = _compare(expected, renamed)
    # A counter of batches, which many files leave out, decides nothing about a match.
    counted = [name for name in expected if not name.endswith("num_batches_tracked")]
    found = len(set(counted) & set(report.matched))
    if found < LEAST_MATCH * len(counted):
        raise SegopsError(
            f"model.encoder_weights: {path} does not fit this encoder: {found} of {len(counted)} "
            f"tensors match, {len(report.missing)} are missing, {len(report.mismatched)} have "
            f"another shape, {len(report.unexpected)} in the file are unknown"
            f"{_sample(report)}. Give a file of the same encoder, or set model.encoder to its."
        )
    encoder.load_state_dict({name: renamed[name] for name in report.matched}, strict=False)
    log.info(
        "%s: %d of %d encoder tensors loaded, %d missing, %d of another shape, %d unknown.",
        path,
        len(report.matched),
        len(expected),
        len(report.missing),
        len(report.mismatched),
        len(report.unexpected),
    )
    return report


def check_download(encoder: str) -> None:
    """Make sure, within a second or two, that `imagenet` weights of an encoder can be had.

    Raises:
        SegopsError: The encoder has none, or they are neither in the local cache nor is the
            server that holds them within reach.
    """
    repository, revision = _published(encoder)
    cached = try_to_load_from_cache(repository, "model.safetensors", revision=revision)
    if isinstance(cached, str):
        return
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE is set"
    else:
        reason = _unreachable(constants.ENDPOINT)
    if reason:
        raise SegopsError(
            f"model.encoder_weights: {IMAGENET} weights of {encoder} are not in the local cache "
            f"({constants.HF_HUB_CACHE}) and cannot be downloaded: {reason}. Connect this machine, "
            "set model.encoder_weights to the path of a local safetensors file of this encoder, "
            "or set it to null for a random start."
        )


def _published(encoder: str) -> tuple[str, str | None]:
    if encoder.startswith("tu-"):
        config = timm.models.get_pretrained_cfg(encoder.removeprefix("tu-"))
        if config is None or not config.has_weights or not config.hf_hub_id:
            raise SegopsError(_none_published(encoder, "timm has none to download"))
        return config.hf_hub_id, None
    settings = encoders.get(encoder, {}).get("pretrained_settings", {})
    if IMAGENET not in settings:
        raise SegopsError(
            _none_published(encoder, f"published are {', '.join(settings) or 'none at all'}")
        )
    return settings[IMAGENET]["repo_id"], settings[IMAGENET]["revision"]


def _none_published(encoder: str, reason: str) -> str:
    return (
        f"model.encoder_weights: there are no {IMAGENET} weights for {encoder}: {reason}. "
        "Set it to null, or to the path of a local safetensors file."
    )


def _unreachable(address: str) -> str:
    """Why `address` does not answer; empty if it does. Any HTTP status is an answer."""
    answer = [f"no answer from {address} within {SECONDS_TO_ANSWER} s"]

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
                answer[0] = ""
        except urllib.error.HTTPError:
            answer[0] = ""
        except OSError as error:
            answer[0] = f"{address}: {getattr(error, 'reason', error)}"

    # In a thread, because no timeout bounds the look-up of a name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return answer[0]


def _read(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise SegopsError(
            f"model.encoder_weights: {path}: no such file. Expected `{IMAGENET}`, null, or the "
            "path of a local safetensors file."
        )
    try:
        return load_file(os.fspath(path))
    except (SafetensorError, OSError) as error:
        raise SegopsError(
            f"model.encoder_weights: {path} is not a safetensors file ({error}). Pickled formats "
            "(.pt, .pth, .bin) are not read, because loading them can run code; convert the file "
            "with safetensors.torch.save_file."
        ) from None


def _rename(tensors: dict[str, Tensor], strip: str, add: str) -> dict[str, Tensor]:
    return {add + re.sub(f"^{re.escape(strip)}", "", name): t for name, t in tensors.items()}


def _compare(expected: dict[str, tuple[int, ...]], found: dict[str, Tensor]) -> LoadReport:
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
    both = [name for name in expected if name in shapes]
    return LoadReport(
        matched=tuple(name for name in both if shapes[name] == expected[name]),
        missing=tuple(name for name in expected if name not in shapes),
        unexpected=tuple(name for name in shapes if name not in expected),
        mismatched=tuple(
            f"{name}: {shapes[name]} in the file, {expected[name]} in the encoder"
            for name in both
            if shapes[name] != expected[name]
        ),
    )


def _sample(report: LoadReport) -> str:
    parts = [f"missing {report.missing[0]}"] if report.missing else []
    parts += [report.mismatched[0]] if report.mismatched else []
    parts += [f"unknown {report.unexpected[0]}"] if report.unexpected else []
    return f" (for instance {'; '.join(parts)})" if parts else ""

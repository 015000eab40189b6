"""Where an encoder's first weights come from: a download or a local file."""

from __future__ import annotations

import threading
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from segmentation_models_pytorch.encoders import encoders
from torch import Tensor, nn

from segops.runtime.errors import SegopsError

from .loading import CHECKPOINTS, LoadReport, StateDict, read_weights, rename, take

IMAGENET = "imagenet"
KEY = "model.encoder_weights"
SECONDS_TO_ANSWER = 1.5
_PUBLISHED = "model.safetensors"
_FILES = (".safetensors", *CHECKPOINTS)
_PREFIXES = ("", "encoder.", "network.encoder.", "model.", "backbone.", "module.", "features.")
_MMCV_STEM = {"stem.7.": "bn1.", "stem.": "conv1."}
"""Names of the three-convolution stem in mmcv's ResNetV1c, and in timm's `resnet50c`."""


def is_file(weights: str) -> bool:
    """Whether weights are given as a file rather than by a published name."""
    return "/" in weights or weights.endswith(_FILES) or Path(weights).is_file()


def load_encoder_weights(encoder: nn.Module, path: Path) -> LoadReport:
    """Load a local safetensors file or checkpoint into an encoder.

    Names may carry a prefix, as `encoder.` in a whole network's file; timm's own files fit the
    `tu-` encoders, and mmcv's ResNetV1c files (`resnet50_v1c`) fit `tu-resnet50c`. What is missing
    keeps its random start. How the names map is logged.

    Raises:
        SegopsError: The file is missing, cannot be read, or fits fewer than 90 % of the encoder's
            tensors.
    """
    tensors = read_weights(path, KEY)
    expected = {name: tuple(one.shape) for name, one in encoder.state_dict().items()}
    renamed = max(
        _spellings(tensors),
        key=lambda names: sum(expected.get(name) == tuple(t.shape) for name, t in names.items()),
    )
    return take(
        encoder,
        renamed,
        lambda words: SegopsError(
            f"{KEY}: {path} does not fit this encoder: {words}. Give a file of the same encoder, "
            "or set model.encoder to its."
        ),
        str(path),
    )


def _spellings(tensors: StateDict) -> list[dict[str, Tensor]]:
    """The tensors under every name that they may have in one of our encoders."""
    plain = [rename(tensors, strip, add) for strip in _PREFIXES for add in ("", "model.")]
    return plain + [
        {f"model.{_timm_stem(name)}": one for name, one in rename(tensors, strip, "").items()}
        for strip in _PREFIXES
    ]


def _timm_stem(name: str) -> str:
    for theirs, ours in _MMCV_STEM.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def check_download(encoder: str, weights: str = IMAGENET) -> None:
    """Make sure, within a second or two, that published weights of an encoder can be had.

    Args:
        encoder: Name of an SMP encoder, or `tu-` and the name of a timm model, which may end in
            one of its tags (`tu-resnet50.a1_in1k`).
        weights: A name that SMP publishes weights of that encoder under; `imagenet` for timm's.

    Raises:
        SegopsError: There are none of that name, or they are neither in the local cache nor is the
            server that holds them within reach.
    """
    repository, revision = _published(encoder, weights)
    cached = try_to_load_from_cache(repository, _PUBLISHED, revision=revision)
    if isinstance(cached, str):
        return
    if constants.HF_HUB_OFFLINE:
        problem: OSError | None = OSError("HF_HUB_OFFLINE is set")
    else:
        problem = _unreachable(constants.ENDPOINT)
    if problem is not None:
        raise SegopsError(
            f"{KEY}: {weights} weights of {encoder} are not in the local cache "
            f"({constants.HF_HUB_CACHE}) and cannot be downloaded: {problem}. Connect this "
            f"machine, set {KEY} to the path of a local safetensors file or checkpoint of this "
            "encoder, or set it to null for a random start."
        )


def download(encoder: str, weights: str = IMAGENET) -> None:
    """Bring published weights of an encoder into the local cache, unless they are there.

    SMP and timm would do so too, but amid the building of a network, where it is hard to tell what
    went wrong.

    Args:
        encoder: As for :func:`check_download`.
        weights: Likewise.

    Raises:
        SegopsError: There are none of that name, or they cannot be had.
    """
    check_download(encoder, weights)
    repository, revision = _published(encoder, weights)
    of_timm = encoder.startswith("tu-")
    for name in (_PUBLISHED,) if of_timm else ("config.json", _PUBLISHED):
        try:
            hf_hub_download(repository, name, revision=revision)
        except Exception as error:  # of whichever library the hub's speaks HTTP with
            is_absent = isinstance(error, EntryNotFoundError)
            if of_timm and is_absent and not isinstance(error, LocalEntryNotFoundError):
                continue  # timm knows other names for it
            said = str(error).strip().split("\n")[0]
            raise SegopsError(
                f"{KEY}: {weights} weights of {encoder} cannot be downloaded: {repository} at "
                f"{constants.ENDPOINT}: {type(error).__name__}: {said}. Try again later, set "
                f"{KEY} to the path of a local safetensors file or checkpoint of this encoder, or "
                "set it to null for a random start."
            ) from error


def _published(encoder: str, weights: str) -> tuple[str, str | None]:
    if encoder.startswith("tu-"):
        return _published_by_timm(encoder.removeprefix("tu-"), weights), None
    settings = encoders.get(encoder, {}).get("pretrained_settings", {})
    if weights not in settings:
        raise SegopsError(
            _none_published(encoder, weights, f"published are {', '.join(settings) or 'none'}")
        )
    return settings[weights]["repo_id"], settings[weights]["revision"]


def timm_settings(model: str) -> Any:
    """What timm knows of a model's published weights; None where there are none.

    Raises:
        SegopsError: The name ends in a tag that timm does not have for that model.
    """
    try:
        return timm.models.get_pretrained_cfg(model)
    except RuntimeError:
        name, _, tag = model.partition(".")
        raise SegopsError(
            f"model.encoder: timm has no weights {tag!r} of {name}. Expected {_tags(name)}."
        ) from None


def _tags(name: str) -> str:
    return ", ".join(f"tu-{one}" for one in timm.list_pretrained(f"{name}.*")) or "no tag"


def _published_by_timm(model: str, weights: str) -> str:
    config = timm_settings(model)
    if weights != IMAGENET:
        raise SegopsError(
            _none_published(
                f"tu-{model}",
                weights,
                f"timm's tags are part of model.encoder, with {KEY} {IMAGENET}; published are "
                f"{_tags(model.partition('.')[0])}",
            )
        )
    if config is None or not config.has_weights or not config.hf_hub_id:
        raise SegopsError(_none_published(f"tu-{model}", weights, "timm has none to download"))
    return str(config.hf_hub_id)


def _none_published(encoder: str, weights: str, reason: str) -> str:
    return (
        f"{KEY}: there are no {weights} weights for {encoder}: {reason}. "
        "Set it to null, or to the path of a local safetensors file or checkpoint."
    )


def _unreachable(address: str) -> OSError | None:
    """Why `address` does not answer; None if it does. Any HTTP status is an answer."""
    problem: list[OSError | None] = [
        TimeoutError(f"no answer from {address} within {SECONDS_TO_ANSWER} s")
    ]

    def ask() -> None:
        request = urllib.request.Request(address, method="HEAD")
        try:
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
                problem[0] = None
        except urllib.error.HTTPError:
            problem[0] = None
        except OSError as error:
            problem[0] = OSError(f"{address}: {getattr(error, 'reason', error)}")

    # In a thread, because no timeout bounds the look-up of a name.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(SECONDS_TO_ANSWER)
    return problem[0]

"""Networks whose encoder starts from pretrained weights: a download or a local file."""

from __future__ import annotations

import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from dataclasses import asdict
from functools import partial
from http.client import HTTPException
from pathlib import Path
from threading import Thread
from typing import Any

import segmentation_models_pytorch as smp
import timm
from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from segmentation_models_pytorch.encoders import encoders
from segmentation_models_pytorch.encoders.timm_vit import TimmViTEncoder
from torch import Tensor, nn

from segops.runtime.errors import SegopsError
from segops.runtime.networks.eomt import EoMT
from segops.runtime.networks.options import WITHOUT_ENCODER
from segops.runtime.networks.segmenter import Segmenter
from segops.runtime.networks.zoo import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    ModelSpec,
    build,
    check_names,
    is_smp,
)
from segops.words import first_line

from .eomt_weights import from_transformers, is_of_transformers, load_heads
from .loading import CHECKPOINTS, KEY, LoadReport, StateDict, read_weights, take, widened

IMAGENET = "imagenet"
SECONDS_TO_ANSWER = 1.5
_PUBLISHED = "model.safetensors"
_FILES = (".safetensors", *CHECKPOINTS)
_PREFIXES = ("", "encoder.", "network.encoder.", "model.", "backbone.", "module.", "features.")
_PATCHES = "patch_embed.proj.weight"
"""A tensor of every vision transformer of timm."""
_MMCV_STEM = {"stem.7.": "bn1.", "stem.": "conv1."}
"""Names of the three-convolution stem in mmcv's ResNetV1c, and in timm's `resnet50c`."""


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
    if spec.architecture in WITHOUT_ENCODER:
        raise SegopsError(
            f"model.encoder_weights: {spec.architecture} has no encoder; set it to null."
        )
    if is_file(encoder_weights):
        segmenter, path = build(spec, auxiliary), Path(encoder_weights)
        load_encoder_weights(segmenter.network.get_submodule("encoder"), path)
        if isinstance(segmenter.network, EoMT):
            load_heads(segmenter.network, _read(path), str(path))
        return segmenter
    download(spec.encoder, encoder_weights)
    return build(spec, auxiliary, published=encoder_weights)


def is_file(weights: str) -> bool:
    """Whether weights are given as a file rather than by a published name."""
    return "/" in weights or weights.endswith(_FILES) or Path(weights).is_file()


def load_encoder_weights(encoder: nn.Module, path: Path) -> LoadReport:
    """Load a local safetensors file or checkpoint into an encoder.

    Names may carry a prefix, as `encoder.` in a whole network's file; timm's own files fit the
    `tu-` encoders, and mmcv's ResNetV1c files (`resnet50_v1c`) fit `tu-resnet50c`. Files of vision
    transformers fit as their authors publish them; position embeddings and patches of another size
    are resampled. Files of EoMT fit as transformers names their tensors. What is missing keeps its
    random start. How the names map is logged.

    Raises:
        SegopsError: The file is missing, cannot be read, or fits fewer than 90 % of the encoder's
            tensors.
    """
    tensors = _read(path)
    expected = {name: tuple(one.shape) for name, one in encoder.state_dict().items()}
    renamed = max(
        (
            widened(names, expected)
            for names in (*_spellings(tensors, expected), *_tokens(encoder, tensors, path))
        ),
        key=lambda names: sum(expected.get(name) == tuple(t.shape) for name, t in names.items()),
    )
    return take(
        encoder,
        renamed,
        partial(_misfit, path),
        str(path),
    )


def _read(path: Path) -> dict[str, Tensor]:
    """The tensors of a file; those of EoMT as transformers names it under our names."""
    tensors = read_weights(path)
    return from_transformers(tensors) if is_of_transformers(tensors) else tensors


def _misfit(path: Path, words: str) -> SegopsError:
    return SegopsError(
        f"{KEY}: {path} does not fit this encoder: {words}. Give a file of the same encoder, or "
        "set model.encoder to its."
    )


def _spellings(
    tensors: StateDict, expected: Mapping[str, tuple[int, ...]]
) -> Iterator[dict[str, Tensor]]:
    """The tensors under every name that they may have in one of our encoders."""
    # timm's encoders join the first parts of some names: `layers.0` becomes `layers_0`.
    joined = {name.replace(".", "_"): name for name in expected}
    for prefix in _PREFIXES:
        plain = {name.removeprefix(prefix): one for name, one in tensors.items()}
        yield plain
        for wrapper in ("model_", "model_model_"):
            yield {
                joined.get(wrapper + name.replace(".", "_"), name): one
                for name, one in plain.items()
            }
        yield {f"model.{_timm_stem(name)}": one for name, one in plain.items()}


def _tokens(encoder: nn.Module, tensors: StateDict, path: Path) -> Iterator[dict[str, Tensor]]:
    """The tensors as timm converts them for a vision transformer, under each prefix.

    Raises:
        SegopsError: The file is of another vision transformer.
    """
    if not isinstance(encoder, TimmViTEncoder):
        return
    model: Any = encoder.model
    convert = getattr(sys.modules[type(model).__module__], "checkpoint_filter_fn", None)
    for prefix in (*_PREFIXES, "encoder.model.", "network.encoder.model."):
        found = {
            name.removeprefix(prefix): one
            for name, one in tensors.items()
            if name.startswith(prefix)
        }
        if convert is None or _PATCHES not in found:
            continue
        try:
            converted = convert(found, model)
        except Exception as error:  # timm meets shapes of another transformer
            raise _misfit(path, f"{type(error).__name__}: {first_line(error)}") from error
        yield {f"model.{name}": one for name, one in converted.items()}


def _timm_stem(name: str) -> str:
    for theirs, ours in _MMCV_STEM.items():
        if name.startswith(theirs):
            return ours + name.removeprefix(theirs)
    return name


def weights_file(encoder: str, encoder_weights: str | None) -> Path | None:
    """The file that :func:`build_pretrained` reads an encoder's weights from.

    None for a random start, and for weights that timm publishes under another file name than the
    hub's usual one. Arguments and errors are those of :func:`check_download`.
    """
    if encoder_weights is None:
        return None
    if is_file(encoder_weights):
        return Path(encoder_weights)
    repository, revision = _published(encoder, encoder_weights)
    cached = try_to_load_from_cache(repository, _PUBLISHED, revision=revision)
    return Path(cached) if isinstance(cached, str) else None


def check_download(encoder: str, weights: str = IMAGENET) -> None:
    """Make sure, within a second or two, that published weights of an encoder can be had.

    The hub's own client would try again and again for 25 seconds.

    Args:
        encoder: Name of an SMP encoder, or `tu-` and the name of a timm model, which may end in
            one of its tags (`tu-resnet50.a1_in1k`).
        weights: A name that SMP publishes weights of that encoder under; `imagenet` for timm's.

    Raises:
        SegopsError: There are none of that name, or they are neither in the local cache nor is the
            server that holds them within reach.
    """
    repository, revision = _published(encoder, weights)
    if isinstance(try_to_load_from_cache(repository, _PUBLISHED, revision=revision), str):
        return
    try:
        if constants.HF_HUB_OFFLINE:
            raise OSError("HF_HUB_OFFLINE is set")
        _ask(constants.ENDPOINT)
    except urllib.error.HTTPError:
        return  # any status is an answer
    except (OSError, HTTPException, ValueError) as error:
        raise _unavailable(
            encoder,
            weights,
            f"are not in the local cache ({constants.HF_HUB_CACHE}) and cannot be downloaded from "
            f"{constants.ENDPOINT}: {getattr(error, 'reason', error) or repr(error)}. "
            "Connect this machine, correct HF_ENDPOINT if it is set",
        ) from None


def _ask(address: str) -> None:
    """Send a request to a server, and raise what came in place of an answer.

    It takes at most :data:`SECONDS_TO_ANSWER`. The look-up of a name knows no limit of time, so
    the request is made in a thread that nothing waits for.
    """
    answer: Future[None] = Future()

    def ask() -> None:
        try:
            request = urllib.request.Request(address, method="HEAD")
            with urllib.request.urlopen(request, timeout=SECONDS_TO_ANSWER):
                answer.set_result(None)
        except Exception as error:
            answer.set_exception(error)

    asking = Thread(target=ask, daemon=True)
    asking.start()
    asking.join(SECONDS_TO_ANSWER)
    if not answer.done():
        raise TimeoutError(f"no answer in {SECONDS_TO_ANSWER} s")
    answer.result()


def download(encoder: str, weights: str = IMAGENET) -> None:
    """Bring published weights of an encoder into the local cache, unless they are there.

    SMP and timm would do so too, but amid the building of a network, where it is hard to tell what
    went wrong. Arguments and errors are those of :func:`check_download`.
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
            raise _unavailable(
                encoder,
                weights,
                f"cannot be downloaded: {repository} at {constants.ENDPOINT}: "
                f"{type(error).__name__}: {said}. Try again later",
            ) from error


def _unavailable(encoder: str, weights: str, words: str) -> SegopsError:
    return SegopsError(
        f"{KEY}: {weights} weights of {encoder} {words}, set {KEY} to the path of a local "
        "safetensors file or checkpoint of this encoder, or set it to null for a random start."
    )


def _published(encoder: str, weights: str) -> tuple[str, str | None]:
    """Repository and revision of published weights."""
    if not encoder.startswith("tu-"):
        settings = encoders.get(encoder, {}).get("pretrained_settings", {})
        if weights not in settings:
            published = f"published are {', '.join(settings) or 'none'}"
            raise SegopsError(_none_published(encoder, weights, published))
        return settings[weights]["repo_id"], settings[weights]["revision"]
    model = encoder.removeprefix("tu-")
    config = timm_settings(model)
    if weights != IMAGENET:
        raise SegopsError(
            _none_published(
                encoder,
                weights,
                f"timm's tags are part of model.encoder, with {KEY} {IMAGENET}; published are "
                f"{_tags(model.partition('.')[0])}",
            )
        )
    if config is None or not config.has_weights or not config.hf_hub_id:
        raise SegopsError(_none_published(encoder, weights, "timm has none to download"))
    return str(config.hf_hub_id), None


def _none_published(encoder: str, weights: str, reason: str) -> str:
    return (
        f"{KEY}: there are no {weights} weights for {encoder}: {reason}. "
        "Set it to null, or to the path of a local safetensors file or checkpoint."
    )


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

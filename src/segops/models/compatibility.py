"""Which architectures work with which encoders, found out by trying every pair.

``python -m segops.models.compatibility`` tries all of them anew (about a quarter of an hour on one
core) and writes the table that ``segops models`` shows and that parameters are checked against;
with ``--continue`` it tries those that are not in the table yet.

A trial is :func:`segops.runtime.networks.zoo.build` itself, on torch's `meta` device, which
computes shapes and no values. An encoder is built once for each output stride and its features are
kept; a decoder sees nothing but their shapes, so a trial is not repeated for equal shapes. The few
encoders that `meta` cannot run are run with values.
"""

from __future__ import annotations

import copy
import json
import re
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any
from unittest.mock import patch

import segmentation_models_pytorch as smp
import timm
import torch
from segmentation_models_pytorch.encoders import get_encoder
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from segops.runtime.errors import SegopsError
from segops.runtime.networks.options import any_size_options
from segops.runtime.networks.zoo import ARCHITECTURES, ModelSpec, build, encoder_names

TABLE = Path(__file__).parents[1] / "params" / "compatibility.json"
ALONE = ("plain_cnn",)
"""Architectures without an encoder; any name goes with them."""

DEPTH = 5
"""Stages of an encoder that is not cut."""

PATCH_TOKENS = ("dpt",)
"""Architectures that build their encoders themselves, from a plain transformer's tokens."""


def try_pair(architecture: str, encoder: str) -> str | None:
    """Build a pair for real and run an image through; what went wrong, or None."""
    try:
        build(ModelSpec(architecture, encoder, classes=2))
    except SegopsError as error:
        return str(error)
    return None


class _ShapesOnly(TorchFunctionMode):
    """Spares `meta` what takes it long: initial values, batch norm, activations, interpolation."""

    _FILLS = frozenset(
        getattr(Tensor, name)
        for name in ("normal_", "uniform_", "fill_", "zero_", "clamp_", "erfinv_", "mul_", "add_")
    )
    _SAME = frozenset({functional.batch_norm, functional.relu, functional.silu, functional.gelu})

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        if func in self._FILLS and args[0].is_meta:
            return args[0]
        if func in self._SAME and args[0].is_meta:
            return torch.empty_like(args[0])
        if func is functional.interpolate and args[0].is_meta:
            return _resized(*args, **kwargs)
        return func(*args, **kwargs)


def _resized(
    values: Tensor, size: Any = None, scale_factor: Any = None, *_: Any, **__: Any
) -> Tensor:
    if size is None:
        size = [int(side * scale_factor) for side in values.shape[2:]]
    elif isinstance(size, int):
        size = [size] * (values.ndim - 2)
    return values.new_empty((*values.shape[:2], *size))


class _Recorded(nn.Module):
    """Stands for an encoder in a trial: gives the features that the encoder gave."""

    def __init__(self, encoder: Any, device: str) -> None:
        super().__init__()
        self.encoder = encoder
        self._device = device
        self.out_channels = list(encoder.out_channels)
        self.output_stride = int(encoder.output_stride)
        self._features: dict[tuple[int, ...], list[Tensor]] = {}

    def cut(self, depth: int) -> _Recorded:
        """The same encoder, ended after `depth` stages."""
        shorter = copy.copy(self)
        shorter.out_channels = self.out_channels[: depth + 1]
        shorter.output_stride = min(self.output_stride, 2**depth)
        return shorter

    def forward(self, images: Tensor) -> list[Tensor]:
        """What the encoder gives for images of that size."""
        size = tuple(images.shape)
        if size not in self._features:
            with _ShapesOnly():
                features = self.encoder(torch.zeros(size, device=self._device))
            self._features[size] = [one.to("meta") for one in features]
        return self._features[size][: len(self.out_channels)]


class Trials:
    """Tries pairs, each encoder built once, equal trials made once."""

    def __init__(self) -> None:
        self._encoders: dict[tuple[Any, ...], _Recorded | Exception] = {}
        self._known: dict[tuple[Any, ...], bool] = {}
        self._settings = {name: self._encoder_settings(name) for name in _with_encoder()}

    def works(self, encoder: str) -> list[str]:
        """The architectures that work with an encoder."""
        self._encoders.clear()
        working = [name for name in self._settings if self._works(name, encoder)]
        return working + [name for name in PATCH_TOKENS if _on_meta(name, encoder)]

    def _works(self, architecture: str, encoder: str) -> bool:
        depth, stride = self._settings[architecture]
        try:
            recorded = self._recorded(encoder, depth=depth, output_stride=stride)
            shapes = tuple(tuple(one.shape) for one in recorded(_images()))
        except Exception:
            return False
        special = encoder.startswith("mit_b"), encoder.startswith("vgg"), encoder[:3] == "tu-"
        key = (architecture, *special, tuple(recorded.out_channels), shapes)
        if key not in self._known:
            with _given(self._recorded):
                self._known[key] = _on_meta(architecture, encoder)
        return self._known[key]

    def _recorded(self, name: str, **settings: Any) -> _Recorded:
        """As SMP's `get_encoder`, from what is kept."""
        depth, stride = settings.get("depth", DEPTH), settings.get("output_stride", 32)
        if depth < DEPTH and name.startswith("tu-") and self._deep_works(name, stride):
            # Timm's are ended after a stage and no different before it.
            return self._recorded(name, output_stride=stride).cut(depth)
        key = (name, depth, stride)
        if key not in self._encoders:
            try:
                self._encoders[key] = self._build(name, depth, stride)
            except Exception as error:
                self._encoders[key] = error
        found = self._encoders[key]
        if isinstance(found, Exception):
            raise found
        return found

    def _deep_works(self, name: str, stride: int) -> bool:
        try:
            self._recorded(name, output_stride=stride)(_images())
        except Exception:
            return False
        return True

    @torch.no_grad()
    def _build(self, name: str, depth: int, stride: int) -> _Recorded:
        reason: Exception | None = None
        for device in ("meta", "cpu"):
            try:
                with torch.device(device), _ShapesOnly():
                    encoder = get_encoder(
                        name,
                        weights=None,
                        depth=depth,
                        output_stride=stride,
                        **any_size_options("", name),
                    )
                recorded = _Recorded(encoder.eval(), device)
                recorded(_images())
                return recorded
            # Whatever else is wrong goes up: it is the encoder's, not the device's.
            except (NotImplementedError, RuntimeError) as error:
                reason = error
                if "meta" not in str(error):
                    break
        raise ValueError(f"{name}: {reason}")

    def _encoder_settings(self, architecture: str) -> tuple[int, int]:
        """The depth and output stride that an architecture asks of its encoder."""
        asked: dict[str, Any] = {}

        def ask(name: str, **settings: Any) -> nn.Module:
            asked.update(settings)
            return self._recorded(name, **settings)

        with _given(ask):
            _on_meta(architecture, "resnet18")
        return asked.get("depth", DEPTH), asked.get("output_stride", 32)


def _with_encoder() -> list[str]:
    return [name for name in ARCHITECTURES if name not in (*ALONE, *PATCH_TOKENS)]


def _images() -> Tensor:
    return torch.zeros(1, 3, 64, 64, device="meta")


@torch.no_grad()
def _on_meta(architecture: str, encoder: str) -> bool:
    with torch.device("meta"), _ShapesOnly():
        return try_pair(architecture, encoder) is None


@contextmanager
def _given(source: Callable[..., nn.Module]) -> Iterator[None]:
    """Let every architecture take its encoder from `source`."""
    names = [type_.__module__ for type_ in smp.MODEL_ARCHITECTURES_MAPPING.values()]
    names += ["segops.runtime.networks.fcn", "segops.runtime.networks.dilated"]
    with ExitStack() as stack:
        for name in names:
            if hasattr(sys.modules[name], "get_encoder"):
                stack.enter_context(patch.object(sys.modules[name], "get_encoder", source))
        yield


def write_table(path: Path = TABLE, go_on: bool = False) -> None:
    """Try every architecture with every encoder and write the table.

    The table groups the encoders by the architectures that they work with. It is written again
    and again on the way, the most different encoders first, so that it can be stopped early.

    Args:
        path: Where the table goes.
        go_on: Keep what the table holds already and try the other encoders.
    """
    trials = Trials()
    names = [*encoder_names(), *_most_different_first(timm.list_models())]
    groups: dict[tuple[str, ...], list[str]] = {}
    if go_on and path.is_file():
        found = json.loads(path.read_text())["groups"]
        groups = {tuple(one["architectures"]): one["encoders"] for one in found}
    known = {name for encoders in groups.values() for name in encoders}
    start = time.monotonic()
    for number, name in enumerate(names, 1):
        if name in known:
            continue
        groups.setdefault(tuple(trials.works(name)), []).append(name)
        if number % 25 == 0 or number == len(names):
            _write(path, groups)
            seconds = time.monotonic() - start
            sys.stdout.write(f"{number} of {len(names)} encoders tried, {seconds:.0f} s\n")
            sys.stdout.flush()


def _most_different_first(models: list[str]) -> list[str]:
    """Encoder names of timm's models: one of each kind (names but for numbers), then the rest."""
    kinds: dict[str, str] = {}
    for model in models:
        kinds.setdefault(re.sub(r"\d+", "", model), model)
    first = set(kinds.values())
    return [f"tu-{model}" for model in sorted(models, key=lambda model: model not in first)]


def _write(path: Path, groups: dict[tuple[str, ...], list[str]]) -> None:
    packages = ("segmentation-models-pytorch", "timm", "torch")
    table = {
        "versions": {name: version(name) for name in packages},
        "any_encoder": list(ALONE),
        "groups": [
            {"architectures": list(architectures), "encoders": sorted(encoders)}
            for architectures, encoders in sorted(groups.items(), key=lambda one: -len(one[0]))
        ],
    }
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(table, separators=(",", ":")) + "\n")
    temporary.replace(path)


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # of SMP's old names, and of `dpt` without a class token
    torch.set_num_threads(1)
    write_table(go_on="--continue" in sys.argv[1:])

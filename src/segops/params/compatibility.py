"""Which architectures work with which encoders, as ``segops.models.compatibility`` found out.

The table holds what was tried, each pair as it is, with the architecture's own options: all that
the libraries of its versions have. A name that it does not know is a mistake with these libraries;
with others it is let through, as is a pair that is changed by options that reach the encoder:
building the network tries it.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import takewhile
from pathlib import Path
from typing import Any

from segops.runtime.errors import SegopsError

TABLE = Path(__file__).with_name("compatibility.json")
RENAMED = Path(__file__).with_name("renamed_encoders.json")
"""Timm's deprecated names, which are still built -> the names in the table."""
SHOWN = 6
"""Names that a refusal gives as examples."""
NEAREST = 5
"""Names that may have been meant in place of an unknown encoder."""
SMP, TIMM = "segmentation-models-pytorch", "timm"

_OLD = ("timm-regnet", "timm-res2", "timm-resnest", "timm-mobilenetv3", "timm-gernet")
_DECODER = ("decoder_", "psp_", "dropout", "upsampling", "channels", "dilations", "pool_scales")
_DILATED = {8: "dilated_fcn", 16: "deeplabv3plus"}
"""Architectures whose encoders are dilated to that output stride."""

_WELL_KNOWN = (
    *("resnet50", "resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-convnext_tiny"),
    *("tu-vit_tiny_patch16_224", "tu-vit_base_patch16_224", "tu-resnet50c"),
)


@dataclass(frozen=True)
class Compatibility:
    """The table.

    Attributes:
        architectures: For each encoder tried, the architectures that it works with.
        versions: Versions of the libraries that the pairs were tried with.
        any_encoder: Architectures that have no encoder.
    """

    architectures: Mapping[str, frozenset[str]]
    versions: Mapping[str, str]
    any_encoder: tuple[str, ...]

    def names(self) -> list[str]:
        """All architectures of the table."""
        return sorted(frozenset().union(*self.architectures.values()).union(self.any_encoder))

    def encoders_of(self, architecture: str) -> list[str]:
        """The encoders that work with an architecture; all for one that has none."""
        everywhere = architecture in self.any_encoder
        return [
            name
            for name, works in self.architectures.items()
            if everywhere or architecture in works
        ]


@cache
def table() -> Compatibility:
    """The committed table."""
    content = json.loads(TABLE.read_text())
    return Compatibility(
        {
            encoder: frozenset(group["architectures"])
            for group in content["groups"]
            for encoder in group["encoders"]
        },
        content["versions"],
        tuple(content["any_encoder"]),
    )


@cache
def _renamed() -> dict[str, str]:
    found: dict[str, str] = json.loads(RENAMED.read_text())
    return found


def known_name(encoder: str) -> str:
    """An encoder's name as the table has it: timm's tag left out, old names made new."""
    if encoder.startswith(_OLD):
        encoder = encoder.replace("timm-", "tu-")
        encoder = encoder.replace("tu-mobilenetv3", "tu-tf_mobilenetv3")
    if not encoder.startswith("tu-"):
        return encoder
    name = encoder.partition(".")[0]
    return name if name in table().architectures else _renamed().get(name, name)


def unknown_architecture(name: str) -> str | None:
    """Why there is no such architecture; None where there is, or may be with the installed SMP."""
    names = table().names()
    if name in names or not _as_tried(SMP):
        return None
    close = difflib.get_close_matches(name.lower(), names, n=1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"expected one of {', '.join(names)}{hint}"


def unknown_encoder(name: str) -> str | None:
    """Why there is no such encoder; None where there is, or may be with the installed libraries.

    Args:
        name: As ``params.yaml`` gives it; a timm model may have a tag.
    """
    known = known_name(name)
    names = table().architectures
    if known in names or not _as_tried(SMP, TIMM):
        return None
    close = difflib.get_close_matches(known.lower(), names, n=NEAREST)
    nearest = f"; nearest: {', '.join(close)}" if close else ""
    return (
        "expected an encoder of segmentation-models-pytorch, or tu-NAME for a model NAME of timm"
        f"{nearest}. `segops models` lists those that work with each architecture"
    )


def _as_tried(*packages: str) -> bool:
    """Whether the installed versions are those that the table was made with."""
    try:
        return all(version(name) == table().versions[name] for name in packages)
    except PackageNotFoundError:
        return False


def refusal(
    architecture: str,
    encoder: str,
    options: Mapping[str, Any] | None = None,
    output_stride: int | None = None,
) -> str | None:
    """Why a pair does not work; None where it does, or where it was never tried.

    Args:
        architecture: Name of the architecture.
        encoder: Name of the encoder.
        options: Further options of the network. Where they reach the encoder, the pair is let
            through.
        output_stride: The output stride asked for. 8 or 16 takes an encoder that can be dilated.

    Returns:
        One sentence or two, with encoders and architectures that do work.
    """
    found = table()
    works = found.architectures.get(known_name(encoder))
    if works is None or architecture in found.any_encoder or architecture not in found.names():
        return None
    if any(not option.startswith(_DECODER) for option in options or ()):
        return None
    dilated = _DILATED.get(output_stride or 0)
    if dilated is not None and dilated not in works:
        return (
            f"encoder {encoder} cannot be dilated to output stride {output_stride}. Encoders that "
            f"can: {_examples(found.encoders_of(dilated), encoder)} and others; or set "
            "output_stride to null."
        )
    if output_stride is not None or architecture in works:
        return None
    others = f"{encoder} works with {', '.join(sorted(works))}" if works else ""
    return (
        f"architecture {architecture} does not work with encoder {encoder}. {architecture} works "
        f"with {_examples(found.encoders_of(architecture), encoder)} and others (`segops models "
        f"--architecture {architecture}` lists them); "
        + (others or f"{encoder} works with no architecture here")
        + "."
    )


@dataclass(frozen=True)
class Listing:
    """A part of the table, ready to be printed.

    Attributes:
        title: What it shows.
        columns: Headings.
        rows: Cells, as many in a row as there are columns.
    """

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def listing(architecture: str | None = None, encoder: str | None = None) -> Listing:
    """What ``segops models`` shows: all architectures, or what goes with one name or a pair.

    Raises:
        SegopsError: A name that is not in the table, with those most like it.
    """
    found = table()
    if architecture is not None:
        _check("architecture", architecture, found.names())
    if encoder is not None:
        _check("encoder", known_name(encoder), found.architectures)
    if architecture is not None and encoder is not None:
        answer = refusal(architecture, encoder) or f"{architecture} works with encoder {encoder}."
        return Listing("A pair", ("answer",), ((answer,),))
    if architecture is not None:
        names = found.encoders_of(architecture)
        rows = tuple((kind, ", ".join(some)) for kind, some in _by_kind(names).items())
        title = f"{len(names)} encoders that work with {architecture}"
        return Listing(title, ("kind", "encoders"), rows)
    if encoder is not None:
        works = found.architectures[known_name(encoder)]
        names = [name for name in found.names() if name in works or name in found.any_encoder]
        title = f"{len(names)} architectures that work with {encoder}"
        return Listing(title, ("architectures",), ((", ".join(names),),))
    tried = ", ".join(f"{name} {version}" for name, version in found.versions.items())
    return Listing(
        f"Architectures and the encoders that work with them, of {len(found.architectures)} tried "
        f"({tried})",
        ("architecture", "encoders", "for instance"),
        tuple(
            (
                name,
                "any" if name in found.any_encoder else str(len(encoders)),
                _examples(encoders, ""),
            )
            for name in found.names()
            for encoders in [found.encoders_of(name)]
        ),
    )


def _check(kind: str, name: str, known: Iterable[str]) -> None:
    names = list(known)
    if name not in names:
        close = difflib.get_close_matches(name, names, n=4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SegopsError(
            f"{kind} {name!r} is not in the table of what was tried.{hint} "
            "`segops models` lists the architectures, `segops models --architecture NAME` the "
            "encoders that one of them works with."
        )


def _by_kind(encoders: Iterable[str]) -> dict[str, list[str]]:
    """SMP's own encoders, then timm's by the first word of their names."""
    kinds: dict[str, list[str]] = {}
    for name in encoders:
        word = re.match(r"tu-[a-z]+", name)
        kinds.setdefault(word.group() if word else "", []).append(name)
    return {kind or "SMP": kinds[kind] for kind in sorted(kinds)}


def _examples(encoders: Iterable[str], like: str) -> str:
    """A handful of encoders: those named most like the one that was asked for, then well-known."""
    names = list(encoders)
    stem = known_name(like).removeprefix("tu-")

    def closeness(name: str) -> int:
        pairs = zip(stem, name.removeprefix("tu-"), strict=False)
        return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))

    family = sorted((name for name in names if closeness(name) >= 3), key=closeness, reverse=True)
    known = [name for name in _WELL_KNOWN if name in names]
    chosen = dict.fromkeys([*family[: SHOWN - 2], *known, *names])
    return ", ".join(list(chosen)[:SHOWN])

"""Which architectures work with which encoders, read from the table of ``tools.compatibility``.

The table holds every pair of the named library versions, tried with the architecture's own options.
With these versions an unknown name is a mistake. With other versions an unknown name is let
through, as is a pair with options that reach the encoder: building the network tries it.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path

from segops.runtime.errors import SegopsError

TABLE = Path(__file__).with_name("compatibility.json")
SMP, TIMM = "segmentation-models-pytorch", "timm"

_EXAMPLES = 6
_OLD = ("timm-regnet", "timm-res2", "timm-resnest", "timm-mobilenetv3", "timm-gernet")
_DECODER = ("decoder_", "psp_", "dropout", "upsampling", "channels", "dilations", "pool_scales")
_DILATED = {8: "dilated_fcn", 16: "deeplabv3plus"}
"""Output stride -> an architecture that dilates its encoder to it."""

_WELL_KNOWN = (
    *("resnet50", "resnet18", "mobilenet_v2", "efficientnet-b0", "mit_b0", "tu-convnext_tiny"),
    *("tu-vit_tiny_patch16_224", "tu-vit_base_patch16_224", "tu-resnet50c"),
)

TOKENS = ("linear", "mlp")
"""Architectures whose head takes the features of an encoder's last layers alone."""

MASKS = "eomt"
"""The architecture that learns masks with a class in place of a class at every pixel."""

NOT_EXPORTED: dict[str, str] = {}
"""Architectures that cannot be exported, and why; a test exports all others."""

NOT_PRUNED: dict[str, str] = {
    **dict.fromkeys(
        ("dpt", *TOKENS, MASKS),
        "the library that finds out which channels belong together cannot do so for the heads of "
        "its transformer's attention",
    ),
    "pidnet": "the library that finds out which channels belong together cannot follow the sum "
    "over channels by which it compares two branches",
    "manet": "finding out which layers share channels with its attention over positions takes more "
    "than 10 GiB of memory",
}
"""Architectures that cannot be pruned, and why; a test prunes all others."""


@dataclass(frozen=True)
class Compatibility:
    """The table.

    Attributes:
        architectures: For each encoder, the architectures that it works with.
        versions: The library versions of the trials.
        any_encoder: Architectures that have no encoder.
        renamed: Names that timm deprecates and still builds -> their names in the table.
    """

    architectures: Mapping[str, frozenset[str]]
    versions: Mapping[str, str]
    any_encoder: tuple[str, ...]
    renamed: Mapping[str, str]

    def names(self) -> list[str]:
        """All architectures."""
        return sorted(frozenset().union(*self.architectures.values(), self.any_encoder))

    def encoders_of(self, architecture: str) -> list[str]:
        """The encoders that work with an architecture; all for an architecture that has none."""
        if architecture in self.any_encoder:
            return list(self.architectures)
        return [name for name, works in self.architectures.items() if architecture in works]


@cache
def table() -> Compatibility:
    """The committed table."""
    content = json.loads(TABLE.read_text())
    architectures = {
        encoder: frozenset(group["architectures"])
        for group in content["groups"]
        for encoder in group["encoders"]
    }
    return Compatibility(
        architectures, content["versions"], tuple(content["any_encoder"]), content["renamed"]
    )


def known_name(encoder: str) -> str:
    """An encoder's name in the table: without timm's tag, a deprecated name by its new name."""
    if encoder.startswith(_OLD):
        encoder = encoder.replace("timm-", "tu-")
        encoder = encoder.replace("tu-mobilenetv3", "tu-tf_mobilenetv3")
    if not encoder.startswith("tu-"):
        return encoder
    name = encoder.partition(".")[0]
    return name if name in table().architectures else table().renamed.get(name, name)


def as_tried(*packages: str) -> bool:
    """Whether the installed versions are the table's, so that an unknown name is a mistake."""
    return all(version(name) == table().versions[name] for name in packages)


def refusal(
    architecture: str,
    encoder: str,
    options: Collection[str] = (),
    output_stride: int | None = None,
) -> str | None:
    """Why a pair does not work; None where it does, or where it was never tried.

    Args:
        architecture: Name of the architecture.
        encoder: Name of the encoder.
        options: Names of further options of the network; with one that reaches the encoder, the
            pair is let through.
        output_stride: The output stride asked for. 8 or 16 takes an encoder that can be dilated.
    """
    tried = table()
    works = tried.architectures.get(known_name(encoder))
    if works is None or architecture in tried.any_encoder or architecture not in tried.names():
        return None
    if any(not option.startswith(_DECODER) for option in options):
        return None
    dilated = _DILATED.get(output_stride or 0)
    if dilated is not None and dilated not in works:
        return (
            f"encoder {encoder} cannot be dilated to output stride {output_stride}. Encoders that "
            f"can: {examples(tried.encoders_of(dilated), encoder)} and others; or set "
            "output_stride to null."
        )
    if output_stride is not None or architecture in works:
        return None
    return (
        f"architecture {architecture} does not work with encoder {encoder}. {architecture} works "
        f"with {examples(tried.encoders_of(architecture), encoder)} and others (`segops models "
        f"--architecture {architecture}` lists them); {encoder} works with "
        f"{', '.join(sorted(works)) or 'no architecture here'}."
    )


def export_refusal(architecture: str, crf_iterations: int) -> str | None:
    """Why a model cannot be exported; None where it can.

    Args:
        architecture: Name of the architecture.
        crf_iterations: `predict.crf.iterations`.
    """
    if architecture in NOT_EXPORTED:
        return f"model.architecture {architecture} cannot be exported: {NOT_EXPORTED[architecture]}"
    if crf_iterations:
        return (
            f"predict.crf.iterations is {crf_iterations}: an export has no dense CRF, which takes "
            "torch; set it to 0"
        )
    return None


def pruning_refusal(architecture: str, start_from: str | None) -> str | None:
    """Why a training cannot start from a pruned model; None where it can.

    Args:
        architecture: Name of the architecture.
        start_from: `model.start_from`.
    """
    if start_from is None:
        return "model.start_from is null, and it names the model to prune; set it"
    if architecture in NOT_PRUNED:
        return f"model.architecture {architecture} cannot be pruned: {NOT_PRUNED[architecture]}"
    return None


def require_tried(kind: str, name: str, known: Collection[str]) -> None:
    """Raise a SegopsError where a name is not in the table, with the names most like it."""
    if name not in known:
        close = difflib.get_close_matches(name, known, n=4)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise SegopsError(
            f"{kind} {name!r} is not in the table of trials.{hint} `segops models` lists the "
            "architectures, `segops models --architecture NAME` an architecture's encoders."
        )


def examples(encoders: Collection[str], like: str = "") -> str:
    """A few encoders: first the names most like the name asked for, then well-known encoders."""
    close = difflib.get_close_matches(known_name(like), encoders, n=_EXAMPLES - 2)
    known = [name for name in _WELL_KNOWN if name in encoders]
    return ", ".join(list(dict.fromkeys([*close, *known, *encoders]))[:_EXAMPLES])

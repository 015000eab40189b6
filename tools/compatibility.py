"""Find out which architectures work with which encoders, and write the table for ``segops.params``.

``python -m tools.compatibility`` tries every pair: 3 hours on one core, one process on each core.
``--continue`` tries the encoders that the table lacks, ``--architectures NAME ...`` these
architectures with the encoders that it has.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import warnings
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import timm
import torch

from segops.files import write_text
from segops.params.compatibility import SMP, TABLE, TIMM
from segops.progress import track
from segops.runtime.networks.options import WITHOUT_ENCODER
from segops.runtime.networks.zoo import ARCHITECTURES, ModelSpec, build, encoder_names

Groups = dict[tuple[str, ...], list[str]]
"""Encoders by the architectures that they work with."""


def try_pair(architecture: str, encoder: str, device: str = "cpu") -> str | None:
    """Build a network and run an image through it; the reason of a failure, or None."""
    try:
        with torch.device(device), torch.no_grad():
            segmenter = build(ModelSpec(architecture, encoder, classes=2)).eval()
            # A network pads small images to its stride. An encoder that fails on them, because its
            # windows do not fit, fails on larger images too.
            if segmenter.encoder is not None:
                side = -(-64 // segmenter.stride) * segmenter.stride
                segmenter.encoder(torch.zeros(1, 3, side, side))
    except Exception as error:
        return f"{error} {error.__cause__}"
    return None


def working(encoder: str, architectures: Sequence[str] = tuple(ARCHITECTURES)) -> tuple[str, ...]:
    """The architectures that work with an encoder."""
    warnings.simplefilter("ignore")  # SMP warns of its old names.
    torch.set_num_threads(1)
    return tuple(
        name for name in architectures if name not in WITHOUT_ENCODER and _works(name, encoder)
    )


def _works(architecture: str, encoder: str) -> bool:
    # Torch's device `meta` computes shapes alone, in a fraction of the time. Few encoders need
    # values; their errors name the device.
    reason = try_pair(architecture, encoder, "meta")
    if reason is not None and "meta" in reason.lower():
        reason = try_pair(architecture, encoder)
    return reason is None


def write_table(path: Path, add: bool) -> None:
    """Try all encoders, or with `add` those that the table lacks, and write the table.

    The table is written every 25 encoders, so that a later call goes on from there.
    """
    groups: Groups = {}
    if add:
        for group in json.loads(path.read_text())["groups"]:
            groups[tuple(group["architectures"])] = group["encoders"]
    known = {name for encoders in groups.values() for name in encoders}
    names = [*encoder_names(), *(f"tu-{model}" for model in timm.list_models())]
    names = [name for name in names if name not in known]
    with multiprocessing.get_context("spawn").Pool() as pool:
        results = zip(names, pool.imap(working, names), strict=True)
        for number, (name, architectures) in enumerate(track(results, "encoders", len(names)), 1):
            groups.setdefault(architectures, []).append(name)
            if number % 25 == 0 or number == len(names):
                write_text(path, _text(groups))


def try_architectures(path: Path, tried: Sequence[str]) -> None:
    """Try architectures with the table's encoders, and write the table with what works."""
    groups: Groups = {}
    before = {
        name: group["architectures"]
        for group in json.loads(path.read_text())["groups"]
        for name in group["encoders"]
    }
    with multiprocessing.get_context("spawn").Pool() as pool:
        results = pool.imap(partial(working, architectures=tried), before, chunksize=8)
        for name, works in zip(before, track(results, "encoders", len(before)), strict=True):
            new = {*before[name]} - {*tried} | {*works}
            groups.setdefault(tuple(one for one in ARCHITECTURES if one in new), []).append(name)
    write_text(path, _text(groups))


def _text(groups: Groups) -> str:
    ordered = sorted(groups.items(), key=lambda group: -len(group[0]))
    table = {
        "versions": {name: version(name) for name in (SMP, TIMM, "torch")},
        "any_encoder": WITHOUT_ENCODER,
        "renamed": _renamed(),
        "groups": [{"architectures": key, "encoders": sorted(names)} for key, names in ordered],
    }
    return json.dumps(table, separators=(",", ":")) + "\n"


def _renamed() -> dict[str, str]:
    """The names that timm deprecates -> the names of the models that it builds for them."""
    deprecated = timm.models._registry._deprecated_models
    return {f"tu-{old}": f"tu-{new.partition('.')[0]}" for old, new in deprecated.items() if new}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--continue", dest="add", action="store_true")
    parser.add_argument("--architectures", nargs="+", choices=[*ARCHITECTURES])
    arguments = parser.parse_args()
    if arguments.architectures:
        try_architectures(TABLE, arguments.architectures)
    else:
        write_table(TABLE, arguments.add)

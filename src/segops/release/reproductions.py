"""Compares a model that was made again with the registered one, and reads the ledger's outcomes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from segops.record.lineage import MACHINE_FIELDS, tag
from segops.release.chain import Entry
from segops.release.versions import Version

Outcome = Literal["same bits", "within tolerance", "differs", "failed"]
REPRODUCED: tuple[Outcome, ...] = ("same bits", "within tolerance")
"""Outcomes that confirm a version."""
MOST = 40
"""How many differences an entry of the ledger names."""


@dataclass(frozen=True)
class Model:
    """What is compared of a model.

    Attributes:
        weights_sha256: SHA-256 of its weights.
        bundle_digest: SHA-256 of its bundle.
        val_hash: Hash of the split that it was scored on; empty where not recorded.
        miou: On that split, within 0 to 1; None where there is none.
    """

    weights_sha256: str
    bundle_digest: str
    val_hash: str
    miou: float | None

    @classmethod
    def of_version(cls, version: Version) -> Model:
        """Take it from a version's tags."""
        val_hash = version.tags.get(tag("val_hash"), "")
        return cls(version.weights, version.bundle_digest, val_hash, version.miou)


def compare(registered: Model, made: Model, tolerance: float) -> tuple[Outcome, str]:
    """Return the outcome of a reproduction and the reason in words.

    The same bits must give the registered mIoU too: a score that was changed in the registry
    differs.

    Args:
        registered: The registered model.
        made: The model that was made again.
        tolerance: Largest difference of mIoU.
    """
    same_weights = registered.weights_sha256 == made.weights_sha256
    same_bits = same_weights and registered.bundle_digest == made.bundle_digest
    bits = "the same weights" if same_weights else "other weights"
    if same_weights:
        bits += " and bundle" if same_bits else ", another bundle"
    if registered.val_hash and registered.val_hash != made.val_hash:
        return "differs", f"scored on other images than the registered model; {bits}"
    if registered.miou is None or made.miou is None:
        if same_bits and registered.miou is None and made.miou is None:
            return "same bits", f"no mIoU; {bits}"
        return "differs", f"mIoU {_shown(made.miou)}, registered {_shown(registered.miou)}; {bits}"
    told = f"mIoU {made.miou:.4f}, registered {registered.miou:.4f}; {bits}"
    # Tags hold six decimals.
    if not abs(made.miou - registered.miou) <= tolerance + 1e-6:  # NaN differs too
        return "differs", told
    return ("same bits" if same_bits else "within tolerance"), told


def _shown(miou: float | None) -> str:
    return "none" if miou is None else f"{miou:.4f}"


def differences(
    version: Mapping[str, str], trained: Mapping[str, Any], libraries: Sequence[str],
    here: Mapping[str, Any], installed: Sequence[str],
) -> list[str]:  # fmt: skip
    """Return what differs between the machine that trained a version and this one, in words.

    Args:
        version: The version's tags.
        trained: Its ``metrics/training.json``; perhaps empty.
        libraries: Its libraries as ``name==version``; empty where not recorded.
        here: ``metrics/training.json`` of the model made here, and this machine's parts.
        installed: The libraries of this machine.
    """
    names = ("device", "precision", "python", *MACHINE_FIELDS)
    recorded = {name: version.get(tag(name)) for name in names}
    recorded |= {name: trained.get(name) for name in ("threads", "devices", "nodes")}
    told = [
        f"{name} {recorded[name]}, here {here.get(name) or 'none'}"
        for name in recorded
        if recorded[name] is not None and str(here.get(name)) != str(recorded[name])
    ]
    if not libraries:
        return told
    theirs, ours = (
        dict(line.split("==", 1) for line in lines if "==" in line)
        for lines in (libraries, installed)
    )
    told += [
        f"{name} {theirs.get(name, 'none')}, here {ours.get(name, 'none')}"
        for name in sorted(theirs.keys() | ours.keys())
        if theirs.get(name) != ours.get(name)
    ]
    return told


def machines(entries: Iterable[Entry]) -> dict[str, list[str]]:
    """Return version -> names of the machines whose last reproduction of it confirmed it."""
    last: dict[str, dict[str, str]] = {}
    for entry in entries:
        if entry.kind == "reproduced":
            machine = str(entry.details.get("machine", ""))
            last.setdefault(entry.version, {})[machine] = entry.verdict
    return {
        version: sorted(machine for machine, verdict in by.items() if verdict in REPRODUCED)
        for version, by in last.items()
    }

"""Whether the installed libraries are those that segops and its pins ask for."""

from __future__ import annotations

import sys
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from packaging.requirements import Requirement

from segops.operate.surroundings import DoubtError, UnfitError

PINS = "constraints.txt"
REPAIR = "`make install` installs the pinned ones"


def libraries(_: Path) -> str:
    """Check that every dependency of segops is installed in a version that it allows."""
    wrong = [
        f"{one.name} {found or 'is missing'} (expected {one.specifier or 'any version'})"
        for one in _required()
        if not one.specifier.contains((found := _version(one.name)) or "", prereleases=True)
        or not found
    ]
    if wrong:
        raise UnfitError(f"{', '.join(wrong)}. {REPAIR}.")
    return f"segops {version('segops')} and its dependencies, on Python {sys.version.split()[0]}"


def pins(root: Path) -> str:
    """Check that the installed versions are those of ``constraints.txt``."""
    path = root / PINS
    if not path.is_file():
        return f"there is no {PINS}"
    lines = (line.partition("#")[0].strip() for line in path.read_text("utf-8").splitlines())
    pinned = [Requirement(line) for line in lines if "==" in line]
    other = [
        f"{one.name} {found} ({one.specifier})"
        for one in pinned
        if (found := _version(one.name)) and not one.specifier.contains(found, prereleases=True)
    ]
    if other:
        shown = ", ".join(other[:5]) + (f" and {len(other) - 5} more" if len(other) > 5 else "")
        raise DoubtError(f"other versions than the pinned ones: {shown}. {REPAIR}.")
    return f"{len(pinned)} pins of {PINS}"


def extras(_: Path) -> str:
    """Say which extras are installed whole."""
    found = []
    for extra in ("team", "dev"):
        missing = [one.name for one in _required(extra) if not _version(one.name)]
        state = f"without {', '.join(missing)}" if missing else "whole"
        found.append(f"{extra}: {state}")
    return "; ".join(found)


def _required(extra: str = "") -> list[Requirement]:
    """Return what segops asks for; with `extra`, only what that extra adds."""
    found = map(Requirement, requires("segops") or ())
    return [
        one
        for one in found
        if (one.marker is None or one.marker.evaluate({"extra": extra}))
        and (not extra or (one.marker is not None and not one.marker.evaluate({"extra": ""})))
        and one.name != "segops"
    ]


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None

"""Refuses the result of a stage whose parameters were changed while it ran.

DVC reads dependencies and parameters after a stage has ended: it would record the result as one of
the new values, and bring it back for them from its cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from segops.params import yaml_guard
from segops.params.base import read_text
from segops.params.file import load_params
from segops.runtime.errors import SegopsError


@contextmanager
def constant_params(root: Path, stage: str) -> Iterator[None]:
    """Check that the parameters that ``dvc.yaml`` names for a stage are the same after the block.

    Raises:
        SegopsError: They are not, or ``params.yaml`` can no longer be read.
    """
    before = _params(root, stage)
    yield
    after = _params(root, stage)
    changed = [key for key in before | after if before.get(key) != after.get(key)]
    if changed:
        values = "; ".join(f"{key} from {before.get(key)} to {after.get(key)}" for key in changed)
        raise SegopsError(
            f"params.yaml was changed while stage {stage} ran: {values}. The result is of the old "
            "values and is not taken. Run it again; with the old values in place, a training goes "
            "on from its last checkpoint."
        )


def _params(root: Path, stage: str) -> dict[str, Any]:
    """Return the present values of a stage's parameters by their keys."""
    stages = (yaml_guard.load(read_text(root / "dvc.yaml")) or {}).get("stages") or {}
    names = [f"{one}." for one in stages.get(stage, {}).get("params", ())]
    present = load_params(root).flat() if names else {}
    return {key: value for key, value in present.items() if f"{key}.".startswith(tuple(names))}

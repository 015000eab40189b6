"""Tells the other machines of a training that it begins, and in which directory."""

from __future__ import annotations

import os
from pathlib import Path

from segops import files

PLACE = "SEGOPS_RANKS"
"""A directory that all machines see; ``docker/rank.sh`` sets it, and waits for :data:`BEGUN`."""
BEGUN = "train"


def announce(root: Path) -> None:
    """Write where the first machine begins a training on several; the others go there."""
    from segops.train.launch import Settings

    if (place := os.environ.get(PLACE)) and Settings.read(root).train.nodes > 1:
        files.write_text(Path(place) / BEGUN, str(root))

"""Stage code: writes hashes of the code and versions of the libraries of every other stage.

It always runs. The other stages depend on these files, so DVC repeats a stage when its behaviour
changes, and not for changed comments or messages. The file of stage train also holds the hash of a
local ``model.encoder_weights``, of which DVC compares the name alone.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

from segops import code, files, paths
from segops.params.base import Sections
from segops.params.model import ModelParams
from segops.runtime.errors import SegopsError

ENCODER_FILE = "encoder_weights"
"""Key of the SHA-256 of the encoder's local weights in the file of stage train."""
TRAIN = "train"


class Settings(Sections):
    """The parameters that the stage reads."""

    model: ModelParams = ModelParams()


def run(root: Path) -> None:
    """Write a file for every other stage."""
    for stage, content in contents(root).items():
        files.write_json(root / paths.code_of(stage), content)


def contents(root: Path) -> dict[str, dict[str, Any]]:
    """Return what :func:`run` writes into the file of each other stage."""
    found = {stage: one.to_json() for stage, one in code.stage_codes().items()}
    found[TRAIN][ENCODER_FILE] = _encoder_sha256(root)
    return found


def _encoder_sha256(root: Path) -> str | None:
    """Return the SHA-256 of the file that ``model.encoder_weights`` names; None: there is none.

    Stage train says what is wrong with these parameters or with a missing file.
    """
    with suppress(SegopsError):
        if (weights := Settings.read(root).model.encoder_weights) is not None:
            path = root / Path(weights).expanduser()
            return files.sha256_file(path) if path.is_file() else None
    return None

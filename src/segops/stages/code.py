"""Stage code: writes hashes of the code and versions of the libraries of every other stage.

It always runs. The other stages depend on these files, so DVC repeats a stage when its behaviour
changes, and not for changed comments or messages.
"""

from __future__ import annotations

from pathlib import Path

from segops import code, files, paths


def run(root: Path) -> None:
    """Write a file for every other stage."""
    for stage, found in code.stage_codes().items():
        files.write_json(root / paths.code_of(stage), found.to_json())

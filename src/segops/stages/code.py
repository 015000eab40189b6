"""Stage code: write down what the code of every other stage does, and with which libraries.

It always runs. The other stages depend on what it writes, so that DVC runs again what an edit
changes, and nothing for words.
"""

from __future__ import annotations

from pathlib import Path

from segops import code, files, paths


def run(root: Path) -> None:
    """Write a file for every other stage.

    Args:
        root: The workspace.
    """
    for stage, found in code.stage_codes().items():
        files.write_json(root / paths.code_of(stage), found.to_json())

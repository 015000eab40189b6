"""Runs the retraining flow once, with a Prefect server of its own where none is set."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING

from flows import server

if TYPE_CHECKING:
    from flows.retrain import Summary


def run(root: Path, force: bool = False) -> Summary:
    """Run the flow in this process.

    Args:
        root: The workspace.
        force: Run every stage again, changed or not.

    Raises:
        SegopsError: No server comes up; or a stage or a step failed, the log above says where.
    """
    gc.disable()  # a tenth of the time that the imports take
    with server.for_one_run() as await_server:
        # The imports of the whole run, while the server comes up.
        import dvc.repo  # noqa: F401

        from flows import retrain
        from segops.record import update  # noqa: F401

        gc.freeze()
        gc.enable()
        await_server()
        return retrain.run(root, force)

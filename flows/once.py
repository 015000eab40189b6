"""Runs the retraining flow once, on a temporary Prefect server where none is configured."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flows import server
from segops.operate import surroundings

if TYPE_CHECKING:
    from flows.retrain import Summary


def run(root: Path, force: bool = False, **options: Any) -> Summary:
    """Run the flow in this process.

    Args:
        root: The workspace.
        force: Run every stage again, changed or not.
        options: As :func:`flows.retrain.run` takes them.

    Raises:
        SegopsError: The machine does not let a run end well, no server starts, or a stage or a step
            failed; the log says where.
    """
    surroundings.require(root)
    # Collecting during the imports scans many objects and frees none; it takes a tenth of the time.
    gc.disable()
    with server.for_one_run() as await_server:
        # Import all modules of the run while the server starts.
        import dvc.repo  # noqa: F401

        from flows import retrain
        from segops.record import update  # noqa: F401

        gc.freeze()
        gc.enable()
        await_server()
        return retrain.run(root, force, **options)

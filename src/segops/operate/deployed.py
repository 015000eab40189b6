"""The workspace of a deployment: ``prefect.yaml`` calls this when it is made and when it runs.

``SEGOPS_WORKSPACE`` is resolved once, when the deployment is made. A worker that was started with
that variable runs in no other directory.
"""

from __future__ import annotations

import os
from pathlib import Path

from segops import paths
from segops.runtime.errors import SegopsError

VARIABLE = "SEGOPS_WORKSPACE"


def workspace() -> Path:
    """Return the directory that ``SEGOPS_WORKSPACE`` names.

    Raises:
        SegopsError: It is not set, or names no checkout of segops.
    """
    value = os.environ.get(VARIABLE)
    if not value:
        raise SegopsError(
            f"{VARIABLE} is not set. It names the checkout in which the worker trains, as an "
            f"absolute path: `{VARIABLE}=$PWD segops deploy`."
        )
    if not Path(value).is_absolute():
        raise SegopsError(f"{VARIABLE}={value}: expected an absolute path.")
    return _checkout(value, VARIABLE)


def build() -> dict[str, str]:
    """Return what ``prefect.yaml`` writes into a deployment; a step under ``build``.

    Raises:
        SystemExit: ``SEGOPS_WORKSPACE`` names no checkout; the deployment is not made. Another
            exception would be shown with Prefect's traceback.
    """
    try:
        return {"workspace": str(workspace())}
    except SegopsError as error:
        raise SystemExit(f"error: {error}") from None


def enter(directory: str) -> dict[str, str]:
    """Change to the workspace that the deployment was made with; a step under ``pull``.

    Raises:
        SegopsError: The worker has another workspace, or the directory is no checkout there.
    """
    if "{{" in directory:
        raise SegopsError(
            f"{directory}: the deployment was made without {VARIABLE}. Make it again with "
            "`segops deploy`."
        )
    root = _checkout(directory, "the deployment")
    require(root)
    os.chdir(root)
    return {"directory": str(root)}


def require(root: Path) -> None:
    """Refuse a run outside the worker's workspace.

    Raises:
        SegopsError: ``SEGOPS_WORKSPACE`` is set and names another directory than `root`.
    """
    value = os.environ.get(VARIABLE)
    if value and Path(value).resolve() != root.resolve():
        raise SegopsError(
            f"{root}: this process may run in {value} alone ({VARIABLE}), and the deployment "
            "names another directory. Start the worker with the variable of that checkout, or "
            "make the deployment again with `segops deploy`."
        )


def of_run(by_deployment: bool) -> Path:
    """Return the workspace of a flow run: that of the process's working directory.

    Args:
        by_deployment: Whether a deployment started the run; then the worker's own variable holds.

    Raises:
        SegopsError: It is no checkout, or not the worker's.
    """
    root = paths.workspace()
    if by_deployment:
        require(root)
    return root


def _checkout(value: str, source: str) -> Path:
    root = Path(value).resolve()
    if not (root / "dvc.yaml").is_file():
        raise SegopsError(f"{value}: no dvc.yaml there, though {source} names it as a checkout.")
    return paths.workspace(root)

"""MLflow's server as an application, for a server that guards it."""

from __future__ import annotations

import os
import warnings
from typing import Any

URI = "MLFLOW_BACKEND_STORE_URI"
"""The variable with the address of the database; an argument would show its password to others."""


def application() -> Any:
    """Return the ASGI application that serves the record of `URI`, its artifacts and its page.

    Raises:
        MlflowException: The database does not answer, or is of another version.
    """
    # Background jobs of MLflow's own are not used here; they cost 1.5 GB of memory.
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
    from mlflow.server import constants, handlers

    address = os.environ[URI]
    for name, value in (
        (constants.BACKEND_STORE_URI_ENV_VAR, address),
        (constants.REGISTRY_STORE_URI_ENV_VAR, address),
        (constants.ARTIFACT_ROOT_ENV_VAR, "mlflow-artifacts:/"),
        (constants.ARTIFACTS_DESTINATION_ENV_VAR, "./mlartifacts"),
        (constants.SERVE_ARTIFACTS_ENV_VAR, "true"),
    ):
        os.environ[name] = value
    handlers.initialize_backend_stores(address, address, "mlflow-artifacts:/")
    with warnings.catch_warnings():
        # What MLflow imports is for its authors to replace, not for who opens the page.
        warnings.filterwarnings("ignore", message=r"starlette\.middleware\.wsgi is deprecated")
        from mlflow.server.fastapi_app import app

    return app

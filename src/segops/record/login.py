"""The user that MLflow's server knows this process as."""

from __future__ import annotations

from segops.record.tracking import Store

CURRENT = "/api/2.0/mlflow/users/current"
"""Answered by a server that was started with ``--app-name basic-auth``."""


def login(store: Store) -> str | None:
    """Return the name of the authenticated user, as the server says it.

    Args:
        store: The record.

    Returns:
        None where no credentials are given, or the server asks for none.

    Raises:
        MlflowException: The server does not answer, or refuses the credentials.
    """
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request, verify_rest_response

    if not store.uri.startswith(("http://", "https://")):
        return None
    credentials = get_default_host_creds(store.uri)  # type: ignore[no-untyped-call]
    if not (credentials.username or credentials.token):
        return None
    response = http_request(credentials, CURRENT, "GET")  # type: ignore[no-untyped-call]
    if response.status_code in (404, 405):
        return None
    answer = verify_rest_response(response, CURRENT).json()
    name = answer.get("user", {}).get("username") if isinstance(answer, dict) else None
    return str(name) if name else None

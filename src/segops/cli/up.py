"""The command up."""

from __future__ import annotations

from typing import Annotated

import typer

from segops.cli.common import checkout, console, flow_module

Port = Annotated[int, typer.Option(min=1, max=65535, help="Port on this machine.")]


def up(
    cron: Annotated[
        str | None,
        typer.Option(help='Also retrain on a schedule, such as "0 3 * * 1".'),
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of the expression.")] = "UTC",
    mlflow_port: Port = 5000,
    prefect_port: Port = 4200,
) -> None:
    """Serve MLflow's and Prefect's pages, and a schedule if you name one, until stopped.

    Both servers keep their data where they are, listen on this machine alone, ask for credentials
    and answer no other page. When one ends, the others are ended, and the exit status is 1.
    """
    root = checkout()
    from segops.operate import surroundings
    from segops.params.file import load_params
    from segops.record.tracking import session, tracking_uri, without_credentials

    surroundings.require(root, but=("Prefect",))  # it may name the server that is to start
    with session(root, load_params(root).registry):  # creates the record where it is missing
        uri: str | None = tracking_uri(root)
    if uri is not None and uri.startswith(("http://", "https://")):
        console.say(f"MLflow: {without_credentials(uri)} (MLFLOW_TRACKING_URI)")
        uri = None
    options = [] if cron is None else ["--cron", cron, "--timezone", timezone]
    flow_module(root, "up").up(root, uri, (mlflow_port, prefect_port), options, console.say)

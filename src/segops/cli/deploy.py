"""`segops deploy`: the deployments of ``prefect.yaml`` on the team's Prefect server."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout, console, flow_module
from segops.runtime.errors import SegopsError


def deploy(
    check: Annotated[
        bool,
        typer.Option("--check", help="Only compare the server with prefect.yaml; 1: they differ."),
    ] = False,
    pool_type: Annotated[
        str | None,
        typer.Option(
            help="Type of the work pools: process or kubernetes; without it, a pool that is made "
            "has process, and one that is there has its own."
        ),
    ] = None,
    pool_template: Annotated[
        Path | None, typer.Option(help="JSON file with the work pool's base job template.")
    ] = None,
    resume: Annotated[
        bool,
        typer.Option(help="Make active what was paused on the server, where the file says so."),
    ] = False,
) -> None:
    """Make the work pools and deployments of prefect.yaml, and check what the server then has.

    What was paused on the server stays paused.
    SEGOPS_WORKSPACE names the checkout in which the worker trains, PREFECT_API_URL the server.
    """
    root = checkout()
    module = flow_module(root, "deploy")
    if not check:
        for name in module.deploy(root, pool_type, pool_template, resume=resume):
            console.say(f"{name} is deployed.")
        return
    if differences := module.differences(root, pool_type, pool_template):
        raise SegopsError(
            f"{'; '.join(differences)}. `segops deploy` brings deployments and templates "
            "up to date."
        )
    console.say("The server has what prefect.yaml says.")

"""`segops schedule`: serves a schedule of retraining; lists, pauses, resumes, removes schedules."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from segops.cli.common import checkout, console, flow_module

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

app = typer.Typer(invoke_without_command=True)
Name = Annotated[str, typer.Argument(help="The schedule, as `segops schedule list` names it.")]


@app.callback()
def schedule(
    context: typer.Context,
    cron: Annotated[
        str | None, typer.Option(help='When, as a cron expression: "0 3 * * 1".')
    ] = None,
    timezone: Annotated[str, typer.Option(help="Time zone of the expression.")] = "UTC",
    name: Annotated[
        str | None,
        typer.Option(
            help="Name of the schedule; a Prefect server has it once. Without it: scheduled, and "
            "drift with --monitor."
        ),
    ] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Take the name over; the process that has it ends."),
    ] = False,
    catch_up: Annotated[
        bool, typer.Option(help="After an outage, make the newest run that was missed.")
    ] = True,
    monitor: Annotated[
        bool,
        typer.Option("--monitor", help="Compare what monitor.path names; retrain nothing."),
    ] = False,
) -> None:
    """Serve the retraining flow on a schedule until stopped.

    The subcommands show and change the schedules of the Prefect server.
    """
    if context.invoked_subcommand is not None:
        return
    if cron is None:
        raise typer.BadParameter("give --cron, such as --cron '0 3 * * 1', or a subcommand.")
    root = checkout()
    os.chdir(root)
    flow_module(root, "serve").serve(
        root,
        cron,
        timezone,
        name=name or ("drift" if monitor else "scheduled"),
        replace=replace,
        catch_up=catch_up,
        monitoring=monitor,
    )


@app.command("list")
def list_schedules() -> None:
    """Show the schedules of the Prefect server, who serves them, and the runs that wait."""
    from segops.operate import schedules

    with _server() as server:
        found = schedules.listed(server)
    for one in found:
        what = "" if one.flow == schedules.RETRAIN else f"{one.flow}, "
        console.say(f"{one.name}: {what}{one.when or 'no schedule'}; {one.state}")
    if not found:
        console.say("The Prefect server has no schedule; `segops schedule --cron ...` makes one.")


@app.command()
def pause(name: Name) -> None:
    """Schedule no more runs; a run in progress goes on."""
    from segops.operate import schedules

    _change(name, schedules.pause, "is paused")


@app.command()
def resume(name: Name) -> None:
    """Schedule runs again."""
    from segops.operate import schedules

    _change(name, schedules.resume, "is active")


@app.command()
def remove(name: Name) -> None:
    """Remove a schedule; the process that serves it ends, and a run in progress with it."""
    from segops.operate import schedules

    _change(name, schedules.remove, "is removed")


def _change(name: str, change: Callable[[SyncPrefectClient, str], None], done: str) -> None:
    with _server() as server:
        change(server, name)
    console.say(f"Schedule {name} {done}.")


@contextmanager
def _server() -> Iterator[SyncPrefectClient]:
    from segops.operate import schedules

    with flow_module(checkout(), "server").for_questions(), schedules.client() as client:
        yield client

"""The command line. Each command imports heavy packages itself."""

from __future__ import annotations

import logging
import os
import sys
from typing import Annotated, Literal

import typer

from segops import faults, logs
from segops.cli import (
    card,
    compare,
    data,
    deploy,
    doctor,
    evaluate,
    export,
    keep,
    ledger,
    life,
    look,
    monitor,
    notify,
    predict,
    pretrain,
    proof,
    report,
    reproduce,
    runs,
    schedule,
    serve,
    tune,
    up,
    watch,
)
from segops.cli.common import make_printable, print_error, start_logging
from segops.failure import HandedOverError
from segops.operate import surroundings
from segops.runtime.errors import SegopsError

app = typer.Typer(
    help="From PASCAL VOC files to a promoted segmentation model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
for command in (
    life.run, life.stage, life.record, life.promote, life.rollback,
    life.adopt, life.reinstate, life.approve, proof.verify, proof.audit, reproduce.reproduce,
    card.card, evaluate.evaluate, compare.compare, export.export, predict.predict, serve.serve,
    monitor.monitor, pretrain.pretrain,
    look.status, look.models, look.ui, up.up, deploy.deploy, watch.watch,
    keep.backup, keep.restore, keep.clean, doctor.doctor, report.report,
):  # fmt: skip
    app.command()(command)
app.command("recipes")(tune.list_recipes)
app.add_typer(data.app, name="data")
app.add_typer(ledger.app, name="ledger")
app.add_typer(notify.app, name="notify")
app.add_typer(runs.app, name="runs")
app.add_typer(schedule.app, name="schedule")
app.add_typer(tune.app, name="tune")
log = logging.getLogger("segops")


@app.callback()
def options(
    log_format: Annotated[
        Literal["text", "json"],
        typer.Option(
            envvar=logs.FORMAT,
            help="json: the log goes to standard error, a JSON object a line.",
        ),
    ] = "text",
) -> None:
    """Take the options of all commands."""
    if log_format != os.environ.get(logs.FORMAT, "text"):
        os.environ[logs.FORMAT] = log_format
        start_logging()


def main() -> None:
    """Run the command line.

    A user's mistake, or what the machine refuses, gives a message and exit status 1.
    """
    _quiet()
    surroundings.spare_loopback()
    surroundings.raise_file_limit()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    start_logging()
    log.setLevel(logging.INFO)
    log.addFilter(make_printable)
    try:
        with faults.named():
            app()
    except HandedOverError:
        sys.exit(1)
    except SegopsError as error:
        print_error(str(error))
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except Exception as error:
        if not logs.wants_json():
            raise
        log.critical("%s: %s", type(error).__name__, error, exc_info=True)
        sys.exit(1)


def _quiet() -> None:
    """Switch off telemetry and update checks of libraries, unless the user has set them."""
    for name, value in (
        ("DVC_NO_ANALYTICS", "1"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "false"),
        ("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL"),
        ("PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT", "false"),
        ("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore"),
        ("NO_ALBUMENTATIONS_UPDATE", "1"),
    ):
        os.environ.setdefault(name, value)
    # Prefect's own temporary server asks for no credentials; flows/server.py starts a server that
    # does.
    os.environ["PREFECT_SERVER_EPHEMERAL_ENABLED"] = "false"

"""The command line. Everything heavy is imported inside the command that needs it."""

from __future__ import annotations

import importlib
import logging
import os
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from segops.errors import SegopsError

if TYPE_CHECKING:
    from segops.registry.gate import Decision

REJECTED = 3
"""Exit status of `run` and `promote` when the gate does not promote; 1 is an error."""

app = typer.Typer(
    help="From PASCAL VOC files to a promoted segmentation model.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
data_app = typer.Typer(help="Get or replace the data set.", no_args_is_help=True)
app.add_typer(data_app, name="data")
console = Console()
log = logging.getLogger("segops")


class Published(StrEnum):
    """Data sets that `segops data fetch` knows."""

    voc2012 = "voc2012"
    voc2007 = "voc2007"
    sbd = "sbd"


class Page(StrEnum):
    """The pages that `segops ui` serves."""

    mlflow = "mlflow"
    prefect = "prefect"


class StageName(StrEnum):
    """The stages; dvc.yaml says how they hang together."""

    validate = "validate"
    prepare = "prepare"
    augment = "augment"
    train = "train"
    evaluate = "evaluate"


def main() -> None:
    """Run the command line; a user's mistake ends in one clear message and exit status 1."""
    _quiet()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stdout, force=True)
    log.setLevel(logging.INFO)
    try:
        app()
    except SegopsError as error:
        Console(stderr=True, soft_wrap=True).print(
            f"[bold red]error:[/] {_escape(str(error))}", highlight=False
        )
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


def _quiet() -> None:
    """Switch off telemetry and update checks of the libraries below, unless the user chose."""
    for name, value in (
        ("DVC_NO_ANALYTICS", "1"),
        ("DO_NOT_TRACK", "true"),
        ("MLFLOW_DISABLE_TELEMETRY", "true"),
        ("PREFECT_SERVER_ANALYTICS_ENABLED", "false"),
        ("PREFECT_SERVER_LOGGING_LEVEL", "CRITICAL"),
        ("NO_ALBUMENTATIONS_UPDATE", "1"),
    ):
        os.environ.setdefault(name, value)


def _escape(text: str) -> str:
    from rich.markup import escape

    return escape(text)


def _root() -> Path:
    from segops import files

    return files.workspace()


@app.command()
def run(
    force: Annotated[bool, typer.Option(help="Run every stage again, changed or not.")] = False,
) -> None:
    """Run the whole pipeline: stages, record, register, gate, promote."""
    root = _root()
    summary = _flow(root).run(root, force=force)
    _show_summary(root, summary)
    if summary.decision is not None and summary.decision.verdict in ("rejected", "inconclusive"):
        raise typer.Exit(REJECTED)


@app.command()
def schedule(
    cron: Annotated[str, typer.Option(help='When, as a cron expression: "0 3 * * 1".')],
    timezone: Annotated[str, typer.Option(help="Time zone of the expression.")] = "UTC",
) -> None:
    """Serve the retraining flow on a schedule until stopped."""
    root = _root()
    os.chdir(root)
    _flow(root).serve(cron, timezone)


@app.command()
def stage(
    name: Annotated[StageName, typer.Argument(help="The stage, as dvc.yaml names it.")],
    fresh: Annotated[
        bool, typer.Option(help="train: do not continue an interrupted training.")
    ] = False,
) -> None:
    """Run one stage in this process; DVC calls this, see dvc.yaml."""
    from segops import files

    root = _root()
    if fresh:
        os.environ["SEGOPS_FRESH"] = "1"
    with files.exclusive(root / files.STAGE_LOCK, "another stage"):
        importlib.import_module(f"segops.stages.{name.value}").run(root)


@app.command()
def record(
    follow: Annotated[
        int | None,
        typer.Option(
            metavar="PID", help="Log a training live to MLflow until the process PID ends."
        ),
    ] = None,
) -> None:
    """Bring MLflow up to date with what lies in the workspace; a second call changes nothing."""
    root = _root()
    if follow is not None:
        from segops.registry.follow import follow as follow_training

        raise typer.Exit(follow_training(root, follow))
    from segops.registry.record import record as record_run

    recorded = record_run(root)
    state = "created" if recorded.created else "found"
    changed = ", ".join(recorded.changed) if recorded.changed else "nothing to add"
    console.print(f"MLflow run {recorded.run_id} {state}: {changed}.", highlight=False)


@app.command()
def promote() -> None:
    """Register the workspace's model, put it before the gate, and promote it if it passes.

    The exit status is 3 when the gate rejects it or cannot decide.
    """
    from segops.registry import promotion
    from segops.registry.record import record as record_run
    from segops.registry.register import register

    root = _root()
    registered = register(root, record_run(root))
    decision = promotion.gate(root)
    promotion.promote(root, decision)
    _show_decision(decision, registered.version)
    if decision.verdict in ("rejected", "inconclusive"):
        raise typer.Exit(REJECTED)


@app.command()
def rollback(
    reason: Annotated[str, typer.Option(help="Why; it is written into the ledger.")],
) -> None:
    """Withdraw the champion and put the previous one back."""
    from segops.registry import promotion

    result = promotion.rollback(_root(), reason)
    console.print(
        f"Version {result.withdrawn} is withdrawn; version {result.champion} is champion again.",
        highlight=False,
    )


@app.command()
def predict(
    source: Annotated[Path, typer.Argument(help="An image or a directory of images.")],
    model: Annotated[
        str | None,
        typer.Option(help="models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle's directory."),
    ] = None,
    output: Annotated[Path, typer.Option(help="Where masks and overlays go.")] = Path(
        "predictions"
    ),
) -> None:
    """Write a palette PNG and an overlay for every image.

    A broken image is named, the rest is done, and the exit status is 1.
    """
    from segops.predict.folder import predict_folder
    from segops.registry.resolve import resolved

    is_bundle = model is not None and not model.startswith("models:")
    with resolved(model, Path() if is_bundle else _root()) as bundle:
        done, failed = predict_folder(source, bundle, output)
    console.print(f"{done} mask(s) and overlay(s) in {output}.", highlight=False)
    if failed:
        raise SegopsError(
            "\n".join([f"{len(failed)} image(s) could not be read:", *(f"  {f}" for f in failed)])
        )


@app.command()
def status() -> None:
    """Show stages, versions and the last decisions."""
    from segops import pipeline
    from segops.registry.status import status as registry_status

    root = _root()
    table = Table("stage", "state", title="Pipeline", title_justify="left")
    for one in pipeline.stages(root):
        table.add_row(one.name, "up to date" if pipeline.is_unchanged(root, one.name) else "stale")
    console.print(table)
    current = registry_status(root)
    table = Table("alias", "version", "mIoU", title=f"Model {current.model}", title_justify="left")
    for version in current.versions:
        miou = "" if version.miou is None else f"{version.miou:.3f}"
        table.add_row(version.alias, str(version.version), miou)
    console.print(table)
    table = Table("when", "what", "version", "why", title="Last decisions", title_justify="left")
    for entry in current.decisions:
        table.add_row(entry.time, entry.verdict, str(entry.version), entry.reason)
    console.print(table)
    console.print(f"MLflow: {current.tracking_uri}", highlight=False, soft_wrap=True)


@app.command()
def ui(
    page: Annotated[Page, typer.Argument(help="Which page.")],
    port: Annotated[int | None, typer.Option(help="Port on this machine.")] = None,
) -> None:
    """Serve the MLflow or the Prefect page on this machine until stopped."""
    root = _root()
    if page is Page.mlflow:
        from segops.registry.tracking import tracking_uri

        os.environ.setdefault("MLFLOW_SERVER_ENABLE_JOB_EXECUTION", "false")
        command = ["mlflow", "ui", "--backend-store-uri", tracking_uri(root), "--workers", "1"]
        command += ["--port", str(port or 5000)]
    else:
        command = ["prefect", "server", "start", "--port", str(port or 4200)]
        # The page would ask port 4200 whatever --port says.
        os.environ["PREFECT_SERVER_UI_API_URL"] = f"http://127.0.0.1:{port or 4200}/api"
    binary = Path(sys.executable).with_name(command[0])
    os.execv(binary, [str(binary), *command[1:]])


@data_app.command("fetch")
def data_fetch(
    name: Annotated[Published, typer.Argument(help="The data set.")],
    mirror: Annotated[
        str | None, typer.Option(help="Address of a directory that holds the same archives.")
    ] = None,
) -> None:
    """Download VOC 2012, VOC 2007 or SBD (the 10,582-image trainaug list) and track it."""
    from segops import pipeline
    from segops.voc.fetch import fetch

    root, target = _data_target()
    pipeline.require_tracked(root, target)
    fetch(name.value, root / target, root / ".segops" / "downloads", mirror)
    _track(root, target)


@data_app.command("use")
def data_use(
    path: Annotated[Path, typer.Argument(help="A data set in VOC layout.")],
) -> None:
    """Copy your own VOC-layout data set into place and track it."""
    from segops import pipeline
    from segops.voc.use import use

    root, target = _data_target()
    if path.resolve() != (root / target).resolve():
        pipeline.require_tracked(root, target)
    use(path, root / target)
    _track(root, target)


def _data_target() -> tuple[Path, Path]:
    from segops import params

    root = _root()
    return root, Path(params.load(root).data.path)


def _track(root: Path, target: Path) -> None:
    from segops import pipeline
    from segops.voc.layout import open_layout

    digest = pipeline.track_data(root, target, log.debug)
    counts = ", ".join(
        f"{len(ids)} {split}" for split, ids in open_layout(root / target).splits().items()
    )
    console.print(
        f"{target} holds {counts} images; DVC tracks it as {digest}.\n"
        f"Next: `git add {target}.dvc`, look at data.classes and validate.required_classes in "
        "params.yaml, then `segops run`.",
        highlight=False,
        soft_wrap=True,
    )


def _flow(root: Path) -> Any:
    """The module ``flows/retrain.py`` of the checkout; Prefect lives there alone."""
    if not (root / "flows" / "retrain.py").is_file():
        raise SegopsError(
            f"{root}/flows/retrain.py: no such file. Every checkout of segops has it."
        )
    sys.path.insert(0, str(root))
    # Prefect sets up logging, to its page too, only where nobody else has.
    logging.root.handlers.clear()
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", log.name)
    return importlib.import_module("flows.retrain")


def _show_decision(decision: Decision, version: int | str) -> None:
    colour = {"promoted": "green", "rejected": "red", "inconclusive": "yellow"}.get(
        decision.verdict, "cyan"
    )
    console.print(
        f"Gate on version {version}: [bold {colour}]{decision.verdict}[/]", highlight=False
    )
    for check in decision.checks:
        mark = "[green]passed[/]" if check.passed else "[red]failed[/]"
        console.print(f"  {mark}  {_escape(check.sentence)}", highlight=False, soft_wrap=True)


def _show_summary(root: Path, summary: Any) -> None:
    from segops import files

    console.rule("segops run", align="left")
    ran = [name for name, outcome in summary.outcomes.items() if outcome == "ran"]
    restored = [name for name, outcome in summary.outcomes.items() if outcome == "restored"]
    if ran:
        console.print(f"Stages run: {', '.join(ran)}.", highlight=False)
    elif restored:
        console.print(f"Stages restored from the cache: {', '.join(restored)}.", highlight=False)
    else:
        console.print("Nothing changed: no stage was run again.", highlight=False)
    score = summary.evaluation
    console.print(
        f"mIoU on val: [bold]{score['miou']:.3f}[/] ({score['confidence']:.0%} interval "
        f"{score['miou_low']:.3f} to {score['miou_high']:.3f}, {score['images']} images)",
        highlight=False,
    )
    if not summary.created:
        console.print(
            f"No new version: {summary.model} version {summary.version} holds these weights.",
            highlight=False,
        )
    _show_decision(summary.decision, summary.version)
    aliases = ", ".join(_aliases(root, summary.version)) or "none"
    console.print(
        f"{summary.model} version {summary.version}, aliases: [bold]{aliases}[/]", highlight=False
    )
    console.print("\nLook at:")
    for path in (files.VALIDATION_PAGE, files.AUGMENTATION_SHEET, files.EVALUATION_PAGE):
        console.print(f"  {path}", highlight=False, soft_wrap=True)
    console.print("\nOpen the pages (Ctrl-C ends them):")
    console.print("  .venv/bin/segops ui mlflow     runs, metrics, the model and its versions")
    console.print("  .venv/bin/segops ui prefect    flow runs, their logs and artifacts")


def _aliases(root: Path, version: str) -> list[str]:
    from segops.registry.status import status as registry_status

    return [one.alias for one in registry_status(root).versions if str(one.version) == version]

"""The commands that show something: status, models, ui."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.table import Table

from segops.cli.common import checkout, console, flow_module
from segops.runtime.errors import SegopsError
from segops.words import counted


def status() -> None:
    """Show stages, versions and the last decisions."""
    root = checkout()
    from segops import pipeline
    from segops.params.file import load_params
    from segops.record.tracking import NoRecordError
    from segops.release.status import status as registry_status

    load_params(root)  # reports mistakes in params.yaml before anything is shown
    running = pipeline.running(root)
    table = Table("stage", "state", "why", title="Pipeline", title_justify="left")
    for stage in pipeline.states(root):
        if stage.name == running:
            table.add_row(stage.name, "running", _progress(root, stage.name))
        else:
            table.add_row(stage.name, stage.state, stage.why)
    console.print(table)
    try:
        current = registry_status(root)
    except NoRecordError as error:
        console.say(str(error))
        return
    headings = ("alias", "version", "mIoU", "weights", "reproduced by")
    table = Table(*headings, title=f"Model {current.model}", title_justify="left")
    for version in current.versions:
        miou = "" if version.miou is None else f"{version.miou:.3f}"
        by = counted(len(version.reproduced), "machine") if version.reproduced else ""
        table.add_row(version.alias, str(version.version), miou, version.weights, by)
    console.print(table)
    table = Table(
        "when, UTC", "what", "version", "why", title="Last decisions", title_justify="left"
    )
    for entry in current.decisions:
        table.add_row(
            entry.time[:16].replace("T", " "), entry.what, str(entry.version), entry.reason
        )
    console.print(table)
    for number in current.candidates:
        console.say(f"Version {number} waits for approval: segops approve {number} --reason WHY")
    for number, reason in current.withdrawn.items():
        console.say(f"Version {number} is withdrawn: {reason}")
    for warning in current.warnings:
        console.say(f"Warning: {warning}")
    console.say(f"Ledger: {current.ledger}")
    console.say(f"MLflow: {current.tracking_uri}")


def _show_runs(root: Path, port: int, *, browser: bool) -> str | None:
    """Print the address of the runs; return the database to serve, None if a server has it."""
    import webbrowser

    from segops.cli.browse import can_open, open_when_served
    from segops.params.file import load_params
    from segops.record.tracking import session, tracking_uri, without_credentials

    with session(root, load_params(root).registry) as store:
        experiment = store.experiment_id
    uri = tracking_uri(root)
    is_served = uri.startswith(("http://", "https://"))
    base = without_credentials(uri).rstrip("/") if is_served else f"http://127.0.0.1:{port}"
    # Without a workflow MLflow opens its page for language models, which is empty here.
    address = f"{base}/#/experiments/{experiment}?workflowType=machine_learning"
    console.say(f"Runs: {address}")
    if browser and can_open():
        webbrowser.open(address) if is_served else open_when_served(address)
    if is_served:
        return None
    return uri


def _progress(root: Path, stage: str) -> str:
    """Return the progress of the running stage; empty for other stages than train."""
    from segops import paths
    from segops.record.follow import CurveHistory

    history = CurveHistory(root / paths.HISTORY)
    if stage != "train" or not history.refresh() or history.ended:
        return ""
    done, steps = max(history.rows, default=0), history.params.get("train.iterations")
    if steps is not None:
        step = history.rows[done]["step"] if done else 0
        return f"{step} of {steps} steps done, {done} epochs"
    return f"{done} of {history.params.get('train.epochs')} epochs done"


def models(
    architecture: Annotated[
        str | None, typer.Option(help="Show this architecture's encoders.")
    ] = None,
    encoder: Annotated[str | None, typer.Option(help="Show this encoder's architectures.")] = None,
) -> None:
    """Show which architectures work with which encoders, and the licences of published weights."""
    from segops.models.licences import published_weights
    from segops.params.compatibility import examples, known_name, refusal, require_tried
    from segops.params.compatibility import table as table_of_trials

    tried = table_of_trials()
    if architecture is not None:
        require_tried("architecture", architecture, tried.names())
    if encoder is not None:
        require_tried("encoder", known_name(encoder), tried.architectures)
    if architecture is not None and encoder is not None:
        works = f"{architecture} works with encoder {encoder}."
        console.say(refusal(architecture, encoder) or works)
        return
    if architecture is not None:
        kinds: dict[str, list[str]] = {}
        for name in tried.encoders_of(architecture):
            # SMP's own encoders, and timm's by the first word of their names.
            word = re.match(r"tu-[a-z]+", name)
            kinds.setdefault(word.group() if word else "SMP", []).append(name)
        number = sum(map(len, kinds.values()))
        table = Table("kind", "encoders", title=f"{number} encoders that work with {architecture}")
        for kind in sorted(kinds):
            table.add_row(kind, ", ".join(kinds[kind]))
    elif encoder is not None:
        names = sorted(tried.architectures[known_name(encoder)].union(tried.any_encoder))
        works = "architecture works" if len(names) == 1 else "architectures work"
        title = f"{len(names)} {works} with {encoder}"
        table = Table("architectures", title=title)
        table.add_row(", ".join(names))
    else:
        table = Table("architecture", "encoders", "for instance")
        for name in tried.names():
            encoders = tried.encoders_of(name)
            number_or_any = "any" if name in tried.any_encoder else str(len(encoders))
            table.add_row(name, number_or_any, examples(encoders))
        versions = ", ".join(f"{name} {version}" for name, version in tried.versions.items())
        table.title = (
            f"Architectures and the encoders that work with them, of {len(tried.architectures)} "
            f"tried ({versions})"
        )
    table.title_justify = "left"
    console.print(table)
    if encoder is not None and (licences := published_weights(encoder)):
        weights = Table("encoder and encoder_weights", "licence", title="Published weights")
        weights.title_justify = "left"
        for name, licence in licences.items():
            weights.add_row(name, licence)
        console.print(weights)


def ui(
    page: Annotated[Literal["mlflow", "prefect"], typer.Argument(help="The page.")],
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port on this machine.")
    ] = None,
    host: Annotated[
        str, typer.Option(help="prefect: address to listen on, 0.0.0.0 for all.")
    ] = "127.0.0.1",
    allowed_host: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME:PORT", help="prefect: a further name that browsers and workers may use."
        ),
    ] = None,
    no_open: Annotated[
        bool, typer.Option("--no-open", help="mlflow: print the address, open no browser.")
    ] = False,
) -> None:
    """Serve the MLflow or the Prefect page until stopped, on this machine by default."""
    root = checkout()
    if page == "prefect":
        server = flow_module(root, "server")
        server.become_server(host, port or server.PORT, allowed_host or [], console.say)
    if host != "127.0.0.1" or allowed_host:
        raise SegopsError(
            "--host and --allowed-host belong to `segops ui prefect`: MLflow's page is served on "
            "this machine alone."
        )
    uri = _show_runs(root, port or 5000, browser=not no_open)
    if uri is not None:
        from segops.record import page as record_page

        os.environ[record_page.URI] = uri
        server = flow_module(root, "server")
        server.become_server("127.0.0.1", port or 5000, [], console.say, kind="mlflow")

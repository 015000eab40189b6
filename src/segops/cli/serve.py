"""`segops serve`: serves a model over HTTP."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated, Literal

import typer

from segops.cli.common import checkout, console
from segops.cli.options import Device, Log, Model, RuntimeName
from segops.words import MIB


def _number(value: float) -> float:
    if math.isnan(value):  # which no bound of an option refuses
        raise typer.BadParameter("nan is no number.")
    return value


def serve(
    model: Model = None,
    compare: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="Serve a second model beside it (?model=compare)."),
    ] = None,
    runtime: Annotated[
        Literal["auto", RuntimeName],
        typer.Option(
            help="torch: the model itself; a form: the export of it that the gate offers; auto: of "
            "these the one that predicted an image soonest when the model was evaluated, on a GPU "
            "torch. A directory has its own runtime."
        ),
    ] = "auto",
    device: Device = "auto",
    host: Annotated[
        str, typer.Option(help="Address to listen on; other machines need a key.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0: a free one.")] = 8080,
    workers: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=256,
            help="Worker processes (default: one a GPU, or for every --threads cores).",
        ),
    ] = None,
    threads: Annotated[
        int,
        typer.Option(
            min=1,
            max=256,
            help="Threads of an image on a CPU: more answer a single client sooner, 1 answers most "
            "clients.",
        ),
    ] = 1,
    queue: Annotated[
        int, typer.Option(min=1, help="Images that may wait; beyond, the answer is 429.")
    ] = 32,
    deadline: Annotated[
        float,
        typer.Option(
            min=0.1,
            max=86400,
            callback=_number,
            help="Seconds from the upload to the answer, else 504.",
        ),
    ] = 30.0,
    max_body: Annotated[
        float,
        typer.Option(
            metavar="MIB", min=0.01, max=4096, callback=_number, help="Largest body of a request."
        ),
    ] = 32.0,
    max_pixels: Annotated[
        float,
        typer.Option(
            metavar="MILLIONS",
            min=0.001,
            max=200,
            callback=_number,
            help="Largest image, in megapixels.",
        ),
    ] = 16.0,
    key_file: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Clients' keys, one a line; SEGOPS_SERVE_KEYS may hold keys too. Without keys, "
            "every program of this machine may ask.",
        ),
    ] = None,
    cors: Annotated[
        list[str] | None,
        typer.Option(metavar="ORIGIN", help="A page that may ask, such as https://app.example."),
    ] = None,
    record: Annotated[
        Path | None,
        typer.Option(
            metavar="DIRECTORY",
            help="Take marks of wrong regions (POST /marks) as labelme files, for `segops data "
            "import labelme`.",
        ),
    ] = None,
    log: Log = None,
) -> None:
    """Serve a model over HTTP until stopped: images in, masks out. An alias is followed."""
    from segops.serve.pool import Limits
    from segops.serve.server import serve as run
    from segops.serve.settings import Settings, devices, origin, read_keys

    named = [one for one in (model, compare) if one is not None]
    root = None
    if model is None or any(one.startswith("models:") for one in named):
        root = checkout()
    settings = Settings(
        model=model or champion(root),
        compare=compare,
        root=root,
        runtime=runtime,
        devices=devices(device, workers, threads),
        threads=threads,
        host=host,
        port=port,
        limits=Limits(queue, deadline, int(max_body * MIB), int(max_pixels * 1e6)),
        keys=read_keys(key_file),
        cors=tuple(map(origin, cors or ())),
        record=record,
        log=log,
    )
    run(settings, console.say)


def champion(root: Path | None) -> str:
    """Return the URI of the champion of a workspace's model."""
    from segops.params.file import load_params

    assert root is not None
    return f"models:/{load_params(root).registry.model}@champion"

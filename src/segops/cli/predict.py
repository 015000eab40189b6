"""`segops predict`: predicts images with a registered model or a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from segops.cli.common import checkout, console, printable
from segops.cli.options import Device, Log, Model, Runtime
from segops.runtime.errors import SegopsError


def predict(
    source: Annotated[
        str,
        typer.Argument(
            help="An image, a video, a directory of both, a list (.txt, .lst, .list) of paths or "
            "addresses, or s3://BUCKET/PREFIX."
        ),
    ],
    model: Model = None,
    runtime: Runtime = "torch",
    output: Annotated[
        Path, typer.Option(help="Directory for masks, overlays and the table.")
    ] = Path("predictions"),
    device: Device = "auto",
    probabilities: Annotated[
        bool,
        typer.Option(
            "--probabilities",
            help="Write NAME.probabilities.npy too: float16 (classes, height, width), 2 bytes a "
            "class and pixel (8 MB for 500 x 375 pixels and 21 classes).",
        ),
    ] = False,
    explain: Annotated[
        str | None,
        typer.Option(
            metavar="CLASS",
            help="Write NAME.explain.jpg too: the image regions that decided for this class; auto: "
            "the image's largest class that is not background.",
        ),
    ] = None,
    smooth: Annotated[
        int,
        typer.Option(
            min=1,
            help="Frames over which a video's probabilities are averaged (an exponential mean); 1: "
            "each frame by itself.",
        ),
    ] = 1,
    no_overlay: Annotated[bool, typer.Option("--no-overlay", help="Write no overlays.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Predict images again whose outputs exist.")
    ] = False,
    shard_size: Annotated[
        int,
        typer.Option(
            min=1,
            help="Images of a shard. More images than one shard's are shared by all processes "
            "that are started with the same arguments, on every machine that sees the output.",
        ),
    ] = 1000,
    log: Log = None,
    log_names: Annotated[
        bool, typer.Option("--log-names", help="Write the images' names into the log.")
    ] = False,
) -> None:
    """Write a palette PNG and an overlay for every image, and predictions.csv.

    A video gets NAME.avi (grey, a pixel's value is its class id), NAME.overlay.mp4 and, with a row
    for each frame, NAME.frames.csv.

    Images with complete outputs are skipped. Images that cannot be read are named, all others are
    predicted, and the exit status is 1.
    """
    from segops.predict.folder import predict_folder
    from segops.predict.outputs import Options
    from segops.release.resolve import resolved

    options = Options(not no_overlay, probabilities, explain, smooth)
    is_bundle = model is not None and not model.startswith("models:")
    with resolved(model, Path() if is_bundle else checkout(), runtime) as bundle:
        outcome = predict_folder(
            source, bundle, output, options, device=device, overwrite=overwrite,
            observations=log, log_names=log_names, shard_size=shard_size,
        )  # fmt: skip
    table = outcome.table or f"{output / '*.frames.csv'}"
    console.say(
        f"{outcome.before} done before, {outcome.now} done now, in {output}; "
        f"shares and confidence in {table}."
    )
    if outcome.failed:
        listed = "\n  ".join(printable(failure, lines=False) for failure in outcome.failed)
        further = outcome.failures - len(outcome.failed)
        if further:
            listed += f"\n  and {further} more: see the column error of {table}"
        raise SegopsError(f"{outcome.failures} image(s) could not be done:\n  {listed}")

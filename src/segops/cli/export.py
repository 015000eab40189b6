"""`segops export`: writes a model in another form, for other runtimes than torch."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from segops.cli.common import checkout, console
from segops.runtime.errors import SegopsError


def export(
    model: Annotated[
        str,
        typer.Argument(
            help="models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle's directory.",
        ),
    ],
    output: Annotated[Path, typer.Option(help="Directory of the export; it must not exist.")],
    form: Annotated[
        Literal["onnx", "openvino"], typer.Option("--format", help="The format.")
    ] = "onnx",
    quantize: Annotated[
        Literal["int8"] | None,
        typer.Option(
            help="In INT8, calibrated on train of this checkout's data (export.calibration_images)."
        ),
    ] = None,
) -> None:
    """Export a model, to predict with it where there is no torch.

    `segops predict --model OUTPUT` predicts with what is written. Where the gate decided on such an
    export of a registered version (`export.formats`), that one is fetched; else one is made, which
    no gate has judged.
    """
    from segops.export import make
    from segops.release.resolve import decided_exports, resolved

    if output.exists():
        raise SegopsError(f"{output}: exists already. Name a directory that does not.")
    is_bundle = not model.startswith("models:")
    root = Path() if is_bundle and quantize is None else checkout()
    name = form if quantize is None else f"{form}-{quantize}"
    if not is_bundle:
        model, decided = decided_exports(model, root)
        if name in decided:
            _fetch(model, root, name, output, decided[name])
            return
    ids: tuple[str, ...] = ()
    images: Iterator[Any] = iter(())
    if quantize is not None:
        from segops.export import calibration
        from segops.params.file import load_params

        count = load_params(root).export.calibration_images
        ids, images = calibration.of_workspace(root, count)
    with resolved(model, root) as bundle:
        digest = make.export(bundle, {name: output}, ids, images)[name]
    console.say(
        f"{output}: {name}, digest {digest[:12]}, made now. No gate has judged it: nothing "
        "compared it with the model. A run with `export.formats` makes exports that are judged."
    )


def _fetch(model: str, root: Path, name: str, output: Path, decided: Mapping[str, Any]) -> None:
    """Copy the export that the gate decided on, where it offers it."""
    from segops import files
    from segops.release.exports import sentence
    from segops.release.resolve import resolved

    with resolved(model, root, name) as kept, files.atomic_directory(output) as temporary:
        shutil.copytree(kept, temporary, dirs_exist_ok=True)
    console.say(
        f"{output}: {name}, digest {decided['digest'][:12]}, the one that the gate decided on with "
        f"{model}: {sentence(name, decided)}"
    )

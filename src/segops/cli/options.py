"""Options that several commands have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

Model = Annotated[
    str | None,
    typer.Option(
        help="models:/NAME@ALIAS, models:/NAME/VERSION, or a bundle's directory; without it, the "
        "champion."
    ),
]
RuntimeName = Literal["torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]
Runtime = Annotated[
    RuntimeName,
    typer.Option(
        help="torch: the model itself; else the export of it that the gate offers. A directory has "
        "its own runtime."
    ),
]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    typer.Option(help="Device to predict on; auto: the GPU if there is one."),
]
Log = Annotated[
    Path | None,
    typer.Option(
        metavar="DIRECTORY",
        help="Append figures and features of every image predicted, and no pixels, to this "
        "prediction log, for `segops monitor`.",
    ),
]

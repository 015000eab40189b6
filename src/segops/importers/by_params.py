"""What the section `data` of ``params.yaml`` says of a data set that is put into place."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path

from segops.importers.remedy import remedy
from segops.params.data import DataParams
from segops.runtime.errors import SegopsError
from segops.voc.layout import LISTS, Layout
from segops.voc.use import LayoutError, use


def use_by_params(
    data: DataParams,
    source: Path,
    target: Path,
    unwanted: Sequence[str] = (),
    strip: bool = False,
) -> Layout:
    """Copy a data set in VOC layout with all that `data` names, as :func:`segops.voc.use.use`.

    Raises:
        SegopsError: As there. Where an import takes the data as they are, the message names it.
    """
    further = {"metadata": data.metadata, "unlabelled": data.unlabelled}
    try:
        return use(source, target, unwanted, data.reading, strip, **further)
    except LayoutError as error:
        command = "" if unwanted or any(further.values()) else remedy(source, data)
        raise SegopsError(f"{error}\n{command}".rstrip()) from None


def require_images_alone(data: DataParams, command: str) -> None:
    """Refuse a command that brings only images with masks where `data` names further files.

    Args:
        data: The section.
        command: The command, for the message.

    Raises:
        SegopsError: ``data.metadata`` or ``data.unlabelled`` is set.
    """
    further = {"data.metadata": data.metadata}
    if data.unlabelled is not None:
        further["data.unlabelled"] = f"{LISTS}/{data.unlabelled}.txt"
    for key, name in further.items():
        if name is not None:
            raise SegopsError(
                f"params.yaml: {key} needs {name} in {data.path}, which `{command}` would replace "
                f"by data without it. Set {key} to null and run the command again; to use {name} "
                f"afterwards, put it into {data.path}, `dvc add {shlex.quote(data.path)}`, and set "
                "the key."
            )

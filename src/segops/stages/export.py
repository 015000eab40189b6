"""Stage export: makes the forms of the packaged model that `export.formats` asks for."""

from __future__ import annotations

import logging
from pathlib import Path

from segops import files, paths
from segops.params.base import Sections
from segops.params.export import ExportParams

log = logging.getLogger("segops")


class Settings(Sections):
    """The parameters that the stage reads."""

    export: ExportParams = ExportParams()


def run(root: Path) -> None:
    """Write the exports, each a directory, and the list of them with their digests.

    Raises:
        SegopsError: The packaged model cannot be exported, or a library is missing.
    """
    settings = Settings.read(root).export
    with files.atomic_directory(root / paths.EXPORTS) as directory:
        found: dict[str, str] = {}
        if settings.formats:
            found = _export(root, directory, settings)
        files.write_json(directory / paths.EXPORT_LIST, found)
    log.info("%s: %s", paths.EXPORTS, ", ".join(found) or "none asked for (export.formats)")


def _export(root: Path, directory: Path, settings: ExportParams) -> dict[str, str]:
    from segops.export import calibration, make

    targets = {name: directory / name for name in make.forms(settings.formats, settings.quantize)}
    if settings.quantize is None:
        return make.export(root / paths.SEGMENTER, targets)
    ids, images = calibration.of_workspace(root, settings.calibration_images)
    return make.export(root / paths.SEGMENTER, targets, ids, images)

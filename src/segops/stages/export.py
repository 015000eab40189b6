"""Stage export: makes the forms of the packaged model that `export.formats` asks for."""

from __future__ import annotations

import logging
from pathlib import Path

from segops import files, paths
from segops.params.base import Sections
from segops.params.export import ExportParams
from segops.runtime.errors import SegopsError

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
    from segops.data.store import PackedStore
    from segops.export import make
    from segops.export.calibration import chosen

    ids: tuple[str, ...] = ()
    store = None
    if settings.quantize is not None:
        store = PackedStore(root / paths.PACKED)
        ids = chosen(store, settings.calibration_images)
        if not ids:
            raise SegopsError(
                f"{paths.PACKED}: train holds no image to calibrate on. Set export.quantize to "
                "null, or put images into train."
            )
    targets = {name: directory / name for name in make.forms(settings.formats, settings.quantize)}
    images = () if store is None else (store.image(one) for one in ids)
    return make.export(root / paths.SEGMENTER, targets, ids, images)

"""Stage prepare: decodes the validated data once into the packed store."""

from __future__ import annotations

import logging
from pathlib import Path

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.files import read_json
from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.hardware import HardwareParams
from segops.paths import PACKED, VERDICT
from segops.runtime.errors import SegopsError
from segops.voc.layout import ALL_SPLITS, UNLABELLED, open_layout
from segops.voc.metadata import read_metadata

log = logging.getLogger("segops")


class Settings(Sections):
    """The parameters that the stage reads."""

    data: DataParams = DataParams()
    hardware: HardwareParams = HardwareParams()


def run(root: Path) -> None:
    """Write the packed store.

    Raises:
        SegopsError: The data did not pass validation, or changed after it.
    """
    settings = Settings.read(root)
    verdict = read_json(root / VERDICT)
    if not isinstance(verdict, dict) or verdict.get("passed") is not True:
        raise SegopsError(
            f"{root / VERDICT}: the data did not pass validation. Run `dvc repro validate` and "
            "correct what it lists."
        )
    names = settings.data.class_names
    if tuple(verdict.get("classes", ())) != names:
        raise SegopsError(
            f"{root / VERDICT}: validated with other classes than data.classes in params.yaml. "
            "`dvc repro validate` validates them again."
        )
    data = settings.data
    layout = open_layout(root / data.path, data.reading, data.unlabelled)
    pack(
        layout,
        root / PACKED,
        names,
        expected_hash=str(verdict.get("data_hash")),
        expected_test=verdict.get("test_hash"),
        workers=settings.hardware.worker_count,
        metadata=None if data.metadata is None else read_metadata(layout, data.metadata),
    )
    store = PackedStore(root / PACKED)
    present = filter(store.holds, (*ALL_SPLITS, UNLABELLED))
    counts = [f"{split} {len(ids)}" for split in present if (ids := store.ids(split))]
    log.info("%s: packed %s", PACKED, ", ".join(counts))

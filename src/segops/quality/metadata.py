"""The check of `data.metadata`."""

from __future__ import annotations

from segops.quality.checks import DataCheck, Finding
from segops.voc.layout import Layout
from segops.voc.metadata import find_faults


def check_metadata(layout: Layout, name: str) -> DataCheck:
    """Whether the file `name` in the data set holds a row for every listed image, and no other."""
    listed = {image_id for ids in layout.splits().values() for image_id in ids}
    faults = find_faults(layout.root / name, listed)
    return DataCheck(
        name="metadata",
        expected=f"{name} holds one row for each listed image.",
        passed=not faults,
        observed=f"{len(faults)} fault(s)." if faults else f"{len(listed)} rows.",
        action=f"Correct {name}, or set data.metadata to null.",
        findings=tuple(Finding(name, one) for one in faults),
    )

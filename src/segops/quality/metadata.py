"""The check of `data.metadata`."""

from __future__ import annotations

from segops.quality.checks import DataCheck, Finding
from segops.voc.layout import Layout
from segops.voc.metadata import find_faults


def check_metadata(layout: Layout, name: str) -> DataCheck:
    """Whether the file `name` in the data set can be used, as :func:`find_faults` says."""
    faults = find_faults(layout, name)
    return DataCheck(
        name="metadata",
        expected=f"{name} holds one row for each image of train, val and test.",
        passed=not faults,
        observed=f"{len(faults)} fault(s).",
        action=f"Correct {name}, or set data.metadata to null.",
        findings=tuple(Finding(name, one) for one in faults),
    )

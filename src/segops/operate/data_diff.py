"""Compares the data in the checkout with those of a commit."""

from __future__ import annotations

from pathlib import Path

from segops.operate.data_version import opened
from segops.params.file import Params
from segops.quality.data_changes import DataChanges, Version, compare
from segops.report.diff_page import write_diff_page
from segops.threads import cores
from segops.voc.layout import open_layout

PAGE = Path("reports/data-diff.html")


def diff(root: Path, settings: Params, revision: str, page: Path | None) -> DataChanges:
    """Compare the data in the checkout, tracked or not, with those of a commit.

    Args:
        root: The workspace.
        settings: Its parameters.
        revision: The commit, as git takes it.
        page: The HTML file to write, or None.

    Raises:
        SegopsError: As :func:`segops.operate.data_version.opened`; or one of the data sets is not
            in VOC layout.
    """
    data = settings.data
    layout = open_layout(root / data.path, data.reading)
    with opened(root, revision, data) as old:
        before = Version(open_layout(old.directory, old.params.reading), old.params.drawn)
        after = Version(layout, data.drawn)
        changes = compare(before, after, cores())
        if page is not None:
            write_diff_page(
                page, changes, before, after,
                revision=revision, commit=old.commit, pictures=settings.report.pictures,
            )  # fmt: skip
    return changes

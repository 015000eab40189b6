"""Text in the cells of a CSV file, which a spreadsheet may open."""

from __future__ import annotations

FORMULA = ("=", "+", "-", "@", "\t", "\r", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""Characters with which a spreadsheet begins a formula, which it would run; the last four are the
wide forms of the first four."""


def cell(text: str, prefix: str = "") -> str:
    """The text of a cell: `prefix` guards a formula; a bare carriage return would end the row."""
    guarded = prefix + text if text.startswith(FORMULA) else text
    return guarded.replace("\r", "\\r")

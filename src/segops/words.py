"""Words that messages and pages share."""

from __future__ import annotations


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 image", "40 images"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"

"""Words and units that messages and pages share."""

from __future__ import annotations

MIB = 2**20
"""Bytes of a mebibyte."""


def first_line(error: BaseException) -> str:
    """The first line of an error's text, without a full stop; its class where it has no text."""
    return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")


def counted(number: int, thing: str) -> str:
    """A number of things in words: "1 image", "40 images"."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def shown_size(number: float) -> str:
    """A number of bytes in MB, or in GB from 1 GB: ``12.3 MB``."""
    return f"{number / 1e9:.2f} GB" if number >= 10**9 else f"{number / 1e6:.1f} MB"

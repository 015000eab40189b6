"""Renders a template to one HTML file that needs no network and no other file."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup
from numpy.typing import NDArray
from PIL import Image

NONE = "–"
MINUS = "\u2212"
NARROW = "\u202f"


def render(template: str, **context: Any) -> str:
    """The page as text; a name that the context lacks is an error."""
    return _environment().get_template(template).render(**context)


def _text(name: str) -> Markup:
    """A style or script of ``templates/`` as it is."""
    return Markup((Path(__file__).parent / "templates" / name).read_text(encoding="utf-8"))


def script_policy(text: str) -> str:
    """What a page's Content-Security-Policy says so that this script runs and no other."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segops.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "decimal": decimal,
        "signed": signed,
        "percent": percent,
        "photograph": photograph,
    }
    environment.globals |= {"file_text": _text, "policy": lambda name: script_policy(_text(name))}
    return environment


def number(value: float | None) -> str:
    """An integer with its thousands set apart; a dash where there is none."""
    return NONE if value is None else f"{value:,.0f}".replace(",", NARROW)


def decimal(value: float | None, digits: int = 3) -> str:
    """A number with `digits` decimals; a dash where there is none."""
    return NONE if value is None else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A number with its sign and `digits` decimals; a dash where there is none."""
    if value is None:
        return NONE
    text = f"{value:+.{digits}f}"
    return text[1:] if float(text) == 0 else text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A share in [0, 1] as percent; a dash for none, `<` where rounding would hide it."""
    if value is None:
        return NONE
    least = 10.0**-digits
    if value == 0:
        return f"0{NARROW}%"
    if 0 < value * 100 < least / 2:
        return f"<{least:.{digits}f}{NARROW}%"
    return f"{value * 100:.{digits}f}{NARROW}%"


def photograph(image: NDArray[np.uint8], width: int = 320) -> str:
    """An RGB image, uint8 (H, W, 3), as a JPEG data URI of at most `width` pixels' side."""
    picture = Image.fromarray(image)
    picture.thumbnail((width, width), Image.Resampling.LANCZOS)
    stream = BytesIO()
    picture.save(stream, "JPEG", quality=82, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(stream.getvalue()).decode()}"

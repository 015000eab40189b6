"""Text of users in Markdown."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_SPECIAL = re.compile(r"([\\`*_\[\]|~#!])")


def escaped(text: object) -> Markup:
    """Return a text as one line that Markdown shows literally, in a sentence or a table's cell."""
    line = " ".join(str(text).split())
    text = _SPECIAL.sub(r"\\\1", str(escape(line)).replace("&#39;", "'").replace("&#34;", '"'))
    return Markup(text.replace("$", "&#36;"))  # some readers set formulas, and know no \$

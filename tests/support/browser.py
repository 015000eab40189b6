"""A real browser for the tests of pages: Chromium without a window."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from segops.report.html import script_policy

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
BROWSER = next((found for found in map(shutil.which, BROWSERS) if found), None)
needs_browser = pytest.mark.skipif(
    BROWSER is None and "CI" not in os.environ, reason="Debian's package chromium is not installed"
)
"""Mark of a test that opens pages; see ``.ci/run``."""
FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
         "--no-first-run")  # fmt: skip

# A window is at least 500 pixels wide; a frame may be narrower. Files may not look into each other.
FRAME = """<!doctype html><body><pre></pre><script>
addEventListener("message", (event) =>
  document.querySelector("pre").textContent = JSON.stringify(event.data));
</script><iframe src="{page}" style="width:{width}px;height:900px;border:0"></iframe>"""


def opened(page: Path, state: str = "") -> str:
    """The document after its script has run, the page being opened with a state in its address."""
    command = [str(BROWSER), *FLAGS, "--virtual-time-budget=1500", "--dump-dom"]
    command.append(f"--user-data-dir={page.parent / 'profile'}")
    done = subprocess.run(
        [*command, f"{page.as_uri()}#{state}"], capture_output=True, timeout=100, check=False
    )
    document = done.stdout.decode()
    assert "<html" in document, done.stderr.decode()[-2000:]
    return document


def with_script(text: str, script: str) -> str:
    """A page with one script more, which its policy lets run beside its own."""
    assert text.count("script-src ") == 1
    text = text.replace("script-src ", f"script-src {script_policy(script)} ")
    return text.replace("</body>", f"<script>{script}</script></body>")


def measured(page: Path, width: int, script: str, state: str = "") -> Any:
    """What a function of JavaScript returns on a page as wide as a telephone or a screen.

    Args:
        page: The page; a copy of it is opened.
        width: Of the page, in pixels.
        script: The body of the function; it returns something that JSON can hold.
        state: What follows `#` in the address.
    """
    asked = f"setTimeout(() => parent.postMessage((() => {{{script}}})(), '*'), 200)"
    copy = page.with_name(f"asked-{page.name}")
    copy.write_text(with_script(page.read_text(), asked))
    frame = page.with_name(f"frame-{page.name}")
    frame.write_text(FRAME.format(page=f"{copy.name}#{state}", width=width))
    found = re.search(r"<pre>(.+?)</pre>", opened(frame), flags=re.S)
    assert found, "the page did not answer"
    return json.loads(unescape(found[1]))

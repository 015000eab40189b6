"""Opens a page in the user's browser once its server answers; runs as a separate process."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
import webbrowser

SECONDS_TO_START = 120.0
SECONDS_BETWEEN_LOOKS = 0.3


def can_open() -> bool:
    """Whether the output is a terminal on a machine with a display and a browser."""
    displays = ("DISPLAY", "WAYLAND_DISPLAY")
    has_display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, displays))
    if not (sys.stdout.isatty() and has_display):
        return False
    try:
        webbrowser.get()
    except webbrowser.Error:
        return False
    return True


def open_when_served(address: str) -> None:
    """Start a process that opens a page once this process has become its server."""
    quiet = subprocess.DEVNULL
    subprocess.Popen(
        [sys.executable, "-m", __name__, address, str(os.getpid())], stdout=quiet, stderr=quiet
    )


def wait_and_open(address: str, server: int) -> None:
    """Open a page as soon as its server answers, unless the server's process ends first."""
    # A proxy from the environment does not apply to this machine's own server.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    end = time.monotonic() + SECONDS_TO_START
    while time.monotonic() < end and os.getppid() == server:
        try:
            direct.open(address.partition("#")[0], timeout=5).close()
        except urllib.error.HTTPError:
            pass  # it answers
        except OSError:
            time.sleep(SECONDS_BETWEEN_LOOKS)
            continue
        webbrowser.open(address)
        return


if __name__ == "__main__":
    wait_and_open(sys.argv[1], int(sys.argv[2]))

"""Drives a page in headless Chromium over the DevTools protocol, as a person would."""

from __future__ import annotations

import base64
import json
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

from websockets.sync.client import ClientConnection, connect

from tests.support.browser import BROWSER, FLAGS

WAIT_SECONDS = 60.0
KEYS = {"Tab": 9, "Enter": 13, "Escape": 27, " ": 32, "ArrowLeft": 37, "ArrowUp": 38,
        "ArrowRight": 39, "ArrowDown": 40, "Backspace": 8, "End": 35, "Home": 36}  # fmt: skip
TEXTS = {"Enter": "\r", " ": " "}


class Tab:
    """A tab of a browser.

    Args:
        connection: To its DevTools.

    Attributes:
        troubles: What the page's console and scripts complained of, and requests that its
            Content-Security-Policy stopped.
    """

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._count = connection, 0
        self.troubles: list[str] = []
        for domain in ("Page", "Runtime", "DOM", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Any:
        """Call a method of the protocol; return its result."""
        self._count += 1
        self._connection.send(json.dumps({"id": self._count, "method": method, "params": params}))
        while True:
            message = json.loads(self._connection.recv(WAIT_SECONDS))
            if message.get("id") == self._count:
                assert "error" not in message, (method, message["error"])
                return message["result"]
            self._hear(message.get("method"), message.get("params", {}))

    def _hear(self, event: str | None, told: dict[str, Any]) -> None:
        if event == "Runtime.exceptionThrown":
            details = told["exceptionDetails"]
            self.troubles.append(str(details.get("exception", {}).get("description", details)))
        elif event == "Log.entryAdded" and told["entry"]["level"] == "error":
            self.troubles.append(f"{told['entry']['text']} {told['entry'].get('url', '')}".strip())

    def open(self, address: str) -> None:
        """Open a page."""
        self.call("Page.navigate", url=address)
        self.wait("document.readyState === 'complete' && location.href !== 'about:blank'")

    def run(self, script: str) -> Any:
        """Return the value of an expression of JavaScript; a promise is awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, (script, found["exceptionDetails"])
        return found["result"].get("value")

    def text(self, selector: str) -> str:
        """The text that is seen of an element."""
        return str(self.run(f"document.querySelector({json.dumps(selector)}).innerText"))

    def wait(self, condition: str) -> None:
        """Wait until an expression is true."""
        end = time.monotonic() + WAIT_SECONDS
        while not self.run(f"Boolean({condition})"):
            assert time.monotonic() < end, (condition, self.troubles, self.text("body"))
            time.sleep(0.05)

    def click(self, selector: str, across: float = 0.5, down: float = 0.5) -> None:
        """Press the mouse at a place of an element, in shares of its extent."""
        place = self.place(selector, across, down)
        for kind in ("mousePressed", "mouseReleased"):
            self.mouse(kind, place)

    def place(self, selector: str, across: float, down: float) -> tuple[float, float]:
        """Scroll an element into view; return a place of it in the window."""
        x, y, width, height = self.run(
            f"(() => {{ const one = document.querySelector({json.dumps(selector)});"
            " one.scrollIntoView({block: 'center'}); const box = one.getBoundingClientRect();"
            " return [box.x, box.y, box.width, box.height]; })()"
        )
        return x + across * width, y + down * height

    def mouse(self, kind: str, place: tuple[float, float]) -> None:
        """Send an event of the mouse, its left button held."""
        self.call(
            "Input.dispatchMouseEvent", type=kind, x=place[0], y=place[1], button="left",
            buttons=1, clickCount=1,
        )  # fmt: skip

    def press(self, *keys: str) -> None:
        """Press keys of the keyboard, one after another."""
        for key in keys:
            known = {"key": key, "code": "Space" if key == " " else key,
                     "windowsVirtualKeyCode": KEYS[key]}  # fmt: skip
            down = {**known, "text": TEXTS[key]} if key in TEXTS else known
            self.call("Input.dispatchKeyEvent", type="keyDown", **down)
            self.call("Input.dispatchKeyEvent", type="keyUp", **known)

    def type(self, text: str) -> None:
        """Type a text into the element that has the focus."""
        self.call("Input.insertText", text=text)

    def choose_files(self, selector: str, files: Sequence[Path]) -> None:
        """Choose files in an element of type `file`."""
        root = self.call("DOM.getDocument")["root"]["nodeId"]
        node = self.call("DOM.querySelector", nodeId=root, selector=selector)["nodeId"]
        self.call("DOM.setFileInputFiles", nodeId=node, files=[str(one) for one in files])

    def resize(self, width: int, height: int, scheme: str = "light") -> None:
        """Make the window as large as a screen or a telephone, light or dark."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=1, mobile=width < 600,
        )  # fmt: skip
        self.call("Emulation.setTouchEmulationEnabled", enabled=width < 600)
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": scheme}],
        )

    def photograph(self, target: Path) -> None:
        """Write the whole page as a PNG."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(found["data"]))

    def save_downloads_to(self, directory: Path) -> None:
        """Keep what the page saves in a directory."""
        self.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(directory))


@contextmanager
def tab(folder: Path) -> Iterator[Tab]:
    """Run Chromium with a tab.

    Args:
        folder: Gets its profile.
    """
    profile = folder / "profile"
    command = [str(BROWSER), *FLAGS, "--remote-debugging-port=0", f"--user-data-dir={profile}"]
    browser = subprocess.Popen(
        [*command, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        with connect(_address(profile, browser), max_size=1 << 28) as connection:
            yield Tab(connection)
    finally:
        browser.kill()
        browser.wait()


def _address(profile: Path, browser: subprocess.Popen[bytes]) -> str:
    """The address of the first tab's DevTools."""
    end = time.monotonic() + WAIT_SECONDS
    while True:
        assert browser.poll() is None
        assert time.monotonic() < end, "Chromium does not start"
        said = profile / "DevToolsActivePort"
        if said.is_file() and said.read_text().count("\n"):
            port = said.read_text().split()[0]
            with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
                tabs = [one for one in json.load(answer) if one["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(0.1)

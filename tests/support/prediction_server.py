"""A real `segops serve` in a process of its own."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import torch
from PIL import Image

from segops.predict.bundle import bundle_digest
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.bundles import write_bundle

SPEC = ModelSpec("plain_cnn", "", 21, {"width": 4})
START_SECONDS = 240.0
KEY = "0123456789abcdef-a-key"


def error(response: httpx.Response) -> tuple[int, str]:
    """Status and sentence of a refusal."""
    told = response.json()["error"]
    assert told["status"] == response.status_code
    return told["status"], told["message"]


@dataclass
class Served:
    """A server that runs.

    Attributes:
        client: Asks it.
        process: It.
        log: What it prints.
    """

    client: httpx.Client
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def port(self) -> int:
        port = self.client.base_url.port
        assert port is not None
        return port

    def workers(self) -> list[psutil.Process]:
        """Its workers."""
        return self._children("segops.serve.worker")

    def follower(self) -> psutil.Process | None:
        """Its process that follows the registry; None while there is none."""
        return next(iter(self._children("segops.serve.registry")), None)

    def _children(self, module: str) -> list[psutil.Process]:
        found = []
        for child in psutil.Process(self.process.pid).children():
            with suppress(psutil.Error):  # it ended
                if module in child.cmdline():
                    found.append(child)
        return found

    def metric(self, name: str, **labels: str) -> float:
        """The value of a metric now; 0 where it has none yet."""
        told = ",".join(f'{key}="{value}"' for key, value in sorted(labels.items()))
        line = f"{name}{{{told}}}" if told else name
        for found in self.client.get("/metrics").text.splitlines():
            if found.startswith(f"{line} "):
                return float(found.split()[-1])
        return 0.0


def write_model(target: Path, seed: int, classes: tuple[str, ...] = VOC_CLASSES) -> str:
    """Write a bundle whose masks hold several classes; return its digest."""
    torch.manual_seed(seed)
    network = build(SPEC)
    torch.nn.init.normal_(network.network.get_parameter("score.weight"))
    write_bundle(target, network, SPEC, classes, {}, {})
    return bundle_digest(target)


def picture(width: int = 90, height: int = 60, seed: int = 0, form: str = "PNG") -> bytes:
    """An image file: coloured areas with noise."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (4, 6, 3), np.uint8))
    buffer = BytesIO()
    coarse.resize((width, height), Image.Resampling.BICUBIC).save(buffer, form)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    """A chunk of a PNG."""
    checksum = zlib.crc32(kind + content).to_bytes(4, "big")
    return len(content).to_bytes(4, "big") + kind + content + checksum


def png(*sizes: int, rows: bytes) -> bytes:
    """A grey PNG with a header for each of some sides in pixels, and these rows."""
    heads = (side.to_bytes(4, "big") * 2 + b"\x08\0\0\0\0" for side in sizes)
    start = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(b"IHDR", head) for head in heads)
    return start + chunk(b"IDAT", zlib.compress(rows, 9)) + chunk(b"IEND", b"")


def two_headers() -> bytes:
    """A PNG whose first header says 10 x 10 pixels, and whose second one says 3000 x 3000."""
    return png(10, 3000, rows=bytes(3001 * 3000))


@contextmanager
def serving(
    folder: Path, *options: str, ready: bool = True, root: Path | None = None, **variables: str
) -> Iterator[Served]:
    """Run `segops serve` on a free port.

    Args:
        folder: Gets its output.
        options: Its options.
        ready: Whether to wait until a model is served.
        root: The workspace in which it runs.
        variables: Further environment variables.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "segops", "serve", "--port", "0", "--device", "cpu", *options],
            cwd=root or folder,
            env={**os.environ, **variables},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        port = await_text(log, r"Serving on http://\S+:(\d+)", process)
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120, trust_env=False)
        with client:
            served = Served(client, process, log)
            if ready:
                await_true(lambda: client.get("/ready").status_code == 200, process, log)
            yield served
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def await_text(log: Path, pattern: str, process: subprocess.Popen[bytes]) -> str:
    """Wait until the output holds a pattern; return its group, or all of it."""
    found: list[str] = []

    def is_there() -> bool:
        match = re.search(pattern, log.read_text(errors="replace"))
        if match:
            found.append(match[1] if match.groups() else match[0])
        return bool(match)

    await_true(is_there, process, log)
    return found[0]


def await_true(condition: Any, process: subprocess.Popen[bytes], log: Path) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + START_SECONDS
    while not condition():
        assert process.poll() is None, log.read_text(errors="replace")
        assert time.monotonic() < end, log.read_text(errors="replace")
        time.sleep(0.1)

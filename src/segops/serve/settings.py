"""The settings of `segops serve`, from its options and the environment."""

from __future__ import annotations

import ctypes
import ipaddress
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from segops.runtime.errors import SegopsError
from segops.serve.pool import Limits
from segops.threads import cores

KEYS = "SEGOPS_SERVE_KEYS"
"""The environment variable with the clients' keys, separated by spaces or commas."""
SHORTEST_KEY = 16
ORIGIN = re.compile(r"https?://([a-z0-9._-]+|\[[0-9a-f:.]+\])(:[0-9]{1,5})?")
"""What a browser sends as ``Origin``."""
NVIDIA = Path("/proc/driver/nvidia/version")
"""Exists where NVIDIA's driver is loaded."""
Runtime = Literal["auto", "torch", "onnx", "onnx-int8", "openvino", "openvino-int8"]


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        model: ``models:/NAME@ALIAS``, ``models:/NAME/VERSION`` or a bundle's directory.
        compare: A second model, the same; None: none.
        root: The workspace; None: the models are directories.
        runtime: `torch`, or the form of the export to serve of a registered model, or `auto`: of
            each version the quickest that :func:`segops.release.exports.quickest` finds. A
            directory has its own runtime.
        devices: Device of each worker process: `cpu` or `cuda:N`.
        threads: Threads of an image on a CPU.
        host: Address to listen on.
        port: Its port; 0: a free one.
        limits: What bounds a request.
        keys: Keys of clients; none: every request is answered.
        cors: Origins of other pages that may ask, as :func:`origin` returns them.
        record: Directory for marks; None: marks are not taken.
        log: Directory of the prediction log; None: none is kept.
    """

    model: str
    compare: str | None = None
    root: Path | None = None
    runtime: Runtime = "auto"
    devices: tuple[str, ...] = ("cpu",)
    threads: int = 1
    host: str = "127.0.0.1"
    port: int = 8080
    limits: Limits = field(default_factory=Limits)
    keys: tuple[str, ...] = field(default=(), repr=False)
    cors: tuple[str, ...] = ()
    record: Path | None = None
    log: Path | None = None

    def __post_init__(self) -> None:
        if not self.keys and not is_loopback(self.host):
            raise SegopsError(
                f"--host {self.host}: other machines could ask without a key. Give the clients' "
                f"keys with --key-file or {KEYS}, or listen on 127.0.0.1."
            )

    @property
    def on_cpu(self) -> bool:
        """Whether all workers predict on the CPU."""
        return all(device == "cpu" for device in self.devices)

    @property
    def models(self) -> dict[str, str]:
        """The models by their keys."""
        second = {} if self.compare is None else {"compare": self.compare}
        return {"main": self.model, **second}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def origin(text: str) -> str:
    """Return an origin as browsers write it: in lower case, without the scheme's own port.

    Raises:
        SegopsError: The text is none.
    """
    found = text.lower()
    if not ORIGIN.fullmatch(found):
        raise SegopsError(
            f"--cors {text}: no origin; expected scheme, host and port of the page alone, such as "
            "https://app.example or http://localhost:3000."
        )
    return found.removesuffix(":443" if found.startswith("https") else ":80")


def _taken_from_environment() -> str:
    """Remove the keys from the environment, and from what other programs see of it."""
    keys = os.environ.get(KEYS, "")
    if keys:
        # The system shows (`ps e`) the memory that the process began with, which `pop` leaves.
        getenv = ctypes.CDLL(None).getenv
        getenv.restype = ctypes.c_void_p
        ctypes.memset(getenv(KEYS.encode()), 0, len(os.fsencode(keys)))
    os.environ.pop(KEYS, None)
    return keys


def read_keys(path: Path | None) -> tuple[str, ...]:
    """Return the keys of a file, one a line, and of the environment, which loses them.

    Empty lines and lines that begin with # are passed over.

    Raises:
        SegopsError: The file cannot be read or holds no key, or a key is too short.
    """
    keys = _taken_from_environment().replace(",", " ").split()
    if path is not None:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise SegopsError(f"--key-file {path}: not readable: {error}.") from None
        own = [line for line in map(str.strip, lines) if line and not line.startswith("#")]
        if not own:
            raise SegopsError(f"--key-file {path}: holds no key; expected one a line.")
        keys += own
    if any(len(key) < SHORTEST_KEY or not re.fullmatch("[!-~]+", key) for key in keys):
        raise SegopsError(
            f"A key is shorter than {SHORTEST_KEY} characters, or holds a space or a character "
            "beyond ASCII. `openssl rand -hex 32` makes a good one."
        )
    return tuple(keys)


def devices(
    wanted: Literal["auto", "cpu", "cuda"], workers: int | None, threads: int = 1
) -> tuple[str, ...]:
    """Return the device of each worker.

    Without a number of workers there is one for each GPU, or for each so many cores as an image
    has threads.

    Only a system with NVIDIA's driver asks torch, which takes seconds.

    Raises:
        SegopsError: There is no GPU, and one is wanted.
    """
    gpus = 0
    if wanted != "cpu" and NVIDIA.exists():
        import torch

        gpus = torch.cuda.device_count()
    if wanted == "cuda" and not gpus:
        raise SegopsError("--device cuda: there is no usable GPU. Set it to auto or cpu.")
    if gpus:
        return tuple(f"cuda:{number % gpus}" for number in range(workers or gpus))
    return ("cpu",) * (workers or max(1, cores() // threads))

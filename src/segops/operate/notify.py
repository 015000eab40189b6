"""Tells people through Apprise: Slack, Teams, mail, webhooks and many more.

The addresses hold secrets. They come from the environment alone and are never shown: a channel is
named by its scheme and its position. A channel that is down is said in the log and delays nothing.
"""

from __future__ import annotations

import logging
import os
import re
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from segops.operate.messages import Message
from segops.params.base import Sections
from segops.params.notify import NotifyParams
from segops.runtime.errors import SegopsError

ADDRESSES = "SEGOPS_NOTIFY"
FILE = "SEGOPS_NOTIFY_FILE"
UNATTENDED = "SEGOPS_UNATTENDED"
"""Where it is set, nobody sits at the command: cron, or `segops watch`."""
SECONDS = 10.0
"""Time for all channels together."""
SHORTEST_SECRET = 4
log = logging.getLogger("segops")
Logger = logging.Logger | logging.LoggerAdapter[Any]


class Settings(Sections):
    """The parameters that decide what is told."""

    notify: NotifyParams = NotifyParams()


@dataclass(frozen=True)
class Channel:
    """A place where people read messages.

    Attributes:
        position: Its place in the list, from 1.
        address: Its Apprise address, a secret.
    """

    position: int
    address: str = field(repr=False)

    @property
    def name(self) -> str:
        """What it is called where people read it."""
        scheme = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", self.address)
        return f"channel {self.position} ({scheme[1] if scheme else 'no scheme'})"


@dataclass(frozen=True)
class Told:
    """What became of a message.

    Attributes:
        channel: The name of the channel.
        problem: Why it was not delivered; None where it was.
    """

    channel: str
    problem: str | None


def channels() -> list[Channel]:
    """Return the channels that the environment names.

    Raises:
        SegopsError: The file of addresses is not readable.
    """
    lines = os.environ.get(ADDRESSES, "").splitlines()
    if place := os.environ.get(FILE):
        try:
            lines += Path(place).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "no text"
            raise SegopsError(
                f"{FILE}={place}: {why}. Expected a file with an Apprise address a line."
            ) from None
    addresses = [
        word for line in lines if not line.lstrip().startswith("#") for word in line.split()
    ]
    return [Channel(position, one) for position, one in enumerate(addresses, 1)]


def required_channels() -> list[Channel]:
    """Return the channels that the environment names; at least one.

    Raises:
        SegopsError: It names none, or the file of addresses is not readable.
    """
    found = channels()
    if not found:
        raise SegopsError(
            f"Neither {ADDRESSES} nor {FILE} names a channel. Expected Apprise addresses, such as "
            "mailto://USER:PASSWORD@example.org or slack://TOKEN: docs/how-to/notify.md."
        )
    return found


def tell(root: Path, message: Message, *, by_hand: bool, say: Logger = log) -> None:
    """Send a message if the parameters want it; what is not delivered is said in the log.

    Args:
        root: The workspace.
        message: The message.
        by_hand: Whether a command caused it; with :data:`UNATTENDED` it is no person's own.
        say: Where it is said what became of the message.
    """
    try:
        settings = Settings.read(root).notify
        by_hand = by_hand and not os.environ.get(UNATTENDED)
        if message.event not in settings.events or (by_hand and not settings.by_hand):
            return
        results = send(channels(), message)
    except SegopsError as error:
        say.error("Nobody was told: %s", error)
        return
    for one in results:
        if one.problem is None:
            say.info("%s was told: %s.", _capital(one.channel), message.subject)
        else:
            say.error("%s was not told: %s", _capital(one.channel), one.problem)


def send(to: Sequence[Channel], message: Message, seconds: float = SECONDS) -> list[Told]:
    """Send a message to all channels at once.

    Args:
        to: The channels.
        message: The message.
        seconds: Time for all together; a channel that takes longer counts as down.

    Returns:
        What became of it, in the order of the channels.
    """
    if not to:
        return []
    heard = _Heard()
    problems: dict[int, str | None] = {}
    threads = []
    for one in to:

        def deliver(one: Channel = one) -> None:
            problems[one.position] = _deliver(one, message, heard)

        # Daemons: one that hangs does not keep the process from its end.
        threads.append(threading.Thread(target=deliver, daemon=True))
        threads[-1].start()
    end = time.monotonic() + seconds
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
    late = f"no answer within {seconds:g} s."
    return [Told(one.name, problems.get(one.position, late)) for one in to]


class _Heard(logging.Handler):
    """Collects what Apprise logs, by thread: it may hold parts of an address."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.lines: dict[int | None, str] = {}
        logger = logging.getLogger("apprise")
        logger.propagate = False
        logger.handlers = [self]

    def emit(self, record: logging.LogRecord) -> None:
        self.lines[record.thread] = record.getMessage()


def _deliver(channel: Channel, message: Message, heard: _Heard) -> str | None:
    """Send a message to a channel; return why that failed, or None."""
    from apprise import Apprise, AppriseAsset, NotifyFormat, NotifyType

    kinds: dict[str, Any] = {
        "good": NotifyType.SUCCESS,
        "look": NotifyType.WARNING,
        "bad": NotifyType.FAILURE,
    }
    try:
        # No file of Apprise's own, no plugin from a file, no escape sequence out of names in data.
        asset = AppriseAsset(
            app_id="segops", app_desc="segops", async_mode=False, storage_mode="memory",
            interpret_escapes=False,
        )  # fmt: skip
        sender = Apprise(asset=asset)
        if not sender.add(channel.address):
            return "its address is none that Apprise knows (https://github.com/caronc/apprise)."
        if sender.notify(
            body=message.body,
            title=message.subject,
            notify_type=kinds[message.kind],
            body_format=NotifyFormat.TEXT,
        ):
            return None
    except Exception as error:  # of a plugin; its text may hold any part of the address
        return f"it failed ({type(error).__name__})."
    said = heard.lines.get(threading.get_ident(), "it did not take the message.")
    return without_secrets(" ".join(said.split()), channel.address)


def without_secrets(text: str, address: str) -> str:
    """Return a text with every part of an address, but for the scheme, made unreadable.

    A short part stays, unless it is the password.
    """
    rest = address.partition("://")[2]
    login = re.split("[/?#]", rest)[0].rpartition("@")[0]
    password = login.partition(":")[2]
    for spelled, own in ((rest, password), (unquote(rest), unquote(password))):
        parts = [spelled, own, *re.split(r"[^A-Za-z0-9_.-]+", spelled)]
        for part in sorted(parts, key=len, reverse=True):
            if len(part) >= SHORTEST_SECRET or part == own != "":
                text = text.replace(part, "***")
    return text


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]

"""Who approves, and how that is known."""

from __future__ import annotations

import os
import pwd
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from segops.record.login import login
from segops.record.tracking import Store

Kind = Literal["signature", "login", "system user"]
SHORT = 12
"""Characters of a key's id that are shown."""


@dataclass(frozen=True)
class Identity:
    """A person who approves.

    Attributes:
        kind: How the person is known: by the `signature` of a key, by the `login` at MLflow's
            server, or as `system user` only, which is not verified.
        name: The key's id, the server's name for the user, or `USER@HOST`.
        user: `USER@HOST` of the process, whatever the kind.
    """

    kind: Kind
    name: str
    user: str

    @property
    def words(self) -> str:
        """The person, and how the person is known."""
        if self.kind == "signature":
            return f"key {self.name[:SHORT]} (signature)"
        if self.kind == "login":
            return f"{self.name} (login)"
        return f"{self.name} (not verified)"

    def is_one_of(self, names: Iterable[str]) -> bool:
        """Whether one of the `names`, as runs say who started them, means this person."""
        names = set(names)
        own = {"login": {self.name}, "system user": {_person(self.user)}}.get(self.kind, set())
        return self.user in names or bool(own & ({*names, *map(_person, names)}))


def identify(store: Store, key_id: str | None, *, use_login: bool) -> Identity:
    """Return who runs this process.

    Args:
        store: The record.
        key_id: Id of the key that signs; None without a key.
        use_login: Whether the credentials for the server are the person's own.

    Raises:
        MlflowException: The server does not answer, or refuses the credentials.
    """
    user = system_user()
    if key_id is not None:
        return Identity("signature", key_id, user)
    name = login(store) if use_login else None
    if name is not None:
        return Identity("login", name, user)
    return Identity("system user", user, user)


def system_user() -> str:
    """Return `USER@HOST` as the operating system knows them; no variable changes it."""
    number = os.geteuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:  # a container's user may have no name
        user = f"uid {number}"
    return f"{user}@{socket.gethostname()}"


def _person(name: str) -> str:
    return name.partition("@")[0]

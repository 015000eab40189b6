"""The ledger: every decision and every change of an alias of a registered model, in its registry.

The entries about model NAME are the versions of the registered model ``NAME-ledger``: MLflow gives
them unique numbers, also to writers at the same time. Each entry holds the SHA-256 of the entry
before; of two entries with the same predecessor the first counts, the other is void.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
import uuid
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.registry import LEDGER_SUFFIX
from segops.record.lineage import tag
from segops.record.tracking import BusyError, Store, is_missing, locked, quoted
from segops.release.chain import Chain, Entry, EntryKind, TamperedError, finite, to_line
from segops.runtime.errors import SegopsError

ENTRY, HEAD = tag("entry"), tag("ledger_head")
LIMIT_SECONDS = 120.0
"""How long a writer tries to append an entry that MLflow did not take, or that others overtook."""
PAGE = 500
COPY = re.compile(r"-[0-9a-f]{12}\.log$")
log = logging.getLogger("segops")


class MovedError(SegopsError):
    """Another process wrote to the ledger, or changed an alias, since this process read it."""


class Ledger:
    """The ledger of one registered model.

    A checkout keeps a copy of all lines that it has read. The registered model keeps the hash of
    the last entry in a tag. A ledger that lacks what either of them names was tampered with.

    Args:
        store: The record.
        root: A workspace; the copy lies in its main checkout.
        model: Name of the registered model.

    Attributes:
        where: Where the ledger lies, for messages.
        copy: The file with the lines that this main checkout has read.
    """

    def __init__(self, store: Store, root: Path, model: str) -> None:
        self.store, self.root, self.model = store, root, model
        self.name = f"{model}{LEDGER_SUFFIX}"
        self.where = f"ledger {self.name} at {store.identity}"
        self.copy = paths.state_home(root) / paths.LEDGER / f"{model}{_ending(store.identity)}"
        self._chain: Chain | None = None

    def last_seen(self) -> list[Entry]:
        """Return the entries in the copy, without asking the registry."""
        return self._from_copy().entries

    @property
    def head(self) -> str:
        """SHA-256 of the last entry that this object has read."""
        return (self._chain or self._read()).head

    @property
    def length(self) -> int:
        """Number of entries that this object has read."""
        return len((self._chain or self._read()).entries)

    def entries(self) -> list[Entry]:
        """Return the entries, oldest first; read what is new since the last call.

        Raises:
            TamperedError: Lines were changed, removed or inserted; the message names the line.
            MlflowException: The registry does not answer.
        """
        return list(self._read().entries)

    def append(
        self,
        kind: EntryKind,
        *,
        verdict: str,
        reason: str,
        by: str,
        version: str = "",
        run_id: str = "",
        details: dict[str, Any] | None = None,
        again: bool = False,
    ) -> Entry:
        """Write an entry after the last one that this object has read (compare-and-set).

        Args:
            kind: As in :class:`Entry`, like the following arguments.
            verdict: As there.
            reason: As there.
            by: As there.
            version: As there.
            run_id: As there.
            details: As there; numbers that are not finite become null.
            again: Whether to write the entry after the new ones if others were written meanwhile.

        Raises:
            MovedError: Another process has written entries meanwhile, and `again` is false. This
                object has read them.
            TamperedError: As in :meth:`entries`.
            BusyError: It could not be written within :data:`LIMIT_SECONDS`.
        """
        chain = self._chain or self._read()
        entry = Entry(
            sequence=0,
            previous="",
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            kind=kind,
            registry=self.store.identity,
            model=self.model,
            version=version,
            run_id=run_id,
            verdict=verdict,
            reason=reason,
            by=by,
            details=finite(details or {}),
            nonce=uuid.uuid4().hex[:12],
        )
        failure, end = "", time.monotonic() + LIMIT_SECONDS
        while time.monotonic() < end:
            place = {"sequence": len(chain.entries) + 1, "previous": chain.head}
            entry = entry.model_copy(update=place)
            line = to_line(entry).decode()
            failure = self._create(line, f"{kind}: {verdict}, version {version or '(none)'}")
            chain = self._read()
            written = chain.entries[entry.sequence - 1 : entry.sequence]
            if written and written[0].nonce == entry.nonce:
                self._anchor(chain)
                return written[0]
            if chain.head != entry.previous and not again:
                newer = chain.entries[entry.sequence - 1]
                raise MovedError(
                    f"{self.where}: {newer.by} wrote entry {newer.sequence} meanwhile "
                    f"({newer.verdict} of version {newer.version or '(none)'})."
                )
            # MLflow gives up after three collisions of version numbers.
            time.sleep(random.uniform(0, 0.5 if failure else 0.05))
        raise BusyError(
            f"{self.where}: the entry could not be written within {LIMIT_SECONDS:.0f} s: "
            f"{failure or 'other processes were quicker'}. Try again."
        )

    def verify(self) -> Chain:
        """Read all lines from the registry, and compare them with the copy and the tag.

        Raises:
            TamperedError: They differ, or a line does not fit the lines before it.
            MlflowException: The registry does not answer.
        """
        anchor = self._anchored()
        chain = Chain(self.where)
        kept = dict(_kept(self.copy))
        for number, line in self._lines(1):
            if kept.get(number, line) != line:
                raise chain.tampered(f"line {number} differs from the one in {self.copy}")
            chain.add(number, line)
        if kept and max(kept) > chain.number:
            raise chain.tampered(f"line {chain.number + 1} and those after it are missing")
        self._check(chain, anchor)
        return chain

    def _read(self) -> Chain:
        first = self._chain is None
        # Read before the lines: the entry that it names is among those that follow.
        anchor = self._anchored() if first else None
        chain = self._from_copy() if self._chain is None else self._chain
        new = []
        lines = self._lines(max(chain.number, 1))
        if chain.number:
            last = next(lines, None)
            if last is None or last[0] != chain.number:
                raise chain.tampered(f"line {chain.number} is missing")
            if last[1] != chain.line:
                raise chain.tampered(f"line {chain.number} was changed since it was read")
        for number, line in lines:
            chain.add(number, line)
            new.append((number, line))
        self._check(chain, anchor)
        self._keep(new)
        self._chain = chain
        return chain

    def _from_copy(self) -> Chain:
        chain = Chain(self.where)
        try:
            for number, line in _kept(self.copy):
                chain.add(number, line)
        except TamperedError:
            raise _damaged(self.copy) from None
        return chain

    def _lines(self, start: int) -> Iterator[tuple[int, str]]:
        """Yield number and line of the versions from number `start` on."""
        token: str | None = None
        while True:
            try:
                page = self.store.client.search_model_versions(
                    f"name = {quoted(self.name)} AND version_number >= {start}",
                    max_results=PAGE,
                    order_by=["version_number ASC"],
                    page_token=token,
                )
            except MlflowException as error:
                if is_missing(error):
                    return
                raise
            for version in page:
                yield int(version.version), version.tags.get(ENTRY, "")
            token = page.token
            if not token:
                return

    def _create(self, line: str, words: str) -> str:
        """Create a version with a line; returns why MLflow did not, where a retry may help.

        `words` stand in MLflow's list of versions, for people; nothing reads them.
        """
        client = self.store.client
        try:
            client.create_model_version(
                self.name,
                f"segops{LEDGER_SUFFIX}:/{self.model}",
                tags={ENTRY: line},
                description=words,
                await_creation_for=0,
            )
        except MlflowException as error:
            # A server that asks for a login says so of a model that does not exist.
            refused = error.error_code == "PERMISSION_DENIED"
            if is_missing(error) or refused:
                if not self._create_model() and refused:
                    raise
            elif error.error_code not in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE"):
                raise
            return str(error).strip().splitlines()[0]
        return ""

    def _create_model(self) -> bool:
        """Create the registered model; returns whether it was missing."""
        try:
            self.store.client.create_registered_model(
                self.name,
                description=f"The ledger of {self.model}: each version is an entry, written by "
                "segops. Versions that are changed or deleted here are noticed.",
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            return False
        return True

    def _anchored(self) -> str | None:
        """Return the hash of the last entry as the registered model's tag names it, or None."""
        try:
            tags = self.store.client.get_registered_model(self.model).tags
        except MlflowException as error:
            if is_missing(error):
                return None
            raise
        anchor: str | None = tags.get(HEAD)
        return anchor

    def _anchor(self, chain: Chain) -> None:
        try:
            self.store.client.set_registered_model_tag(self.model, HEAD, chain.head)
        except MlflowException as error:
            if not is_missing(error):
                raise

    def _check(self, chain: Chain, anchor: str | None) -> None:
        if anchor is not None and anchor not in chain.known:
            raise chain.tampered(
                f"its entry {anchor[:12]} is missing, which the tag {HEAD} of {self.model} names"
            )

    def _keep(self, new: Sequence[tuple[int, str]]) -> None:
        """Append lines to the copy."""
        if not new:
            return
        try:
            with locked(self.root, "ledger"):
                self.copy.parent.mkdir(parents=True, exist_ok=True)
                held = max((number for number, _ in _kept(self.copy)), default=0)
                if new[0][0] > held + 1:
                    return  # lines between were not kept; the next process reads them
                append_lines(
                    self.copy, [f"{number} {line}" for number, line in new if number > held]
                )
        except OSError as error:
            log.warning("%s: the copy of the ledger was not written: %s", self.copy, error.strerror)


def of_others(root: Path, identity: str) -> list[Path]:
    """Return the copies of ledgers of other registries than the named one in the main checkout.

    Args:
        root: A workspace.
        identity: The registry, as :func:`segops.record.tracking.identity` names it.
    """
    found = (paths.state_home(root) / paths.LEDGER).glob("*.log")
    return sorted(
        path
        for path in found
        if COPY.search(path.name) and not path.name.endswith(_ending(identity))
    )


def _ending(identity: str) -> str:
    """Return how the names of the copies of a registry's ledgers end."""
    return f"-{files.sha256_bytes(identity.encode())[:12]}.log"


def _kept(path: Path) -> list[tuple[int, str]]:
    """Return number and line of the lines in a copy; a last line without its end is left out."""
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").split("\n")[:-1]
        pairs = [line.partition(" ") for line in lines]
        return [(int(number), line) for number, _, line in pairs]
    except (OSError, ValueError):
        raise _damaged(path) from None


def _damaged(path: Path) -> SegopsError:
    return SegopsError(
        f"{path}: this copy of the ledger is damaged or not readable. Remove it; segops makes it "
        "anew from the registry."
    )


def append_lines(path: Path, lines: Sequence[str]) -> None:
    """Append lines and sync them; first cut off a line that an interrupted process left."""
    content = path.read_bytes() if path.exists() else b""
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
    with os.fdopen(handle, "r+b") as file:
        file.truncate(content.rfind(b"\n") + 1)
        file.seek(0, os.SEEK_END)
        file.write("".join(f"{line}\n" for line in lines).encode())
        file.flush()
        os.fsync(file.fileno())

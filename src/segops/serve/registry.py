"""The process that follows the registry: it finds, checks and fetches the models to serve.

MLflow takes seconds to import and hundreds of megabytes, so the server's process does without it.
This one is started as ``python -m segops.serve.registry`` with a request on standard input, and
writes a line of JSON whenever a model is to be served. It ends when its standard input is closed.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import select
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from segops import logs
from segops.children import to_parent
from segops.predict.bundle import TORCH
from segops.release.exports import AUTO, quickest
from segops.runtime.errors import SegopsError, TransientError
from segops.words import first_line

POLL_SECONDS = 1.5


class ChangingError(SegopsError):
    """Another process is making this version champion; it is served once that is done."""


class Followed:
    """A registered model that is served.

    Args:
        key: Its key at the server.
        uri: ``models:/NAME@ALIAS`` or ``models:/NAME/VERSION``.
        runtime: `torch`, the form of an export that the gate offers, or `auto`: of these the
            quickest for each version.
        on_cpu: Whether CPUs predict; where GPUs do, `auto` is torch.
        root: The workspace.
        place: Directory for what is fetched; the server removes what it does not use any more.
    """

    def __init__(
        self, key: str, uri: str, runtime: str, on_cpu: bool, root: Path, place: Path
    ) -> None:
        self.key, self._uri, self._runtime, self._on_cpu = key, uri, runtime, on_cpu
        self._root, self._place = root, place
        self._served = ""

    def look(self) -> dict[str, Any] | None:
        """Return the model where it is another than before and may be served, else None.

        Beside it stand `runtime`, and `why` it is this one; empty where the user chose it.

        Raises:
            ChangingError: It is not champion yet.
            SegopsError: It must not be served.
            TransientError: The registry does not answer.
        """
        from segops.params.file import load_params
        from segops.record.artifact import ArtifactError
        from segops.record.tracking import session
        from segops.release import resolve, versions

        with session(self._root, load_params(self._root).registry, create=False) as store:
            name, version = resolve.find_version(store, self._uri)
            if version.number == self._served:
                return None
            alias = resolve.parsed(self._uri)["alias"]
            told = _told(store, self._root, name, version, alias == versions.CHAMPION)
            runtime, why = self._chosen(store, name, version)
        uri = f"models:/{name}/{version.number}"
        try:
            directory = self._fetch(uri, told["digest"], runtime)
            if self._runtime == AUTO and runtime != TORCH:
                require_opening(directory)
        except ArtifactError as error:
            if self._runtime != AUTO or runtime == TORCH:
                raise
            runtime, why = TORCH, str(error).rstrip(".")
            directory = self._fetch(uri, told["digest"], runtime)
        self._served = version.number
        news = {"key": self.key, "directory": str(directory), "told": told}
        return {**news, "runtime": runtime, "why": why}

    def _chosen(self, store: Any, name: str, version: Any) -> tuple[str, str]:
        """Return the runtime of a version, and the reason; empty where the user chose it."""
        if self._runtime != AUTO:
            return self._runtime, ""
        if not self._on_cpu:
            return TORCH, "a GPU predicts, and exports run on the CPU"
        from segops.export.make import usable
        from segops.release.resolve import decided_on

        return quickest(decided_on(store, self._root, name, version), usable())

    def _fetch(self, uri: str, digest: str, runtime: str) -> Path:
        """Copy a version whose digest is checked: MLflow's copy may be cleaned up.

        Raises:
            SegopsError: The registry names another digest than the one that the ledger vouches for.
        """
        from segops.release.resolve import resolved_version

        with resolved_version(uri, self._root, runtime) as (found, version):
            if version is None or version.bundle_digest != digest:
                raise SegopsError(f"{uri}: its digest in the registry changed while it was read.")
            # The processes of this server before may have fetched the same version.
            target = Path(tempfile.mkdtemp(prefix=f"{self.key}-", dir=self._place))
            try:
                shutil.copytree(found, target, dirs_exist_ok=True)
            except BaseException:
                shutil.rmtree(target, ignore_errors=True)
                raise
        return target


def require_opening(directory: Path) -> None:
    """Check that an export can be opened here; remove the copy of one that cannot.

    Raises:
        ArtifactError: It cannot: its library is too old, for instance.
    """
    from segops.predict.bundle import load_bundle
    from segops.record.artifact import ArtifactError

    try:
        load_bundle(directory, "cpu", threads=1)
    except Exception as error:
        shutil.rmtree(directory)
        raise ArtifactError(f"its export cannot be opened: {first_line(error)}") from error


def _told(store: Any, root: Path, name: str, version: Any, is_champion: bool) -> dict[str, Any]:
    """Return what `GET /model` tells of a version that the ledger vouches for.

    Raises:
        ChangingError: The ledger does not say yet that it was made champion.
        SegopsError: The ledger says nothing of this artifact as a champion, or was tampered with.
    """
    from segops.release import releases, vouched
    from segops.release.ledger import Ledger

    ledger = Ledger(store, root, name)
    entries = ledger.entries()
    history = releases.read(entries)
    released = history.digests.get(version.number)
    pending = history.pending
    is_pending = pending is not None and pending.version == version.number
    if is_champion and released is None and is_pending:
        raise ChangingError(f"{name} version {version.number} is being made champion.")
    if (is_champion or released is not None) and released != version.bundle_digest:
        which = "another artifact" if released else "no such champion"
        raise SegopsError(
            f"{name} version {version.number}: the ledger names {which}, so it is not served. "
            "`segops audit` says more."
        )
    registered = store.client.get_model_version(name, version.number)
    return {
        "name": name,
        "version": version.number,
        "digest": version.bundle_digest,
        "card": registered.description or "",
        "lineage": dict(version.tags),
        "lineage_doubt": vouched.why_not(ledger, version),
    }


def follow(request: dict[str, Any], out: IO[str], stop: IO[Any]) -> None:
    """Write a line for every model that is to be served, until `stop` is closed.

    Args:
        request: `root`, `place`, `runtime`, `on_cpu`, and `models`, key -> URI.
        out: Gets the lines.
        stop: Standard input.
    """
    root, place = Path(request["root"]), Path(request["place"])
    models, how = request["models"], (request["runtime"], request["on_cpu"])
    followed = [Followed(key, uri, *how, root, place) for key, uri in models.items()]
    said: dict[str, str] = {}
    while True:
        for one in followed:
            for line in _news(one, said):
                print(json.dumps(line), file=out, flush=True)
        gc.enable()  # the first look has imported all
        if not any("@" in uri for uri in models.values()) and not said:
            return
        if select.select([stop], [], [], POLL_SECONDS)[0]:
            return


def _news(one: Followed, said: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a line where there is news of a model; the same trouble is told once."""
    try:
        found = one.look()
    except ChangingError as error:
        if said.get(one.key) != str(error):
            said[one.key] = str(error)
            yield {"key": one.key, "waiting": str(error)}
    except Exception as error:
        text = str(error) if isinstance(error, SegopsError) else f"{type(error).__name__}: {error}"
        if said.get(one.key) != text:
            said[one.key] = text
            transient = not isinstance(error, SegopsError) or _may_pass(error)
            yield {"key": one.key, "error": text, "transient": transient}
    else:
        said.pop(one.key, None)
        if found is not None:
            yield found


def _may_pass(error: SegopsError) -> bool:
    """Whether it is the registry that is away, and no fault of a model."""
    from segops.record.tracking import NoRecordError

    return isinstance(error, TransientError | NoRecordError)


def main() -> None:
    """Follow what standard input asks for; lines go to standard output, the log to the other."""
    gc.disable()  # collections during imports cost time and free little
    out = to_parent()
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    if logs.wants_json():
        logs.use_json()
    # Unbuffered, so that select sees what was not read.
    with os.fdopen(0, "rb", buffering=0) as stop:
        line = b""
        while not line.endswith(b"\n"):
            if not (more := stop.read(1)):
                return
            line += more
        follow(json.loads(line), out, stop)


if __name__ == "__main__":
    main()

"""Brings the models to the workers: at the start, and whenever the registry names another."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import tempfile
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from segops.children import child_environment
from segops.params.file import load_params
from segops.predict.bundle import TORCH, bundle_digest, read_bundle, read_model, runtime_of
from segops.release.exports import AUTO
from segops.release.resolve import resolved
from segops.runtime.bands import channels_of
from segops.runtime.classes import Classes
from segops.runtime.errors import SegopsError
from segops.serve import process
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool, Source
from segops.serve.settings import Settings
from segops.serve.wanted import legend

RESTART_SECONDS = 5.0
LONGEST_LINE = 1 << 24
"""Bytes of a line of the registry's process; a model card is a few thousand."""
log = logging.getLogger("segops")


class Serving:
    """Keeps the pool's models those that the settings name.

    Args:
        settings: How to serve.
        pool: Predicts.
        metrics: Counts changes.
        place: Directory for copies of the models, from which workers open them.
    """

    def __init__(self, settings: Settings, pool: Pool, metrics: Metrics, place: Path) -> None:
        self._settings, self._pool, self._metrics, self._place = settings, pool, metrics, place
        self._found: dict[str, Source] = {}
        self._copies: set[str] = set()

    async def run(self) -> None:
        """Serve the models, then follow the registry until cancelled.

        Raises:
            SegopsError: The first models cannot be served.
        """
        await self._pool.prepare()
        registered = {}
        for key, model in self._settings.models.items():
            if model.startswith("models:"):
                registered[key] = model
            else:
                self._found[key] = await asyncio.to_thread(local_source, Path(model), self._place)
        if not registered:
            await self._take_over()
            return
        while True:
            why = "it ended"
            try:
                async with self._registry(registered) as lines:
                    async for line in lines:
                        await self._hear(json.loads(line))
            except (OSError, ValueError) as error:  # of the process, of a worker, or of a line
                why = f"{type(error).__name__}: {error}"
            if self._pool.models and not any("@" in uri for uri in registered.values()):
                return
            log.error("The process that follows the registry is started again: %s.", why)
            await asyncio.sleep(RESTART_SECONDS)

    async def _hear(self, news: dict[str, Any]) -> None:
        key = news["key"]
        if "waiting" in news:
            log.info("%s It is served once that is done.", news["waiting"])
            return
        if "error" in news:
            if not self._pool.models:
                raise SegopsError(news["error"])
            if not news["transient"]:
                self._metrics.changes.labels("refused").inc()
            log.warning("%s The model stays as it is.", news["error"])
            return
        directory, told = Path(news["directory"]), news["told"]
        self._copies.add(str(directory))
        held = self._pool.models.get(key)
        try:
            found = await asyncio.to_thread(_source, directory, told)
            if held is not None and held.digest == found.digest and held.told == found.told:
                return
            self._found[key] = found
            if news.get("why"):
                name, number = told["name"], told["version"]
                words = "%s version %s will be served by %s: %s."
                log.info(words, name, number, news["runtime"], news["why"])
            if self._found.keys() == self._settings.models.keys():  # else one is still to come
                await self._take_over()
        except OSError:
            raise  # this machine lacks something; the model is no worse for it
        except Exception as error:
            name = f"{told['name']} version {told['version']}"
            text = str(error) if isinstance(error, SegopsError) else _unexpected(error)
            if not self._pool.models:
                raise SegopsError(f"{name} cannot be served: {text}") from error
            self._metrics.changes.labels("refused").inc()
            log.error("%s is not served: %s The model before stays.", name, text)
        finally:
            self._tidy()

    def _tidy(self) -> None:
        """Remove the copies of models that are neither served nor about to be."""
        if self._pool.models:
            self._found = dict(self._pool.models)
        used = {source.directory for source in self._found.values()}
        for directory in self._copies - used:
            shutil.rmtree(directory, ignore_errors=True)
        self._copies &= used

    async def _take_over(self) -> None:
        models = {key: self._found[key] for key in self._settings.models}
        await self._pool.serve(models)
        self._metrics.changes.labels("taken").inc()
        for key, source in models.items():
            told = source.told
            log.info(
                "Serving %s %s (%s).", told["name"], told["version"] or told["digest"][:12], key
            )

    @asynccontextmanager
    async def _registry(self, models: Mapping[str, str]) -> AsyncIterator[asyncio.StreamReader]:
        """Run the process that follows the registry; yield its lines."""
        assert self._settings.root is not None
        child = await process.start(
            "segops.serve.registry", stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE, env=child_environment(), limit=LONGEST_LINE,
        )  # fmt: skip
        assert child.stdin is not None
        assert child.stdout is not None
        request = {
            "root": str(self._settings.root.resolve()),
            "place": str(self._place),
            "runtime": self._settings.runtime,
            "on_cpu": self._settings.on_cpu,
            "models": dict(models),
        }
        try:
            child.stdin.write(json.dumps(request).encode() + b"\n")
            await child.stdin.drain()
            yield child.stdout
        finally:
            if child.returncode is None:
                child.kill()
            await child.wait()


def library(settings: Settings) -> str:
    """Return what workers import at once: `torch` where a model runs by it, else `none`.

    Where the runtime of a registered model is chosen with the model, it is `torch` if the runs of
    the workspace make no exports: a worker imports it later too, where it must.

    Raises:
        SegopsError: A directory holds no model, or one of another runtime than is asked for; the
            parameters of the workspace are not valid.
    """
    registered: str = settings.runtime
    if registered == AUTO:
        has_exports = settings.root is not None and load_params(settings.root).export.formats
        registered = "onnx" if has_exports and settings.on_cpu else TORCH
    own = TORCH if settings.runtime == AUTO else settings.runtime
    runtimes: list[str] = []
    for model in settings.models.values():
        if model.startswith("models:"):
            runtimes.append(registered)
        else:
            with resolved(model, Path(), own) as directory:
                runtimes.append(runtime_of(read_model(directory)))
    return TORCH if TORCH in runtimes else "none"


def local_source(directory: Path, place: Path) -> Source:
    """Return the model of a directory, copied to `place`; it is in no registry.

    Workers open it whenever one starts again, so a change of the directory must not reach them.

    Raises:
        SegopsError: There is none.
    """
    copy = Path(tempfile.mkdtemp(dir=place))
    shutil.copytree(directory, copy, dirs_exist_ok=True)
    told: dict[str, Any] = {
        "name": directory.resolve().name,
        "version": None,
        "digest": bundle_digest(copy),
        "card": "",
        "lineage": {},
        "lineage_doubt": "it was not taken from a registry",
    }
    return _source(copy, told)


def _unexpected(error: Exception) -> str:
    return f"{type(error).__name__}: {error}."


def _source(directory: Path, told: Mapping[str, Any]) -> Source:
    """Return what is served of a directory.

    Raises:
        SegopsError: It holds no model that this segops understands, or another artifact than `told`
            says.
    """
    held = read_bundle(directory)
    model, digest = held.model, held.digest
    # An export has a digest of its own beside that of its version.
    if runtime_of(model) == TORCH and digest != told["digest"]:
        raise SegopsError(f"The artifact has the digest {digest}; expected {told['digest']}.")
    classes = Classes.of_model(model)
    more = {
        "classes": legend(classes),
        "background": classes.background_name,
        "channels": channels_of(model),
        "runtime": runtime_of(model),
        "settings": model.get("predict") or {},
    }
    return Source(str(directory), digest, {**told, **more})

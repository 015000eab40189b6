"""Resolves references to several models, each to its bundle and a name to show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from mlflow.entities import Run

from segops import files, paths
from segops.params.file import load_params
from segops.predict.bundle import read_bundle, size
from segops.record import artifact
from segops.record.tracking import Store, session
from segops.release import versions
from segops.release.resolve import find_version, parsed
from segops.report.model_facts import network_words
from segops.runtime import opener
from segops.runtime.errors import SegopsError
from segops.words import MIB

WORKSPACE = "workspace"
"""Reference to the workspace's own model."""
LATEST = 5
RUN_ID = re.compile(r"[0-9a-f]{4,32}")
EXPECTED = (
    "Expected a run's id, the beginning of one or a run's name, models:/NAME/VERSION, "
    "models:/NAME@ALIAS, a bundle's directory, or `workspace`."
)


@dataclass(frozen=True)
class NamedModel:
    """A model to compare.

    Attributes:
        name: The name to show.
        bundle: Its bundle.
        bundle_digest: SHA-256 of the bundle, computed from its files.
        class_names: Its classes in id order.
        described: Content of its ``model.json``.
        about: Its network in words.
        mib: Size of its files, MiB.
    """

    name: str
    bundle: Path
    bundle_digest: str
    class_names: tuple[str, ...]
    described: Mapping[str, Any]
    about: str
    mib: float


@contextmanager
def open_models(references: Sequence[str], root: Path) -> Iterator[list[NamedModel]]:
    """Yield the models with their bundles; bundles from MLflow have their digest checked.

    MLflow is asked only where a reference is not a directory.

    Args:
        references: Run ids, beginnings of run ids (four characters or more), run names,
            ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, bundles' directories, or `workspace`.
        root: The workspace.

    Raises:
        SegopsError: A reference names no model or several runs, or the artifact was changed after
            it was recorded.
        TransientError: MLflow does not answer.
    """
    local = {reference: _local(reference, root) for reference in references}
    remote = [reference for reference in references if local[reference] is None]
    models = {
        reference: _named_model(reference, bundle)
        for reference, bundle in local.items()
        if bundle is not None
    }
    with files.scratch() as scratch:
        if remote:
            settings = load_params(root).registry
            with session(root, settings, create=False) as store:
                for number, reference in enumerate(remote):
                    target = scratch / str(number)
                    name, bundle = _fetched(store, reference, settings.model, target)
                    models[reference] = _named_model(name, bundle)
        yield _with_unique_names([models[reference] for reference in references], references)


def _named_model(name: str, bundle: Path) -> NamedModel:
    held = read_bundle(bundle)
    described = held.model
    return NamedModel(
        name=name,
        bundle=bundle,
        bundle_digest=held.digest,
        class_names=tuple(described["class_names"]),
        described=described,
        about=network_words(described),
        mib=size(held) / MIB,
    )


def _with_unique_names(models: list[NamedModel], references: Sequence[str]) -> list[NamedModel]:
    """Append its reference to every name that several models have."""
    times = Counter(model.name for model in models)
    return [
        model if times[model.name] == 1 else replace(model, name=f"{model.name} ({reference})")
        for model, reference in zip(models, references, strict=True)
    ]


def _local(reference: str, root: Path) -> Path | None:
    """Return the bundle's directory, or None where MLflow must resolve the reference."""
    if reference.startswith("models:"):
        parsed(reference)
        return None
    directory = root / paths.SEGMENTER if reference == WORKSPACE else Path(reference)
    if (directory / opener.MODEL).is_file():
        return directory.resolve()
    if reference == WORKSPACE:
        raise SegopsError(f"{directory}: no trained model here. `segops run` trains one.")
    if "/" in reference or reference.startswith("."):
        raise SegopsError(f"{reference}: no bundle there (it lacks {opener.MODEL}). {EXPECTED}")
    return None


def _fetched(store: Store, reference: str, model: str, target: Path) -> tuple[str, Path]:
    """Return name and bundle of a version or a run."""
    if reference.startswith("models:"):
        registered, version = find_version(store, reference)
        bundle = artifact.checked_bundle(
            store, registered, version.number, version.bundle_digest, target
        )
        name = f"version {version.number}"
        if registered != model:
            name = f"{registered} {name}"
        aliases = versions.aliases(store, registered)
        own = ", ".join(alias for alias, number in aliases.items() if number == version.number)
        return f"{name} ({own})" if own else name, bundle
    run = _run(store, reference)
    logged = artifact.of_run(store, run)
    if logged is None:
        raise SegopsError(
            f"{reference}: run {_shown(run)} holds no segops model; its training has not ended, "
            f"or it was not recorded. {_latest(store)}"
        )
    return str(run.info.run_name), artifact.fetch_logged(store, logged, target)


def _run(store: Store, reference: str) -> Run:
    """Return the run with this name or with an id that begins like this."""
    filters = []
    if RUN_ID.fullmatch(reference):
        filters.append(f"attributes.run_id LIKE '{reference}%'")
    quote = '"' if "'" in reference else "'"
    if quote not in reference:
        filters.append(f"attributes.run_name = {quote}{reference}{quote}")
    runs = {
        run.info.run_id: run
        for condition in filters
        for run in store.client.search_runs(_experiments(store), condition)
    }
    if reference in runs:
        return runs[reference]
    if not runs:
        raise SegopsError(f"{reference}: no such run. {EXPECTED} {_latest(store)}")
    if len(runs) > 1:
        which = "; ".join(_shown(run) for run in runs.values())
        raise SegopsError(f"{reference}: several runs match: {which}. Give more of the id.")
    return next(iter(runs.values()))


def _experiments(store: Store) -> list[str]:
    """Return the experiments to search; none while the experiment does not exist."""
    return [store.experiment_id] if store.experiment_id else []


def _latest(store: Store) -> str:
    runs = store.client.search_runs(
        _experiments(store), order_by=["attributes.start_time DESC"], max_results=LATEST
    )
    if not runs:
        return "There are no runs yet."
    return f"The latest runs: {'; '.join(_shown(run) for run in runs)}."


def _shown(run: Run) -> str:
    began = datetime.fromtimestamp(run.info.start_time / 1000).strftime("%Y-%m-%d %H:%M")
    return f"{run.info.run_id[:8]} ({run.info.run_name}, {began})"

"""From what a person calls several models to their bundles, each with a name to show."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from tempfile import TemporaryDirectory

from mlflow.entities import Run
from mlflow.exceptions import MlflowException

from segops import files, paths
from segops.params.file import load_params
from segops.predict.bundle import bundle_digest
from segops.record import artifact
from segops.record.tracking import Store, is_missing, session
from segops.release import versions
from segops.release.resolve import find_version, parsed
from segops.report.model_facts import network_words
from segops.runtime import opener
from segops.runtime.errors import SegopsError

WORKSPACE = "workspace"
"""What the workspace's own model is called."""
LATEST = 5
RUN_ID = re.compile(r"[0-9a-f]{4,32}")
EXPECTED = (
    "Expected a run's id, the beginning of one or a run's name, models:/NAME/VERSION, "
    "models:/NAME@ALIAS, a bundle's directory, or `workspace`."
)


@dataclass(frozen=True)
class Contender:
    """A model that is to be compared.

    Attributes:
        name: What people call it.
        bundle: Its bundle.
        bundle_digest: SHA-256 of it, computed from its files.
        class_names: Its classes in id order.
        trained_on: SHA-256 of the images that had a part in its training.
        about: Its network in words.
    """

    name: str
    bundle: Path
    bundle_digest: str
    class_names: tuple[str, ...]
    trained_on: frozenset[str]
    about: str


@contextmanager
def contenders(references: Sequence[str], root: Path) -> Iterator[list[Contender]]:
    """Lead to models' bundles; what comes from MLflow has its digest checked first.

    MLflow is asked only where a reference is not a directory.

    Args:
        references: Run ids, beginnings of such (four characters or more), run names,
            ``models:/NAME/VERSION``, ``models:/NAME@ALIAS``, bundles' directories, or `workspace`.
        root: The workspace.

    Raises:
        SegopsError: One of them leads to no model or to several runs, or its artifact was changed
            since it was recorded.
        TransientError: MLflow does not answer.
    """
    local = {one: _local(one, root) for one in references}
    remote = [one for one in references if local[one] is None]
    found = {one: _contender(one, bundle) for one, bundle in local.items() if bundle is not None}
    with TemporaryDirectory(prefix="segops-") as scratch:
        if remote:
            settings = load_params(root).registry
            with session(root, settings, create=False) as store:
                for number, one in enumerate(remote):
                    target = Path(scratch) / str(number)
                    name, bundle = _fetched(store, one, settings.model, target)
                    found[one] = _contender(name, bundle)
        yield _told_apart([found[one] for one in references], references)


def _contender(name: str, bundle: Path) -> Contender:
    described = files.read_json(bundle / opener.MODEL)
    return Contender(
        name=name,
        bundle=bundle,
        bundle_digest=bundle_digest(bundle),
        class_names=tuple(described["class_names"]),
        trained_on=frozenset(described["training_images"].values()),
        about=network_words(described),
    )


def _told_apart(found: list[Contender], references: Sequence[str]) -> list[Contender]:
    """The same, but none has the name of another: such are followed by what the person typed."""
    times = Counter(one.name for one in found)
    return [
        one if times[one.name] == 1 else replace(one, name=f"{one.name} ({reference})")
        for one, reference in zip(found, references, strict=True)
    ]


def _local(reference: str, root: Path) -> Path | None:
    """The bundle's directory, or None where a reference is for MLflow to know."""
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
    """Name and bundle of a version or a run."""
    if reference.startswith("models:"):
        registered, version = _version(store, reference)
        bundle = artifact.checked_bundle(
            store, registered, version.number, version.bundle_digest, target
        )
        name = f"version {version.number}"
        if registered != model:
            name = f"{registered} {name}"
        aliases = versions.aliases(store, registered)
        bears = ", ".join(one for one, number in aliases.items() if number == version.number)
        return f"{name} ({bears})" if bears else name, bundle
    run = _run(store, reference)
    logged = artifact.of_run(store, run)
    if logged is None:
        raise SegopsError(
            f"{reference}: run {_shown(run)} holds no model of segops; its training has not ended, "
            f"or it was not recorded. {_latest(store)}"
        )
    return str(run.info.run_name), artifact.fetch_logged(store, logged, target)


def _version(store: Store, uri: str) -> tuple[str, versions.Version]:
    try:
        return find_version(store, uri)
    except MlflowException as error:
        if is_missing(error):
            raise SegopsError(
                f"{uri}: there is no such version. `segops status` shows what there is."
            ) from None
        raise


def _run(store: Store, reference: str) -> Run:
    """The run with this name, or whose id begins like this."""
    filters = []
    if RUN_ID.fullmatch(reference):
        filters.append(f"attributes.run_id LIKE '{reference}%'")
    quote = '"' if "'" in reference else "'"
    if quote not in reference:
        filters.append(f"attributes.run_name = {quote}{reference}{quote}")
    found = {
        run.info.run_id: run
        for condition in filters
        for run in store.client.search_runs(_experiments(store), condition)
    }
    if reference in found:
        return found[reference]
    if not found:
        raise SegopsError(f"{reference}: no such run. {EXPECTED} {_latest(store)}")
    if len(found) > 1:
        which = "; ".join(_shown(run) for run in found.values())
        raise SegopsError(f"{reference}: several runs are meant: {which}. Give more of the id.")
    return next(iter(found.values()))


def _experiments(store: Store) -> list[str]:
    """The experiments to look for runs in: MLflow finds none in no experiment."""
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

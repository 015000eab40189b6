"""Finds what the record holds for no version that is named, and removes it."""

from __future__ import annotations

import json
import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow.entities import LifecycleStage, LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException

from segops.record import leftovers
from segops.record.artifact import DIGEST
from segops.record.lineage import START_FIELD, tag
from segops.record.moved import ARTIFACTS
from segops.record.pretraining import ENCODER
from segops.record.runs import WEIGHTS, is_training
from segops.record.tracking import LOCAL, Store, is_missing
from segops.release.named import NEEDED, PIN, Held

RUN = re.compile("[0-9a-f]{32}")
MODEL = re.compile("m-[0-9a-f]{32}")
PAGE = 1000
VERSIONS_OF_MODEL = "mlflow.modelVersions"
"""Tag of a logged model with the versions that were registered of it, as JSON; MLflow sets it."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Unnamed:
    """A run, or a model of a run, that no version needs; with versions that nothing names.

    Attributes:
        name: What people call it.
        versions: Names of the versions that go with it.
        time: When its last part was made, in seconds since 1970.
        directories: Its files in the embedded record.
        served: The size of its files behind a server, in bytes.
        remove: Removes it. A process that is killed meanwhile leaves the rest to be found again.
    """

    name: str
    versions: tuple[str, ...]
    time: float
    directories: tuple[Path, ...]
    served: int
    remove: Callable[[], bool]


@dataclass(frozen=True)
class Scope:
    """Where to look, and what else counts as needed.

    Attributes:
        home: The main checkout.
        experiments: Names of the experiments of a server's record that are this checkout's; all of
            the embedded record are.
        weights: SHA-256 of the weights in workspaces, of models and of pretrained encoders, whose
            runs stay.
        since: Time in seconds since 1970. What is younger may be registered or named next: what it
            was made from stays, and on a server it stays itself.
    """

    home: Path
    experiments: Collection[str]
    weights: Collection[str]
    since: float


def find(
    store: Store, scope: Scope, versions: Sequence[Held], kept: Collection[str]
) -> Iterator[Unnamed]:
    """Yield what nothing names; runs without files stay.

    The caller holds the locks `record` and `registry` where it removes what it gets. Other machines
    know nothing of these locks, nor this one of their workspaces. So of a server's record stay what
    is young, the runs of pretrainings, what versions that this user cannot read may need, and runs
    whose files the server does not hand out.

    Args:
        store: The record.
        scope: Where to look.
        versions: All versions of all models.
        kept: Names of those that stay, as :func:`name_of` returns them.

    Raises:
        MlflowException: MLflow does not answer, or refuses the list of its files.
    """
    embedded = store.identity == LOCAL
    ids = [
        one.experiment_id
        for one in store.client.search_experiments(view_type=ViewType.ALL)
        if embedded or one.name in scope.experiments
    ]
    if not ids:
        return
    runs = {one.info.run_id: one for one in _runs(store, ids)}
    models = {one.model_id: one for one in _models(store, ids)}
    # A run in a workspace may be registered next; one that trains writes.
    present = {
        number
        for number, run in runs.items()
        if not {run.data.tags.get(WEIGHTS), run.data.tags.get(ENCODER)}.isdisjoint(scope.weights)
    }
    young = {number for number, run in runs.items() if _ended(run) > scope.since}
    training = {number for number, run in runs.items() if is_training(run)}
    tags: list[Mapping[str, str]] = [runs[one].data.tags for one in present | young | training]
    tags += [one.version.tags for one in versions if one.created > scope.since]
    staying = _with_needed(versions, kept, tags)
    leaving = [one for one in versions if name_of(one) not in staying]
    # A model cannot be made again without the encoder that it started from.
    tags += [one.version.tags for one in versions if name_of(one) in staying]
    starts = {one[tag(START_FIELD)] for one in tags if tag(START_FIELD) in one}
    present |= {number for number, run in runs.items() if run.data.tags.get(ENCODER) in starts}
    others = {
        number
        for number, run in runs.items()
        if not _is_ours(run)
        or not (embedded or leftovers.is_served(store, run.info.artifact_uri))
        or not (embedded or ENCODER not in run.data.tags)
    }
    kept_runs = {one.version.run_id for one in versions if name_of(one) in staying}
    kept_runs |= present | training
    of_versions = _models_of(versions)
    kept_models = {found for name in staying for found in of_versions.get(name, ())}
    case = _Case(store, scope.home / ARTIFACTS if embedded else None, runs, models, versions)
    for model_id, model in models.items():
        run = model.source_run_id or ""
        if run in kept_runs - present - training - others and model_id not in kept_models:
            found = [one for one in leaving if model_id in of_versions[name_of(one)]]
            if not found and DIGEST not in model.tags:  # somebody else's
                continue
            yield from case.unnamed(f"model {model_id}", None, [model_id], found, scope.since)
    by_run: dict[str, list[str]] = {number: [] for number in runs}
    for model_id, model in models.items():
        by_run.setdefault(model.source_run_id or "", []).append(model_id)
    for run_id in (*runs, *(one for one in case.on_disk(RUN) if one not in runs)):
        its_models = by_run.get(run_id, [])
        if run_id not in kept_runs | others and kept_models.isdisjoint(its_models):
            found = [one for one in leaving if one.version.run_id == run_id]
            yield from case.unnamed(f"run {run_id}", run_id, its_models, found, scope.since)
    for model_id in case.on_disk(MODEL):
        if model_id not in models and model_id not in kept_models:
            yield from case.unnamed(f"model {model_id}", None, [model_id], [], scope.since)


def _with_needed(
    versions: Sequence[Held], kept: Collection[str], tags: Sequence[Mapping[str, str]]
) -> set[str]:
    """Return the names of kept versions, and of those from which they, or `tags`, were made."""
    staying, before = set(kept), -1
    while len(staying) > before:
        before = len(staying)
        made = [*tags, *(one.version.tags for one in versions if name_of(one) in staying)]
        digests = {one[tag(field)] for one in made for field in NEEDED if tag(field) in one}
        staying |= {
            name_of(one)
            for one in versions
            if not digests.isdisjoint({one.version.weights, one.version.bundle_digest})
        }
    return staying


def _models_of(versions: Sequence[Held]) -> dict[str, list[str]]:
    """Return the ids of the models of each version, by its name.

    MLflow's search leaves them out; the address holds it, or names the version of which this one is
    a copy.
    """
    sources = {f"models:/{one.model}/{one.version.number}": one.source for one in versions}
    found = {}
    for one in versions:
        source, met = one.source, set[str]()
        while source in sources and source not in met:
            met.add(source)
            source = sources[source]
        found[name_of(one)] = MODEL.findall(source)
    return found


def _is_ours(run: Run) -> bool:
    """Whether segops made a run; other people's runs in the same database stay."""
    return any(name.startswith(tag("")) for name in run.data.tags)


def name_of(held: Held) -> str:
    """Return what people call a version."""
    return f"{held.model} version {held.version.number}"


def _ended(run: Run) -> float:
    """Return when a run ended, or began, in seconds since 1970."""
    return (run.info.end_time or run.info.start_time or 0) / 1000


@dataclass(frozen=True)
class _Case:
    store: Store
    artifacts: Path | None
    runs: dict[str, Run]
    models: dict[str, LoggedModel]
    versions: Sequence[Held]

    def on_disk(self, name: re.Pattern[str]) -> list[str]:
        """Return the directories of runs, or of models, that are in the embedded record."""
        if self.artifacts is None:
            return []
        place = self.artifacts / "models" if name is MODEL else self.artifacts
        held = place.iterdir() if place.is_dir() else ()
        return sorted(one.name for one in held if name.fullmatch(one.name) and one.is_dir())

    def unnamed(
        self,
        name: str,
        run_id: str | None,
        model_ids: Sequence[str],
        found: Sequence[Held],
        since: float,
    ) -> Iterator[Unnamed]:
        """Yield what removes a run, models and versions, unless there is nothing to remove.

        Of a server's record, what is younger than `since` is left out, and what others need.
        """
        run = self.runs.get(run_id or "")
        models = [self.models[one] for one in model_ids if one in self.models]
        directories = tuple(self._directories(run_id, model_ids))
        times = [one.created for one in found]
        times += [one.creation_timestamp / 1000 for one in models]
        if run is not None:
            times.append(_ended(run))
        if not times:
            times = [place.stat().st_mtime for place in directories]
        time = max(times, default=0.0)
        if self.artifacts is None and (time > since or self._is_named_elsewhere(models)):
            return
        addresses = self._addresses(run, models, found)
        if not all(leftovers.is_served(self.store, one) for one in addresses):
            return
        served = sum(leftovers.served_bytes(self.store, one) for one in addresses)
        if directories or served or found or models:
            names = tuple(map(name_of, found))
            shown = f"{name} ({', '.join(names)})" if names else name
            remove = partial(self._remove, run, models, found, directories, addresses)
            yield Unnamed(shown, names, time, directories, served, remove)

    def _is_named_elsewhere(self, models: Sequence[LoggedModel]) -> bool:
        """Whether a version that is not among those read, for want of a permission, has a model."""
        known = {(one.model, one.version.number) for one in self.versions}
        for model in models:
            for one in json.loads(model.tags.get(VERSIONS_OF_MODEL) or "[]"):
                name, number = str(one["name"]), str(one["version"])
                if (name, number) not in known:
                    with _gone():
                        try:
                            self.store.client.get_model_version(name, number)
                        except MlflowException as error:
                            if is_missing(error):
                                raise
                        return True
        return False

    def _directories(self, run_id: str | None, model_ids: Sequence[str]) -> Iterator[Path]:
        if self.artifacts is not None:
            places = [self.artifacts / "models" / one for one in model_ids]
            places += [self.artifacts / run_id] if run_id else []
            yield from (place for place in places if place.is_dir())

    def _addresses(
        self, run: Run | None, models: Sequence[LoggedModel], found: Sequence[Held]
    ) -> list[str]:
        """Return where a server keeps the files of models and run.

        Those of a deleted run without versions were looked at before, or are `mlflow gc`'s.
        """
        if self.artifacts is not None:
            return []
        addresses = [one.artifact_location for one in models]
        if run is not None and (found or run.info.lifecycle_stage == LifecycleStage.ACTIVE):
            addresses.append(run.info.artifact_uri)
        return addresses

    def _remove(
        self,
        run: Run | None,
        models: Sequence[LoggedModel],
        found: Sequence[Held],
        directories: Sequence[Path],
        addresses: Sequence[str],
    ) -> bool:
        """Remove versions, then files behind a server, and last the run and its models.

        Return False, and remove nothing, if another machine has named one since it was found.
        """
        client = self.store.client
        if self.artifacts is None and self._is_in_use_now(run, models, found):
            return False
        for one in found:
            with _gone():
                client.delete_model_version(one.model, one.version.number)
        for address in addresses:
            leftovers.delete_served(self.store, address)
        if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
            with _gone():
                client.delete_run(run.info.run_id)
        for model in models:
            with _gone():
                client.delete_logged_model(model.model_id)
        for directory in directories:
            shutil.rmtree(directory)
        return True

    def _is_in_use_now(
        self, run: Run | None, models: Sequence[LoggedModel], found: Sequence[Held]
    ) -> bool:
        """Whether a version has an alias or a pin by now, or a run new versions or models."""
        client = self.store.client
        runs = {one.version.run_id for one in found} | {one.source_run_id or "" for one in models}
        runs |= {run.info.run_id} if run is not None else set()
        before = {(one.model, one.version.number) for one in self.versions}
        named = {(one.model, one.version.number) for one in found}
        for run_id in filter(None, runs):
            for one in client.search_model_versions(f"run_id = '{run_id}'"):
                key = (one.name, str(one.version))
                now = client.get_model_version(*key) if key in named else one
                if key not in before or (key in named and (now.aliases or PIN in now.tags)):
                    log.warning("%s version %s has a name by now: it stays.", *key)
                    return True
        if run is not None:
            condition = f"source_run_id = '{run.info.run_id}'"
            held = client.search_logged_models([run.info.experiment_id], condition)
            if not {one.model_id for one in held} <= self.models.keys():
                log.warning("run %s has a new model: it stays.", run.info.run_id)
                return True
        return False


@contextmanager
def _gone() -> Iterator[None]:
    """Ignore MLflow's answer that something does not exist."""
    try:
        yield
    except MlflowException as error:
        if not is_missing(error):
            raise


def _runs(store: Store, experiments: list[str]) -> Iterator[Run]:
    token: str | None = None
    while True:
        page = store.client.search_runs(
            experiments, run_view_type=ViewType.ALL, max_results=PAGE, page_token=token
        )
        yield from page
        token = page.token
        if not token:
            return


def _models(store: Store, experiments: list[str]) -> Iterator[LoggedModel]:
    token: str | None = None
    while True:
        page = store.client.search_logged_models(experiments, max_results=100, page_token=token)
        yield from page
        token = page.token
        if not token:
            return

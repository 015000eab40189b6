"""Finds what the record holds for no version that is named, and removes it."""

from __future__ import annotations

import logging
import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mlflow.entities import LifecycleStage, LoggedModel, Run, ViewType
from mlflow.exceptions import MlflowException

from segops.record import leftovers
from segops.record.lineage import START_FIELD, tag
from segops.record.moved import ARTIFACTS
from segops.record.pretraining import ENCODER
from segops.record.runs import WEIGHTS, is_training
from segops.record.tracking import LOCAL, Store, is_missing
from segops.release.named import PIN, Held

RUN = re.compile("[0-9a-f]{32}")
MODEL = re.compile("m-[0-9a-f]{32}")
PAGE = 1000
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
    remove: Callable[[], None]


@dataclass(frozen=True)
class Scope:
    """Where to look, and what else counts as needed.

    Attributes:
        home: The main checkout.
        experiments: Names of the experiments of a server's record that are this checkout's; all of
            the embedded record are.
        weights: SHA-256 of the weights in workspaces, of models and of pretrained encoders, whose
            runs stay.
        since: Time in seconds since 1970. What runs and versions that are younger started from
            stays: they may be registered, or named, next.
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
    know nothing of these locks: of a server's record, the caller removes only what is older than an
    upload takes. Runs of a server that does not hand out their files stay, too.

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
    runs = {one.info.run_id: one for one in _runs(store, ids)}
    models = {one.model_id: one for one in _models(store, ids)}
    staying = [one for one in versions if name_of(one) in kept]
    leaving = [one for one in versions if name_of(one) not in kept]
    # MLflow's search leaves out the id of a version's model; the address holds it.
    kept_models = {found for one in staying for found in MODEL.findall(one.source)}
    # A run in a workspace may be registered next; one that trains writes.
    present = {
        number
        for number, run in runs.items()
        if not {run.data.tags.get(WEIGHTS), run.data.tags.get(ENCODER)}.isdisjoint(scope.weights)
    }
    # A model cannot be made again without the encoder that it started from.
    young = {number for number, run in runs.items() if _ended(run) > scope.since}
    tags = [one.version.tags for one in versions if one in staying or one.created > scope.since]
    tags += [runs[one].data.tags for one in present | young]
    starts = {one[tag(START_FIELD)] for one in tags if tag(START_FIELD) in one}
    present |= {number for number, run in runs.items() if run.data.tags.get(ENCODER) in starts}
    training = {number for number, run in runs.items() if is_training(run)}
    others = {
        number
        for number, run in runs.items()
        if not (_is_ours(run) and (embedded or leftovers.is_served(run.info.artifact_uri)))
    }
    kept_runs = {one.version.run_id for one in staying} | present | training
    case = _Case(store, scope.home / ARTIFACTS if embedded else None, runs, models)
    for model_id, model in models.items():
        run = model.source_run_id or ""
        if run in kept_runs - present - training - others and model_id not in kept_models:
            found = [one for one in leaving if model_id in MODEL.findall(one.source)]
            yield case.unnamed(f"model {model_id}", None, [model_id], found)
    by_run: dict[str, list[str]] = {number: [] for number in runs}
    for model_id, model in models.items():
        by_run.setdefault(model.source_run_id or "", []).append(model_id)
    for run_id in (*runs, *(one for one in case.on_disk(RUN) if one not in runs)):
        if run_id in kept_runs | others:
            continue
        found = [one for one in leaving if one.version.run_id == run_id]
        its_models = by_run.get(run_id, [])
        one = case.unnamed(f"run {run_id}", run_id, its_models, found)
        if one.directories or one.served or found or its_models:
            yield one
    for model_id in case.on_disk(MODEL):
        if model_id not in models and model_id not in kept_models:
            yield case.unnamed(f"model {model_id}", None, [model_id], [])


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

    def on_disk(self, name: re.Pattern[str]) -> list[str]:
        """Return the directories of runs, or of models, that are in the embedded record."""
        if self.artifacts is None:
            return []
        place = self.artifacts / "models" if name is MODEL else self.artifacts
        held = place.iterdir() if place.is_dir() else ()
        return sorted(one.name for one in held if name.fullmatch(one.name) and one.is_dir())

    def unnamed(
        self, name: str, run_id: str | None, model_ids: Sequence[str], versions: Sequence[Held]
    ) -> Unnamed:
        """Return what removes a run, models and versions."""
        run = self.runs.get(run_id or "")
        models = [self.models[one] for one in model_ids if one in self.models]
        directories = tuple(self._directories(run_id, model_ids))
        addresses = self._addresses(run, models)
        times = [one.created for one in versions]
        times += [one.creation_timestamp / 1000 for one in models]
        if run is not None:
            times.append(_ended(run))
        if not times:
            times = [place.stat().st_mtime for place in directories]
        names = tuple(map(name_of, versions))
        shown = f"{name} ({', '.join(names)})" if names else name
        return Unnamed(
            shown,
            names,
            max(times, default=0.0),
            directories,
            sum(leftovers.served_bytes(self.store, one) for one in addresses),
            partial(self._remove, run, models, versions, directories, addresses),
        )

    def _directories(self, run_id: str | None, model_ids: Sequence[str]) -> Iterator[Path]:
        if self.artifacts is not None:
            places = [self.artifacts / "models" / one for one in model_ids]
            places += [self.artifacts / run_id] if run_id else []
            yield from (place for place in places if place.is_dir())

    def _addresses(self, run: Run | None, models: Sequence[LoggedModel]) -> list[str]:
        """Return where a server keeps the files of what it has not deleted yet."""
        if self.artifacts is not None:
            return []
        found = [one.artifact_location for one in models]
        if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
            found.append(run.info.artifact_uri)
        return found

    def _remove(
        self,
        run: Run | None,
        models: Sequence[LoggedModel],
        versions: Sequence[Held],
        directories: Sequence[Path],
        addresses: Sequence[str],
    ) -> None:
        """Remove versions, files behind a server, and last the run and its models, that name it.

        What another machine has removed is gone; what it has named since then stays.
        """
        client = self.store.client
        for one in versions:
            with _gone():
                now = client.get_model_version(one.model, one.version.number)
                if now.aliases or PIN in now.tags:
                    log.warning("%s stays: it has an alias or a pin now.", name_of(one))
                    return
        for one in versions:
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


@contextmanager
def _gone() -> Iterator[None]:
    """Take what MLflow does not have any more for removed."""
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

"""Finds what the embedded record holds for no version that is named, and removes it."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlflow.entities import LifecycleStage, LoggedModel, Run, ViewType

from segops.record.lineage import START_FIELD, tag
from segops.record.moved import ARTIFACTS
from segops.record.pretraining import ENCODER
from segops.record.runs import WEIGHTS, is_training
from segops.record.tracking import Store
from segops.release.named import Held

RUN = re.compile("[0-9a-f]{32}")
MODEL = re.compile("m-[0-9a-f]{32}")
PAGE = 1000


@dataclass(frozen=True)
class Unnamed:
    """A run, or a model of a run, that no version needs; with versions that nothing names.

    Attributes:
        name: What people call it.
        versions: Names of the versions that go with it.
        time: When its last part was made, in seconds since 1970.
        directories: Its files.
        remove: Removes it. A process that is killed meanwhile leaves the rest to be found again.
    """

    name: str
    versions: tuple[str, ...]
    time: float
    directories: tuple[Path, ...]
    remove: Callable[[], None]


def find(
    store: Store,
    home: Path,
    versions: Sequence[Held],
    kept: Collection[str],
    weights: Collection[str],
) -> Iterator[Unnamed]:
    """Yield what nothing names in the embedded record; runs without files stay.

    The caller holds the locks `record` and `registry` where it removes what it gets.

    Args:
        store: The record.
        home: The main checkout.
        versions: All versions of all models.
        kept: Names of those that stay, as :func:`name_of` returns them.
        weights: SHA-256 of the weights in workspaces, of models and of pretrained encoders, whose
            runs stay too.
    """
    experiments = store.client.search_experiments(view_type=ViewType.ALL)
    ids = [one.experiment_id for one in experiments]
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
        if not {run.data.tags.get(WEIGHTS), run.data.tags.get(ENCODER)}.isdisjoint(weights)
    }
    # A model cannot be made again without the encoder that it started from.
    tags = (*(one.version.tags for one in staying), *(runs[one].data.tags for one in present))
    starts = {one[tag(START_FIELD)] for one in tags if tag(START_FIELD) in one}
    present |= {number for number, run in runs.items() if run.data.tags.get(ENCODER) in starts}
    training = {number for number, run in runs.items() if is_training(run)}
    others = {number for number, run in runs.items() if not _is_ours(run)}
    kept_runs = {one.version.run_id for one in staying} | present | training
    case = _Case(store, home / ARTIFACTS, runs, models)
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
        one = case.unnamed(f"run {run_id}", run_id, by_run.get(run_id, []), found)
        if one.directories or found:
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


@dataclass(frozen=True)
class _Case:
    store: Store
    artifacts: Path
    runs: dict[str, Run]
    models: dict[str, LoggedModel]

    def on_disk(self, name: re.Pattern[str]) -> list[str]:
        """Return the directories of runs, or of models, that are there."""
        place = self.artifacts / "models" if name is MODEL else self.artifacts
        held = place.iterdir() if place.is_dir() else ()
        return sorted(one.name for one in held if name.fullmatch(one.name) and one.is_dir())

    def unnamed(
        self, name: str, run_id: str | None, model_ids: Sequence[str], versions: Sequence[Held]
    ) -> Unnamed:
        """Return what removes a run, models and versions: first what names the others."""
        client, run = self.store.client, self.runs.get(run_id or "")
        places = [self.artifacts / "models" / one for one in model_ids]
        places += [self.artifacts / run_id] if run_id else []
        directories = tuple(place for place in places if place.is_dir())

        def remove() -> None:
            for one in versions:
                client.delete_model_version(one.model, one.version.number)
            for model_id in model_ids:
                if model_id in self.models:
                    client.delete_logged_model(model_id)
            if run is not None and run.info.lifecycle_stage == LifecycleStage.ACTIVE:
                client.delete_run(run.info.run_id)
            for directory in directories:
                shutil.rmtree(directory)

        times = [one.created for one in versions]
        times += [
            self.models[one].creation_timestamp / 1000 for one in model_ids if one in self.models
        ]
        if run is not None:
            times.append((run.info.end_time or run.info.start_time or 0) / 1000)
        if not times:
            times = [place.stat().st_mtime for place in directories]
        names = tuple(map(name_of, versions))
        shown = f"{name} ({', '.join(names)})" if names else name
        return Unnamed(shown, names, max(times, default=0.0), directories, remove)


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

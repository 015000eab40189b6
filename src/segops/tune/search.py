"""Searches declared parameter ranges by trainings that are scored on the selection split."""

from __future__ import annotations

import gc
import logging
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import TrialState

from segops import paths
from segops.data.store import PackedStore
from segops.edit import Edit, plan, put
from segops.files import exclusive
from segops.params.file import Params
from segops.paths import state_home
from segops.record.tuning import Trial, record_study
from segops.runtime.errors import SegopsError
from segops.train.loop import train
from segops.tune.plots import write_search_picture
from segops.tune.setup import build_trial, on_one_device, open_store
from segops.tune.study import MESSAGE, ROWS, Study, open_study

STORAGE = paths.STATE / "tune.db"
LOCK = paths.STATE / "tune.lock"
SCRATCH = paths.STATE / "tune"
PICTURE = Path("reports/search.png")
SECONDS_UNASKED = 60
"""How long MLflow is not asked again after it did not answer, which takes up to a minute."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class SearchResult:
    """The result of a search.

    Attributes:
        study: The study's name.
        trials: The trials by number, without lost trials.
        best: The best trial.
        edit: The change of ``params.yaml`` to its values; not written.
        mlflow_run: Id of the study's run; None where MLflow did not answer.
    """

    study: str
    trials: list[Trial]
    best: Trial
    edit: Edit
    mlflow_run: str | None


def search(root: Path, settings: Params, trials: int | None = None) -> SearchResult:
    """Run the study that ``params.yaml`` declares under `tune`, or its remaining trials.

    A trial is a training with other values of the parameters that have ranges, scored by its best
    mIoU on the selection split. It is stopped early when its best mIoU so far is below the median
    of the others at the same epoch. The first trial has the values of ``params.yaml``. A study is
    bound to its data, parameters and ranges. It is stored in ``.segops/tune.db`` of the main
    checkout and continues after an interruption. Its plot is :data:`PICTURE`.

    `trials` is their number in all, in place of `tune.trials`.

    Raises:
        SegopsError: There are no ranges or no selection split, another search is under way, or no
            trial gave a score.
    """
    base = _base(settings)
    store = open_store(root)
    home = state_home(root)
    with exclusive(home / LOCK, "another search"):
        scratch = home / SCRATCH
        shutil.rmtree(scratch, ignore_errors=True)
        epochs = None if base.train.iterations else base.train.epochs
        study = open_study(home / STORAGE, settings, store.split_hash("train"), epochs)
        log.info("%s", study.news)
        lost = study.requeue_lost()
        if lost:
            log.info("%d trial(s) of a killed search are repeated.", lost)
        answers = _record(root, settings, study) is not None
        asked = time.monotonic()
        wanted = trials or settings.tune.trials
        while len(study.ended()) < wanted:
            _run_trial(root, base, store, study, scratch, wanted)
            if answers or time.monotonic() - asked > SECONDS_UNASKED:
                answers = _record(root, settings, study, warn=answers) is not None
                asked = time.monotonic()
        shutil.rmtree(scratch, ignore_errors=True)
        return _close(root, settings, study, warn=answers)


def _base(settings: Params) -> Params:
    """The parameters of a trial except for the searched values."""
    if not settings.tune.ranges:
        raise SegopsError(
            "params.yaml: tune.ranges names no parameter. Give it some, such as "
            "`train.lr: {low: 0.0001, high: 0.01, log: true}`."
        )
    if not settings.train.selection_share and "train.selection_share" not in settings.tune.ranges:
        raise SegopsError(
            "params.yaml: train.selection_share is 0, and a search is scored on the selection "
            "split, never on val. Set it above 0."
        )
    if settings.tune.epochs:
        length = {"train.epochs": settings.tune.epochs, "train.iterations": None}
        settings = put(settings, length, "params.yaml with tune.epochs")
    return on_one_device(settings)


def _run_trial(
    root: Path, base: Params, store: PackedStore, study: Study, scratch: Path, wanted: int
) -> None:
    trial, values = study.ask()
    shown = ", ".join(f"{key} {_short(value)}" for key, value in values.items())
    log.info("Trial %d of %d: %s", len(study.ended()) + 1, wanted, shown)
    try:
        own = scratch / str(trial.number)
        own.mkdir(parents=True)
        settings = put(base, values, "the values of this trial")
        job = build_trial(root, settings, store, own)
        score = train(replace(job, on_epoch=partial(_report, trial, []))).selection_miou
        if score is None:
            raise SegopsError(
                "train.selection_share: 0 leaves nothing to score a trial with. Set it above 0."
            )
        study.inner.tell(trial, score)
        log.info("Selection mIoU %.4f.", score)
    except optuna.TrialPruned:
        study.inner.tell(trial, state=TrialState.PRUNED)
        log.info("Stopped early: below the median of the other trials.")
    except SegopsError as error:
        # Stored as pruned: the sampler ignores failed trials and would try such values again.
        trial.set_user_attr(MESSAGE, str(error))
        study.inner.tell(trial, state=TrialState.PRUNED)
        log.warning("The trial failed: %s", error)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        if torch.cuda.is_available():  # reference cycles hold the device's memory until collected
            gc.collect()
            torch.cuda.empty_cache()


def _report(trial: optuna.trial.Trial, rows: list[dict[str, Any]], row: Mapping[str, Any]) -> None:
    """Report an epoch of a trial, and end a trial that the pruner gives up."""
    rows.append(dict(row))
    trial.set_user_attr(ROWS, rows)
    if row["selection_miou"] is not None:
        trial.report(row["selection_miou"], int(row["epoch"]))
        if trial.should_prune():
            raise optuna.TrialPruned


def _record(
    root: Path, settings: Params, study: Study, *, warn: bool = True, **rest: Any
) -> str | None:
    """Record what MLflow lacks; return the id of the study's run, None without an answer."""
    try:
        return record_study(root, settings, study.name, study.trials(), **rest)
    except SegopsError as error:
        if warn:
            log.warning("%s Trials are kept in %s until then.", error, STORAGE)
        return None


def _close(root: Path, settings: Params, study: Study, *, warn: bool) -> SearchResult:
    best = study.best()
    if best is None:
        reasons = sorted({trial.message or "stopped early" for trial in study.ended()})
        raise SegopsError(
            "\n".join(["No trial of the study has a score:", *(f"  {why}" for why in reasons)])
        )
    edit = plan(root, best.values, f"trial {best.number} of {study.name}")
    trials = study.ended()
    write_search_picture(root / PICTURE, trials, best, settings.tune.ranges)
    run_id = _record(
        root,
        settings,
        study,
        warn=warn,
        best=best,
        pictures={
            PICTURE.name: (root / PICTURE).read_bytes(),
            "params.diff": edit.diff().encode(),
        },
    )
    return SearchResult(study.name, trials, best, edit, run_id)


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)

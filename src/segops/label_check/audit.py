"""The label audit of a workspace: its models, its ranking, and the files that it writes."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from segops import files, paths
from segops.data.packed_from import require_packed_from
from segops.data.store import PackedStore
from segops.evaluate.suspects import keep
from segops.label_check.folds import Fold, divide, fold_bundle, for_folds
from segops.label_check.judge import JudgedLabels, judge
from segops.label_check.table import write_labels_table
from segops.params.file import Params
from segops.predict.bundle import BundledPredictor, bundle_digest, load_bundle
from segops.predict.parallel import images_at_once, predict_parallel
from segops.predict.seen import of_store, seen_images
from segops.progress import track
from segops.quality.label_scores import Segments
from segops.release.resolve import resolved
from segops.report.labels_page import LabelPicture, LabelRow, write_labels_page
from segops.runtime.bands import false_colour
from segops.runtime.errors import SegopsError
from segops.tune.setup import open_store
from segops.voc.layout import VAL, open_layout
from segops.words import counted

KEPT = paths.STATE / "labels"
LOCK = paths.STATE / "labels.lock"
PAGE, TABLE, SUSPECTS = "labels.html", "labels.csv", "suspects.txt"
SHARE = 0.05
"""Share of the judged images that are suspects, where their number is not given."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class LabelAudit:
    """What an audit found.

    Attributes:
        rows: The images, the most suspect first; see :class:`LabelRow`.
        suspects: Ids of the first of them.
        left_out: Ids of the images that the given model was trained on.
        directory: Where the page, the table and the list lie.
    """

    rows: list[LabelRow]
    suspects: tuple[str, ...]
    left_out: tuple[str, ...]
    directory: Path


@dataclass
class _Judging:
    """The judged images, and which model judges which."""

    store: PackedStore
    splits: Sequence[str]
    rows: list[LabelRow] = field(default_factory=list)
    judges: dict[str, BundledPredictor] = field(default_factory=dict)

    def add(self, predictor: BundledPredictor, ids: Sequence[str], label: str) -> None:
        """Judge images with a model."""
        split_of = {one: split for split in self.splits for one in self.store.ids(split)}
        largest = max((math.prod(self.store.size(one)) for one in ids), default=1)
        at_once = images_at_once(predictor.device, largest, len(ids))
        judged = predict_parallel(partial(judge, predictor, self.store), ids, at_once)
        for one in track(judged, label, len(ids)):
            self.judges[one.image_id] = predictor
            self.rows.append(_row(one, split_of[one.image_id]))


def audit_labels(
    root: Path,
    settings: Params,
    splits: Sequence[str],
    out: Path,
    *,
    model: str | None = None,
    folds: int = 3,
    epochs: int | None = None,
    most: int | None = None,
    device: str = "auto",
) -> LabelAudit:
    """Judge the labels of splits, and write a page, a table and the list of suspects to `out`.

    What is found of val is kept for the page of the next evaluation.

    Without a `model`, one is trained for each fold with the parameters of the workspace. Finished
    folds are kept in ``.segops/labels``, and an interrupted one continues, as long as parameters,
    data and code are the same. Memory does not grow with the number of images.

    Args:
        root: A workspace that is prepared for training.
        settings: Its parameters.
        splits: Names of the splits.
        out: Directory of the results.
        model: A registered model or a bundle, as :func:`segops.release.resolve.resolved` takes it;
            images that it was trained on are left out.
        folds: Number of the folds.
        epochs: Length of a fold's training; None: as in the parameters.
        most: Number of suspects; None: a twentieth of the judged images.
        device: Where the models predict.

    Raises:
        SegopsError: Nothing is prepared, the model does not fit or saw all images, another audit is
            under way, or a training failed.
    """
    store = open_store(root)
    store.require_params(settings.data)
    require_packed_from(store, open_layout(root / settings.data.path, settings.data.reading))
    judging = _Judging(store, splits)
    left_out: tuple[str, ...] = ()
    digest: str | None = None
    with files.exclusive(root / LOCK, "another label audit"), ExitStack() as stack:
        if model is not None:
            bundle = stack.enter_context(resolved(model, root))
            digest = bundle_digest(bundle)
            predictor = _opened(bundle, device, store)
            left_out = _seen(predictor, store, splits)
            seen = frozenset(left_out)
            ids = [one for split in splits for one in store.ids(split) if one not in seen]
            if not ids:
                raise SegopsError(
                    f"{model}: was trained on all {len(left_out)} images of "
                    f"{' and '.join(splits)}, and would repeat their labels. Leave --model out: "
                    "then models are trained that did not see the images they judge."
                )
            if left_out:
                log.info("%s left out: the model saw them.", counted(len(left_out), "image"))
            judging.add(predictor, ids, "Judging labels")
            by = model
        else:
            by = "models trained for this that did not see the images they judge"
            for fold, predictor in _trained(root, settings, store, splits, folds, epochs, device):
                judging.add(predictor, fold.judged, f"Judging labels, {fold.name}")
        rows = sorted(judging.rows, key=_suspicion)
        number = most or math.ceil(SHARE * len(rows))
        shown = rows[:number]
        suspects = tuple(row.image_id for row in shown)
        files.write_text(out / SUSPECTS, "".join(f"{one}\n" for one in suspects))
        write_labels_table(out / TABLE, rows, store.class_names)
        if VAL in splits:
            keep(
                root,
                store.split_hash(VAL),
                by,
                digest,
                sum(row.split == VAL for row in rows),
                {row.image_id: row.segments for row in shown if row.split == VAL},
            )
        write_labels_page(
            out / PAGE,
            rows,
            _pictures(judging, suspects) if settings.report.pictures else (),
            settings.data.drawn,
            suspects=len(suspects),
            left_out=len(left_out),
            by=by,
        )
    return LabelAudit(rows, suspects, left_out, out)


def _suspicion(row: LabelRow) -> tuple[float, str]:
    return (2.0 if row.score is None else row.score), row.image_id


def _row(one: JudgedLabels, split: str) -> LabelRow:
    # Without the pixels of the segments, which would grow with the number of images.
    return LabelRow(
        one.image_id, split, one.score, Segments(segment for segment, _ in one.segments)
    )


def _opened(bundle: Path, device: str, store: PackedStore) -> BundledPredictor:
    predictor = load_bundle(bundle, device)
    if predictor.class_names != store.class_names:
        raise SegopsError(
            f"{bundle}: the model knows the classes {', '.join(predictor.class_names)}; the data "
            f"has {', '.join(store.class_names)}. They must be the same, in the same order."
        )
    predictor.require_channels(store.channels, str(bundle))
    return predictor


def _seen(
    predictor: BundledPredictor, store: PackedStore, splits: Sequence[str]
) -> tuple[str, ...]:
    hashes = seen_images(predictor.model, of_store(store, *splits))
    return tuple(
        one for split in splits for one in store.ids(split) if store.image_sha256(one) in hashes
    )


def _trained(
    root: Path,
    settings: Params,
    store: PackedStore,
    splits: Sequence[str],
    count: int,
    epochs: int | None,
    device: str,
) -> Iterator[tuple[Fold, BundledPredictor]]:
    used = for_folds(settings, epochs)
    for number, fold in enumerate(divide(store, splits, count)):
        bundle = fold_bundle(root, used, store, fold, root / KEPT / str(number))
        yield fold, _opened(bundle, device, store)


def _pictures(judging: _Judging, ids: Sequence[str]) -> Iterator[LabelPicture]:
    """The pictures of some images, predicted again: those of all would not fit into memory."""
    for image_id in ids:
        one = judge(judging.judges[image_id], judging.store, image_id)
        yield LabelPicture(
            image_id,
            false_colour(judging.store.image(image_id)),
            np.array(judging.store.mask(image_id)),
            one.prediction,
            one.segments,
        )

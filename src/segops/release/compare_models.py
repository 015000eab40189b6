"""Models against each other, each scored from its artifact on the val of this workspace."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import segops
from segops import files, paths
from segops.data.store import PackedStore
from segops.evaluate.comparison import oppose
from segops.evaluate.metrics_file import evaluation
from segops.evaluate.pictures import gallery
from segops.evaluate.score import EXPLAINED, Scores, read_scores, score
from segops.params.file import load_params
from segops.release.named_models import Contender, contenders
from segops.report.evaluation_page import write_evaluation_page
from segops.runtime.errors import SegopsError
from segops.voc.layout import VAL

if TYPE_CHECKING:
    from segops.report.page_inputs import Opponent

PAGE = Path("reports/comparison.html")
KEPT = 12
"""How many models' scores are kept, so that comparing them again is quick."""
log = logging.getLogger("segops")


@dataclass(frozen=True)
class Compared:
    """What came of a comparison.

    Attributes:
        names: What the models are called, the first one first.
        evaluations: Their evaluations, of the form of ``metrics/evaluation.json``.
        opponents: All but the first, with what the first gains over each.
        images: How many images of val were scored.
        excluded: How many were left out because one of the models was trained on them.
        page: The page.
    """

    names: tuple[str, ...]
    evaluations: tuple[Mapping[str, Any], ...]
    opponents: tuple[Opponent, ...]
    images: int
    excluded: int
    page: Path


def compare(references: Sequence[str], root: Path, page: Path) -> Compared:
    """Score models on this workspace's val, compare the first with each other, write the page.

    All are scored on the same images: those that none of them was trained on.

    Args:
        references: What people call the models; see :func:`segops.release.named_models.contenders`.
        root: The workspace.
        page: The HTML file to write.

    Raises:
        SegopsError: Fewer than two models are given, the page cannot be written, one of the models
            is not to be had or knows other classes, or they were trained on all of val.
        TransientError: MLflow does not answer.
    """
    if len(references) < 2 or len(set(references)) < len(references):
        raise SegopsError(
            f"{' '.join(references) or 'nothing'}: expected at least two models, each given once: "
            "segops compare RUN RUN..."
        )
    _require_writable(page)
    settings, store = load_params(root), PackedStore(root / paths.PACKED)
    with contenders(references, root) as models:
        seen = _seen(store, models)
        scored = [
            _scored(root, one, store, seen, settings.hardware.threads, pictures=pictures)
            for one, pictures in _with_pictures(models, settings.report.pictures)
        ]
        found = [evaluation(one, store, VAL, settings.evaluate) for one in scored]
        first = scored[0]
        opponents = tuple(
            replace(
                oppose(
                    model.name,
                    first.counts,
                    scores.counts,
                    tree,
                    seen,
                    settings.evaluate,
                    first.class_names,
                ),
                excluded=len(first.excluded),
                about=model.about,
            )
            for model, scores, tree in zip(models[1:], scored[1:], found[1:], strict=True)
        )
        write_evaluation_page(
            page,
            found[0],
            first.confusion,
            gallery(first, store) if settings.report.pictures else (),
            None,
            opponents,
            name=models[0].name,
            about=models[0].about,
            evaluated=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
        _prune(root)
    return Compared(
        names=tuple(one.name for one in models),
        evaluations=tuple(found),
        opponents=opponents,
        images=len(first.images),
        excluded=len(first.excluded),
        page=page,
    )


def _require_writable(page: Path) -> None:
    """Find out now, not after minutes of scoring, whether the page can be written. Makes nothing.

    Raises:
        SegopsError: It is a directory or no plain file, or its directory cannot be made or takes
            no files.
    """
    advice = "Give --output a file to write, in a directory where you may write."
    try:
        if page.is_dir():
            raise SegopsError(
                f"{page}: a directory; expected the HTML file to write, such as {page / PAGE.name}."
            )
        if os.path.lexists(page) and not (page.is_file() or page.is_symlink()):
            raise SegopsError(f"{page}: there, and not a plain file. {advice}")
        # A link that leads nowhere counts as there, since no directory can take its name.
        place = next(one for one in page.absolute().parents if os.path.lexists(one))
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise SegopsError(f"{page}: cannot be written: {error.strerror}. {advice}") from None


def _with_pictures(models: list[Contender], wanted: bool) -> list[tuple[Contender, bool]]:
    """Each model and whether its pictures are shown: the first one's are."""
    return [(one, wanted and place == 0) for place, one in enumerate(models)]


def _seen(store: PackedStore, models: list[Contender]) -> frozenset[str]:
    """SHA-256 of the images of val that one of the models was trained on.

    Raises:
        SegopsError: A model knows other classes than the data, or no image is left.
    """
    for one in models:
        if one.class_names != store.class_names:
            raise SegopsError(
                f"{one.name}: it knows the classes {', '.join(one.class_names)}; the data have "
                f"{', '.join(store.class_names)}. Only models of the same classes are compared. "
                "Leave this one out, or compare in a checkout whose data have its classes."
            )
    hashes = frozenset(store.image_sha256(image_id) for image_id in store.ids(VAL))
    seen = frozenset(one for model in models for one in model.trained_on & hashes)
    if seen == hashes:
        trained = ", ".join(one.name for one in models if one.trained_on & hashes)
        raise SegopsError(
            f"{trained}: trained on the {len(hashes)} image(s) of {VAL}; none is left to compare "
            "on. Put images into it that no model was trained on."
        )
    return seen


def _scored(
    root: Path,
    model: Contender,
    store: PackedStore,
    seen: frozenset[str],
    threads: int | None,
    *,
    pictures: bool,
) -> Scores:
    """The scores of a model: those kept from another comparison, or new ones."""
    plain = root / paths.COMPARED / _key(model, store, seen)
    with_pictures = plain.with_name(f"{plain.name}-pictures")
    for kept in (with_pictures,) if pictures else (with_pictures, plain):
        if kept.is_dir():
            os.utime(kept)
            return read_scores(kept, model.bundle, store, VAL, model.bundle_digest, seen)
    log.info("Scoring %s.", model.name)
    return score(
        model.bundle,
        store,
        VAL,
        with_pictures if pictures else plain,
        model.bundle_digest,
        threads=threads,
        exclude_sha256=seen,
        masks=pictures,
        explain=EXPLAINED if pictures else 0,
    )


def _key(model: Contender, store: PackedStore, seen: frozenset[str]) -> str:
    """What scores depend on: the model, the images, and the code that judges."""
    here = Path(segops.__file__).parent
    code = [files.sha256_tree(here / room) for room in ("evaluate", "metrics", "predict")]
    parts = (model.bundle_digest, store.split_hash(VAL), *sorted(seen), *code)
    return files.sha256_lines(list(parts))[:32]


def _prune(root: Path) -> None:
    """Drop the scores that were not used for longest."""
    kept = sorted(
        (root / paths.COMPARED).iterdir(), key=lambda one: one.stat().st_mtime, reverse=True
    )
    for old in kept[KEPT:]:
        shutil.rmtree(old)

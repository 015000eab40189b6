"""Wrong pixels that are likely errors of the label and not of the model.

`segops data labels` leaves what it found of the scored split in the main checkout, where runs in
worktrees find it too. The page of the next evaluation sets it apart; no metric and no decision uses
it, so no stage depends on it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from segops import files, paths
from segops.evaluate.subsets import miou_of
from segops.params.evaluate import EvaluateParams
from segops.quality.label_scores import Segment
from segops.report.page_inputs import LabelErrors
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.data.store import PackedStore
    from segops.evaluate.score import Scores

log = logging.getLogger("segops")


@dataclass(frozen=True)
class Suspect:
    """A segment of an image where an audit contradicts the label.

    Attributes:
        given: The class of the label.
        predicted: The class that the audit's model predicts.
        box: Left, top, right and bottom, in pixels; right and bottom lie outside.
    """

    given: int
    predicted: int
    box: tuple[int, int, int, int]


@dataclass(frozen=True)
class Suspects:
    """What an audit found of a split.

    Attributes:
        by: What judged, in words.
        bundle_digest: Digest of the bundle that judged; None: several models did.
        judged: How many images of the split were judged.
        segments: The suspects of the split, by image id.
    """

    by: str
    bundle_digest: str | None
    judged: int
    segments: Mapping[str, Sequence[Suspect]]


def keep(
    root: Path,
    split_hash: str,
    by: str,
    bundle_digest: str | None,
    judged: int,
    suspects: Mapping[str, Sequence[Segment]],
) -> None:
    """Leave what an audit found of the split with this hash for the next evaluation.

    The others are as in :class:`Suspects`.
    """
    segments = {
        image_id: [[one.given, one.predicted, *one.box] for one in found]
        for image_id, found in suspects.items()
    }
    content = {
        "split_hash": split_hash,
        "by": by,
        "bundle_digest": bundle_digest,
        "judged": judged,
        "segments": segments,
    }
    files.write_json(_place(root), content)


def read(root: Path, split_hash: str) -> Suspects | None:
    """What the last audit found of the split with this hash; None: none was, or of other data."""
    path = _place(root)
    if not path.is_file():
        return None
    try:
        content: dict[str, Any] = files.read_json(path)
        if content["split_hash"] != split_hash:
            return None
        segments = {
            str(image_id): [_suspect(*map(int, one)) for one in found]
            for image_id, found in content["segments"].items()
        }
        digest = content["bundle_digest"]
        return Suspects(str(content["by"]), digest, int(content["judged"]), segments)
    except (SegopsError, TypeError, KeyError, ValueError, AttributeError) as error:
        log.warning("%s: not readable (%s); the page does without the label audit.", path, error)
        return None


def _place(root: Path) -> Path:
    return paths.state_home(root) / paths.LABEL_AUDIT


def _suspect(given: int, predicted: int, left: int, top: int, right: int, bottom: int) -> Suspect:
    return Suspect(given, predicted, (left, top, right, bottom))


def label_errors(
    root: Path,
    scores: Scores,
    store: PackedStore,
    split: str,
    settings: EvaluateParams,
    masks: bool,
) -> LabelErrors | None:
    """What the page says of suspected labels; None where no audit of the split is known.

    Nor is one where the model itself was the judge: its word would excuse its own errors.

    Args:
        root: The workspace.
        scores: The scores of a model.
        store: The packed data.
        split: The split that was scored.
        settings: Of the interval.
        masks: Whether the predicted masks of all images were kept; else no pixel is counted.
    """
    suspects = read(root, store.split_hash(split))
    if suspects is None:
        return None
    if suspects.bundle_digest == scores.bundle_digest:
        log.info("The labels were judged by this very model: the page does without the audit.")
        return None
    scored = [one for one in scores.images if one in suspects.segments]
    pixels = {
        one: contradicted(store.mask(one), scores.prediction(one), suspects.segments[one])
        if masks
        else None
        for one in scored
    }
    rest = [one for one in scores.images if one not in suspects.segments]
    return LabelErrors(
        by=suspects.by,
        judged=suspects.judged,
        pixels=pixels,
        wrong=int(scores.confusion.sum() - scores.confusion.trace()),
        **miou_of(scores.counts, rest, settings),
    )


def contradicted(
    truth: NDArray[np.uint8], prediction: NDArray[np.uint8], segments: Sequence[Suspect]
) -> int:
    """Wrong pixels of an image where the model contradicts the label as the audit does.

    `truth` and `prediction` are uint8 (H, W). Such a pixel lies in the box of a suspect, is
    labelled as the suspect is, and predicted as the audit predicts the suspect.
    """
    hit = np.zeros(truth.shape, np.bool_)
    for one in segments:
        left, top, right, bottom = one.box
        part = np.s_[top:bottom, left:right]
        hit[part] |= (truth[part] == one.given) & (prediction[part] == one.predicted)
    return int(np.count_nonzero(hit & (truth != prediction)))

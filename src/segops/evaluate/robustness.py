"""How a model does on corrupted photographs."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from segops import files
from segops.evaluate.corruptions import CORRUPTIONS, STRENGTHS
from segops.evaluate.score import score_corrupted
from segops.metrics.iou import class_pixels, iou, truth_mean
from segops.runtime.errors import SegopsError

if TYPE_CHECKING:
    from segops.data.store import PackedStore


def robustness(
    bundle: Path,
    store: PackedStore,
    split: str,
    *,
    threads: int | None = None,
    exclude_sha256: Collection[str] = (),
    limit: int | None = None,
    device: str = "auto",
) -> dict[str, Any]:
    """Score a model under every corruption in three strengths.

    It takes 46 times as long as scoring once, and for the corruptions about 1.6 s an image of
    500 x 375 pixels on one thread.

    Every mIoU is the mean over the classes in the truth of the images as they are, so that all are
    over the same classes: `elastic` can move the last pixels of a class out of its images. Such a
    class has an IoU of 0 where it is predicted, and counts in no mean where it is not.

    The arguments are those of :func:`segops.evaluate.score.score`.

    Returns:
        Ready for JSON: `clean` (mIoU on the images as they are), `mean` (of the mIoU under all
        corruptions and strengths), `retained` (`mean` over `clean`), `strengths`, `images`, and
        `corruptions`: for each its `name`, its `miou` by strength and their `mean`.

    Raises:
        SegopsError: As :func:`segops.evaluate.score.score_corrupted`; or no labelled pixel is left
            to score on.
    """
    ways = [(name, strength) for name in CORRUPTIONS for strength in STRENGTHS]
    with files.scratch() as scratch:
        plain, *corrupted = score_corrupted(
            bundle, store, split, scratch / "scores", ways, device,
            threads=threads, exclude_sha256=exclude_sha256, limit=limit,
        )  # fmt: skip
        truth = class_pixels(plain.confusion)
        clean, *values = (
            truth_mean(iou(*class_pixels(one.confusion)), truth) for one in (plain, *corrupted)
        )
    if np.isnan(clean):
        raise SegopsError(
            f"{store.path}: no labelled pixel of {split} is left to score on. Put labelled images "
            f"into {split} that the model was not trained on."
        )
    by_corruption = np.reshape(values, (len(CORRUPTIONS), len(STRENGTHS)))
    mean = float(by_corruption.mean())
    return {
        "clean": clean,
        "mean": mean,
        "retained": mean / clean if clean else None,
        "strengths": list(STRENGTHS),
        "images": len(plain.images),
        "corruptions": [
            {"name": name, "miou": row.tolist(), "mean": float(row.mean())}
            for name, row in zip(CORRUPTIONS, by_corruption, strict=True)
        ],
    }

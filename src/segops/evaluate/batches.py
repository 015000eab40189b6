"""Whether an export takes every batch, with the logits of the model that it was made of."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from segops.predict.bundle import EXPORT, BundledPredictor
from segops.runtime.errors import SegopsError

SAME_LOGITS = 1e-3
"""Largest difference of two logits that count as the same, as a share of the largest logit."""
CROPS = ((64, 96), (75, 50))
"""Heights and widths of the images of a batch; smaller ones where an image is."""
LONGEST_ERROR = 300
"""Characters that are kept of a runtime's error."""


def require_any_batch(
    export: BundledPredictor, model: BundledPredictor, image: NDArray[np.uint8]
) -> None:
    """Check that an export takes batches, and images of sizes that are not square.

    Prediction shows it one image at a time; a server may not. The logits of a float32 export must
    be those of the model; INT8 rounds them.

    Args:
        export: The export.
        model: The model that it was made of.
        image: An image uint8 (H, W, B), of which parts are cut.

    Raises:
        SegopsError: It does not, or an image in a batch has other logits than alone or by the
            model.
    """
    for height, width in CROPS:
        part = image[:height, :width].transpose(2, 0, 1)
        rows, columns = part.shape[1:]
        batch = np.stack([part, part[..., ::-1]])
        try:
            together = export.batch_logits(batch)
            alone = [export.batch_logits(one[None])[0] for one in batch]
        except SegopsError:
            raise
        except Exception as error:  # the runtimes' own errors have no common base
            words = " ".join(str(error).split())[:LONGEST_ERROR]
            raise SegopsError(
                f"the export does not take a batch of 2 images of {rows} x {columns} pixels: "
                f"{type(error).__name__}: {words}"
            ) from error
        expected = (2, len(export.class_names), *part.shape[1:])
        if together.shape != expected:
            raise SegopsError(
                f"the export gives logits of shape {together.shape}; expected {expected}"
            )
        if not _same(together, np.stack(alone)):
            raise SegopsError("the export gives an image other logits in a batch than alone")
        is_float = export.model[EXPORT]["quantize"] is None
        if is_float and not _same(together, model.batch_logits(batch)):
            raise SegopsError("the export gives other logits than the model that it was made of")


def _same(one: NDArray[np.float32], other: NDArray[np.float32]) -> bool:
    return float(np.abs(one - other).max()) <= SAME_LOGITS * float(np.abs(other).max())

"""Stage package: makes the bundle to evaluate, register and serve from the trained network.

It is separate from stage train, so that new prediction settings, other colours and another
background give a new model without training.
"""

from __future__ import annotations

import logging
from pathlib import Path

from segops import files, paths
from segops.params.base import Sections
from segops.params.data import DataParams
from segops.predict.package import package
from segops.runtime import opener
from segops.runtime.predict_settings import PredictSettings

log = logging.getLogger("segops")


class Settings(Sections):
    """The parameters that the stage reads."""

    data: DataParams = DataParams()
    predict: PredictSettings = PredictSettings()


def run(root: Path) -> None:
    """Write the bundle, and its digest and settings.

    Raises:
        SegopsError: There is no trained network, or it has other classes.
    """
    settings = Settings.read(root)
    predict = settings.predict.model_dump(mode="json")
    data = settings.data
    how = data.bit_depth, data.drawn, data.bands
    package(root / paths.TRAINED, root / paths.SEGMENTER, predict, *how)
    digest = files.sha256_tree(root / paths.SEGMENTER)
    files.write_json(
        root / paths.PACKAGE,
        {
            "bundle_digest": digest,
            "weights_sha256": files.sha256_file(root / paths.SEGMENTER / opener.WEIGHTS),
            "predict": predict,
        },
    )
    log.info("%s: bundle %s", paths.SEGMENTER, digest[:12])

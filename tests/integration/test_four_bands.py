"""A training on images of four bands whose fourth decides, from the files to the champion."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

import segops
from segops.files import read_json
from segops.runtime.masks import decode_mask, read_mask
from segops.voc.reading import Bands
from tests.integration.conftest import dvc, set_params
from tests.integration.conftest import segops as command
from tests.support.band_data import IN_A_DIRECTORY, band_params, write_band_data


def trained(root: Path, bands: Bands) -> tuple[segops.Model, segops.Dataset]:
    """A model trained on the data set `root` / voc read as `bands`, and its val."""
    model = segops.fit(band_params(bands), root / "voc", root / str(bands.total))
    return model, segops.open_dataset(root / "voc", "val", band_params(bands))


def tiff(image: NDArray[np.uint8]) -> bytes:
    """The bytes of a TIFF file of an image of four bands."""
    file = BytesIO()
    Image.fromarray(image, "RGBA").save(file, "TIFF")
    return file.getvalue()


@pytest.mark.slow
def test_the_fourth_band_decides(tmp_path: Path) -> None:
    layout = write_band_data(tmp_path / "voc", IN_A_DIRECTORY)
    model, val = trained(tmp_path, IN_A_DIRECTORY)
    assert segops.score(model, val)["miou"] > 0.9
    rgb, rgb_val = trained(tmp_path, Bands())
    assert segops.score(rgb, rgb_val)["miou"] < 0.6

    spec = read_json(tmp_path / "4/models/segmenter/model.json")["spec"]
    assert len(spec["mean"]) == len(spec["std"]) == 4
    for image_id, image, mask in val:
        assert (read_mask(layout.mask_path(image_id)) == mask).all()
        by_file = model.predict(tiff(image)).mask
        np.testing.assert_array_equal(by_file, model.predict(image).mask)
        assert (by_file == mask).mean() > 0.9


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_four_bands_go_all_the_way_to_the_champion(workspace: Path, tmp_path: Path) -> None:
    write_band_data(tmp_path / "own", IN_A_DIRECTORY)
    set_params(workspace, **band_params(IN_A_DIRECTORY), gate={"min_miou": 0.8})
    used = command(workspace, "data", "use", str(tmp_path / "own"))
    assert used.returncode == 0, used.stderr
    made = dvc(workspace, "repro")
    assert made.returncode == 0, made.stdout + made.stderr
    promoted = command(workspace, "promote")
    assert promoted.returncode == 0, promoted.stdout + promoted.stderr
    val = segops.open_dataset(workspace / "data/voc", "val", band_params(IN_A_DIRECTORY))
    mlflow.set_tracking_uri(f"sqlite:///{workspace / 'mlflow.db'}")
    try:
        champion = mlflow.pyfunc.load_model("models:/segops@champion")
        for _, image, mask in val:
            answer = champion.predict(pd.DataFrame({"image": [tiff(image)]}))
            found = decode_mask(answer["mask"][0], "the champion's mask")
            assert (found == mask).mean() > 0.9
    finally:
        mlflow.set_tracking_uri(None)

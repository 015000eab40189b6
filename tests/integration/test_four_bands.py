"""A training on images of four bands whose fourth decides, from the files to the bundle."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segops
from segops.files import read_json
from segops.runtime.masks import read_mask
from segops.voc.reading import Bands
from tests.support.band_data import IN_A_DIRECTORY, band_params, write_band_data


def trained(root: Path, bands: Bands) -> tuple[segops.Model, segops.Dataset]:
    """A model trained on the data set `root` / voc read as `bands`, and its val."""
    model = segops.fit(band_params(bands), root / "voc", root / str(bands.total))
    return model, segops.open_dataset(root / "voc", "val", band_params(bands))


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
        tiff = BytesIO()
        Image.fromarray(image, "RGBA").save(tiff, "TIFF")
        by_file = model.predict(tiff.getvalue()).mask
        np.testing.assert_array_equal(by_file, model.predict(image).mask)
        assert (by_file == mask).mean() > 0.9

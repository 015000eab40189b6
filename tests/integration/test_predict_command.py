"""`segops predict`: from what a person calls a model to masks, overlays and a table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from segops import paths
from segops.predict.bundle import load_bundle
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.images import read_image
from segops.runtime.masks import read_mask
from tests.integration.conftest import segops


@pytest.mark.slow
def test_every_name_of_the_model_gives_the_masks_of_its_bundle(promoted: Path) -> None:
    images = promoted / "data/voc/JPEGImages"
    predictor = load_bundle(promoted / paths.SEGMENTER)
    names = ("models:/segops@champion", "models:/segops/1", str(paths.SEGMENTER))
    for number, name in enumerate(names):
        output = promoted / f"out{number}"
        done = segops(promoted, "predict", str(images), "--model", name, "--output", str(output))
        assert done.returncode == 0, done.stderr
        for path in sorted(images.glob("*.jpg"))[:3]:
            image, mask = read_image(path), read_mask(output / f"{path.stem}.png")
            assert np.array_equal(mask, predictor.predict(image).mask)
            with Image.open(output / f"{path.stem}.overlay.jpg") as overlay:
                assert (overlay.height, overlay.width) == image.shape[:2]
    # Three names of one model: its digest is the same, so its masks are.
    again = segops(promoted, "predict", str(images), "--output", str(output))
    count = len(list(images.iterdir()))
    assert f"{count} done before, 0 done now, in {output}" in again.stdout
    table = pd.read_csv(output / "predictions.csv")
    assert list(table.columns) == [
        "image", "width", "height", "confidence", *VOC_CLASSES, "error",
    ]  # fmt: skip
    assert table["image"].is_monotonic_increasing
    np.testing.assert_allclose(table[list(VOC_CLASSES)].sum(axis=1), 1)
    assert table["error"].isna().all()


@pytest.mark.slow
def test_mistakes_are_named_and_the_rest_is_done(promoted: Path, tmp_path: Path) -> None:
    source = tmp_path / "photos"
    source.mkdir()
    whole = next((promoted / "data/voc/JPEGImages").glob("*.jpg"))
    (source / "whole.jpg").write_bytes(whole.read_bytes())
    (source / "broken.jpg").write_bytes(whole.read_bytes()[:200])
    output = tmp_path / "out"
    done = segops(promoted, "predict", str(source), "--output", str(output))
    assert done.returncode == 1
    assert "broken.jpg" in done.stderr
    shown = {path.name for path in output.iterdir() if path.is_file()}
    assert shown == {"whole.png", "whole.overlay.jpg", "predictions.csv"}
    errors = pd.read_csv(output / "predictions.csv").set_index("image")["error"]
    assert "broken.jpg" in errors["broken.jpg"]
    assert pd.isna(errors["whole.jpg"])
    for model, said in (
        ("models:/segops@nobody", "no such alias"),
        ("models:/segops", "expected models:/NAME@ALIAS"),
        (str(tmp_path / "nothing"), "no bundle there"),
    ):
        done = segops(promoted, "predict", str(source), "--model", model)
        assert done.returncode == 1
        assert said in done.stderr
        assert "Traceback" not in done.stderr
    (source / "whole.png").write_bytes(b"")
    done = segops(promoted, "predict", str(source), "--output", str(output))
    assert "Rename one" in done.stderr


@pytest.mark.slow
def test_an_artifact_that_was_changed_is_not_run(promoted: Path) -> None:
    changed = list((promoted / "mlartifacts").rglob("model.json"))
    assert changed
    for path in changed:
        path.write_text(path.read_text() + " ")
    done = segops(promoted, "predict", str(promoted / "data/voc/JPEGImages"))
    assert done.returncode == 1
    assert "its code is not run" in done.stderr

"""Predicting images whose bands lie in one file or in aligned files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import segops
from segops.monitor.sample import of_folder
from segops.predict.bundle import load_bundle
from segops.predict.folder import predict_folder
from segops.predict.observe import statistic_names
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.runtime.networks.zoo import build
from tests.support.bundles import write_bundle
from tests.support.networks import small


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle for RGB and a band of 12 bits in Depth/."""
    spec = replace(small("plain_cnn"), mean=(0.1, 0.2, 0.3, 0.4), std=(0.5, 0.4, 0.3, 0.2))
    target = tmp_path / "bundle"
    write_bundle(target, build(spec), spec, list("abcde"), {}, {}, {}, 12, ["Depth"])
    return target


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Two images: one in aligned files, its bands in one file elsewhere."""
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 4), dtype=np.uint8)
    root = tmp_path / "new"
    for directory in (root / "images", root / "Depth", tmp_path / "one"):
        directory.mkdir(parents=True)
    Image.fromarray(np.ascontiguousarray(pixels[..., :3])).save(root / "images/a.png")
    Image.fromarray(pixels[..., 3].astype(np.uint16) * 16).save(root / "Depth/a.png")
    Image.fromarray(pixels, "RGBA").save(tmp_path / "one/a.tif")
    return root


def test_aligned_files_give_the_mask_of_one_file(bundle: Path, new: Path, tmp_path: Path) -> None:
    assert predict_folder(new, bundle, tmp_path / "apart").now == 1
    assert predict_folder(tmp_path / "one", bundle, tmp_path / "whole").now == 1
    apart, whole = read_mask(tmp_path / "apart/images/a.png"), read_mask(tmp_path / "whole/a.png")
    np.testing.assert_array_equal(apart, whole)
    model = segops.load(bundle)
    for path in (new / "images/a.png", tmp_path / "one/a.tif"):
        np.testing.assert_array_equal(model.predict(path).mask, whole)


def test_another_band_predicts_the_image_again(bundle: Path, new: Path, tmp_path: Path) -> None:
    assert predict_folder(new, bundle, tmp_path / "out").now == 1
    assert predict_folder(new, bundle, tmp_path / "out").before == 1
    Image.new("I;16", (40, 24), 100).save(new / "Depth/a.png")
    assert predict_folder(new, bundle, tmp_path / "out").now == 1


def test_bands_that_are_missing_or_do_not_fit_are_named(
    bundle: Path, new: Path, tmp_path: Path
) -> None:
    Image.new("L", (8, 8)).save(new / "Depth/a.png")
    (failed,) = predict_folder(new, bundle, tmp_path / "out").failed
    assert failed.startswith(f"{new}/Depth/a.png: 8 x 8 pixels, {new}/images/a.png 40 x 24;")
    (new / "Depth/a.png").unlink()
    (failed,) = predict_folder(new, bundle, tmp_path / "out").failed
    assert f"{new}/Depth/a.png: no such file" in failed
    (new / "Depth").rmdir()
    (failed,) = predict_folder(new, bundle, tmp_path / "out").failed
    assert "images/a.png: 3 bands; expected 4" in failed


def test_a_model_of_other_channels_than_the_data_is_refused(bundle: Path) -> None:
    predictor = load_bundle(bundle)
    predictor.require_channels(4, "models:/a/1")
    with pytest.raises(
        SegopsError, match=r"^models:/a/1: .* images of 4 channels, the data have 3"
    ):
        predictor.require_channels(3, "models:/a/1")


def test_all_bands_are_observed(bundle: Path, new: Path, tmp_path: Path) -> None:
    predictor = load_bundle(bundle)
    [apart], [whole] = (of_folder(predictor, one).images for one in (new, tmp_path / "one"))
    assert (apart.name, whole.name) == ("images/a.png", "a.tif")
    assert apart.observation.pixels == whole.observation.pixels
    assert apart.observation.statistics == whole.observation.statistics
    found = dict(zip(statistic_names(4), apart.observation.statistics, strict=True))
    with Image.open(tmp_path / "one/a.tif") as image:
        mean = np.asarray(image)[..., 3].mean() / 255
    assert found["band 4"] == pytest.approx(mean, abs=1e-6)

"""Importing images of several bands, from one file or from files beside the photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.params.file import load_params
from segops.runtime.errors import SegopsError
from segops.voc.bands import read_bands
from segops.voc.layout import open_layout
from tests.unit.importers.conftest import Run, greyscale

PIXELS = np.random.default_rng(0).integers(0, 256, (30, 40, 4), dtype=np.uint8)


def set_data(root: Path, old: str, new: str) -> None:
    path = root / "params.yaml"
    text = path.read_text()
    assert f"\n  {old}" in text
    path.write_text(text.replace(f"\n  {old}", f"\n  {new}"))


def depths(source: Path) -> None:
    """Photographs and masks of two scenes, with a band each in Depth."""
    for name in ("one/a", "one/b", "two/a", "two/b"):
        for part, pixels in (("images", PIXELS[..., :3]), ("Depth", PIXELS[..., 3])):
            path = source / f"{part}/{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.ascontiguousarray(pixels)).save(path)
        greyscale(source / f"masks/{name}.png", np.zeros((30, 40), np.uint8))


@pytest.mark.parametrize("share", [None, "val=0.5"])
def test_bands_beside_the_photographs_come_along(
    source: Path, root: Path, run_import: Run, share: str | None
) -> None:
    depths(source)
    set_data(root, "bands: []", "bands: [Depth]")
    run_import("folder", source, classes=("ground", "crop"), share=share)
    layout = open_layout(root / "data/voc", load_params(root).data.reading)
    ids = [one for split in layout.splits().values() for one in split]
    assert sorted(ids) == ["one_a", "one_b", "two_a", "two_b"]
    for image_id in ids:
        np.testing.assert_array_equal(read_bands(layout, image_id).pixels, PIXELS)


def test_bands_that_are_missing_are_named_and_nothing_is_imported(
    source: Path, root: Path, run_import: Run
) -> None:
    depths(source)
    set_data(root, "bands: []", "bands: [Depth]")
    (source / "Depth/one/b.png").unlink()
    Image.new("L", (8, 8)).save(source / "Depth/two/a.png")
    with pytest.raises(SegopsError) as error:
        run_import("folder", source, classes=("ground", "crop"))
    assert f"{source}/Depth/one/b.png: no such file" in str(error.value)
    assert f"{source}/Depth/two/a.png: 8 x 8 pixels, its photograph 40 x 30" in str(error.value)
    assert not (root / "data/voc").exists()
    set_data(root, "bands: [Depth]", "bands: [Thermal]")
    with pytest.raises(SegopsError, match=r"no directory Thermal \(data.bands\) beside"):
        run_import("folder", source, classes=("ground", "crop"))


def test_files_of_several_bands_keep_them(source: Path, root: Path, run_import: Run) -> None:
    for name in ("a", "b"):
        (source / "images").mkdir(exist_ok=True)
        Image.fromarray(PIXELS, "RGBA").save(source / f"images/{name}.tif")
        greyscale(source / f"masks/{name}.png", np.zeros((30, 40), np.uint8))
    set_data(root, "channels: null", "channels: 4")
    run_import("folder", source, classes=("ground", "crop"), share="val=0.5")
    layout = open_layout(root / "data/voc", load_params(root).data.reading)
    np.testing.assert_array_equal(read_bands(layout, "a").pixels, PIXELS)

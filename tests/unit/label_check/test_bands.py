"""The label audit of images of four bands."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.label_check import audit
from segops.predict.bundle import load_bundle
from segops.report.labels_page import write_labels_page
from segops.runtime.classes import Classes
from segops.runtime.networks.zoo import build
from tests.support.band_data import CLASSES, IN_A_DIRECTORY, write_band_data
from tests.support.bundles import write_bundle
from tests.support.networks import small


def test_suspects_are_shown_in_false_colour(tmp_path: Path) -> None:
    pack(write_band_data(tmp_path / "voc", IN_A_DIRECTORY, 1, 1), tmp_path / "packed", CLASSES)
    store = PackedStore(tmp_path / "packed")
    values = store.statistics
    spec = replace(small("plain_cnn"), classes=2, mean=values.mean, std=values.std)
    write_bundle(tmp_path / "bundle", build(spec), spec, CLASSES, {}, {}, {})
    judging = audit._Judging(store, ("train", "val"))
    judging.add(load_bundle(tmp_path / "bundle"), ["train0", "val0"], "judge")
    pictures = list(audit._pictures(judging, ["train0", "val0"]))
    for one in pictures:
        assert (one.image == store.image(one.image_id)[..., :3]).all()
    page = tmp_path / "labels.html"
    classes = Classes(tuple(CLASSES))
    write_labels_page(page, judging.rows, pictures, classes, suspects=2, left_out=0, by="folds")
    assert page.read_text().count("data:image/jpeg") == 6

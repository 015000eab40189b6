"""The augment stage: policy and contact sheet from a packed store."""

from __future__ import annotations

from pathlib import Path

import albumentations as A
import numpy as np
import pytest
import yaml
from PIL import Image

from segops.augment.geometry import Warp
from segops.augment.policy import Policy, build_policy
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.files import read_json
from segops.params.file import load_params
from segops.paths import AUGMENTATION_SHEET, PACKED, POLICY
from segops.report.overlay import colours
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.stages import augment
from segops.voc.layout import open_layout


@pytest.fixture
def workspace(tmp_path: Path, tiny_voc: Path) -> Path:
    pack(open_layout(tiny_voc), tmp_path / PACKED, VOC_CLASSES)
    settings = {"augment": {"crop": [48, 64]}, "report": {"pictures": True}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(settings))
    return tmp_path


def test_it_writes_the_policy_of_params_and_a_sheet(workspace: Path) -> None:
    augment.run(workspace)
    written = Policy.from_json(read_json(workspace / POLICY))
    expected = build_policy(load_params(workspace).augment)
    store = PackedStore(workspace / PACKED)
    image, mask = (read(store.ids("train")[0]) for read in (store.image, store.mask))
    for seed in range(5):
        for one, other in zip(written(image, mask, seed), expected(image, mask, seed), strict=True):
            assert np.array_equal(one, other)
    with Image.open(workspace / AUGMENTATION_SHEET) as sheet:
        assert sheet.size[0] > 1000


def test_a_second_run_writes_the_same_bytes(workspace: Path) -> None:
    augment.run(workspace)
    first = [(workspace / path).read_bytes() for path in (POLICY, AUGMENTATION_SHEET)]
    augment.run(workspace)
    assert [(workspace / path).read_bytes() for path in (POLICY, AUGMENTATION_SHEET)] == first


def test_no_photograph_is_shown_where_they_are_private(workspace: Path) -> None:
    store = PackedStore(workspace / PACKED)
    policy = build_policy(load_params(workspace).augment)
    image_id = store.ids("train")[0]
    row = augment.contact_row(store, policy, 0, image_id, pictures=False)
    assert np.array_equal(row.image, colours(store.mask(image_id)))
    assert len(row.versions) == augment.VERSIONS
    for shown, mask in row.versions:
        assert np.array_equal(shown, colours(mask))
    shown = augment.contact_row(store, policy, 0, image_id, pictures=True)
    assert np.array_equal(shown.image, store.image(image_id))


def test_a_policy_that_breaks_a_property_is_not_written(
    workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Policy(A.Compose([Warp(size=(200, 200), fill_mask=0)]))
    monkeypatch.setattr(augment, "build_policy", lambda *_: broken)
    with pytest.raises(SegopsError, match="nothing of the image, the mask has the ids"):
        augment.run(workspace)
    assert not (workspace / POLICY).exists()
    assert not (workspace / AUGMENTATION_SHEET).exists()


@pytest.mark.parametrize(
    ("count", "expected"), [(1, "a"), (2, "ae"), (3, "ace"), (5, "abcde"), (9, "abcde")]
)
def test_samples_are_spread_over_the_data(count: int, expected: str) -> None:
    assert augment.spread(tuple("abcde"), count) == tuple(expected)

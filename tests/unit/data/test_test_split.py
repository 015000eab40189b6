"""The split test: checked and packed like the others, and nothing but its score depends on it."""

from __future__ import annotations

import ast
import json
import logging
import shutil
from pathlib import Path

import pytest
import yaml

from segops import paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.files import sha256_tree
from segops.quality.facts import data_hash, scan, split_hash
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.stages import prepare, validate
from segops.voc.layout import TEST, Layout, open_layout

ROOT = Path(__file__).parents[3]


@pytest.fixture
def tested(tiny_voc: Path) -> Layout:
    """Train of 10 images, val of 6, test of 2."""
    layout = Layout(tiny_voc)
    ids = layout.ids("train")
    layout.write_list("train", ids[2:])
    layout.write_list(TEST, ids[:2])
    (tiny_voc.parent / "params.yaml").write_text(
        "data: {path: voc}\nvalidate: {required_classes: [background]}\n"
    )
    return layout


def test_it_is_packed_apart(tested: Layout, tmp_path: Path) -> None:
    pack(tested, tmp_path / "with", VOC_CLASSES)
    without = open_layout(tested.root)
    ids = tested.ids(TEST)
    kept = tested.list_path(TEST).read_bytes()
    tested.list_path(TEST).unlink()
    pack(without, tmp_path / "without", VOC_CLASSES)
    with_test, plain = PackedStore(tmp_path / "with"), PackedStore(tmp_path / "without")
    for split in ("train", "val"):
        assert sha256_tree(tmp_path / "with" / split) == sha256_tree(tmp_path / "without" / split)
        assert with_test.split_hash(split) == plain.split_hash(split)
    assert with_test.data_hash == plain.data_hash
    assert (with_test.holds(TEST), plain.holds(TEST)) == (True, False)
    assert with_test.image(ids[0]).shape == (*with_test.size(ids[0]), 3)
    assert set(with_test.ids(TEST)) == set(ids)
    with pytest.raises(KeyError):
        plain.mask(ids[0])
    tested.list_path(TEST).write_bytes(kept)
    facts = scan(tested)
    assert data_hash(facts, VOC_CLASSES) == plain.data_hash
    assert split_hash(facts, TEST, VOC_CLASSES) == with_test.split_hash(TEST)


def test_the_verdict_names_it_and_what_is_packed_is_what_was_checked(tested: Layout) -> None:
    root = tested.root.parent
    validate.run(root)
    verdict = json.loads((root / paths.VERDICT).read_text())
    assert verdict["images"] == {"train": 10, "val": 6, "test": 2}
    prepare.run(root)
    assert PackedStore(root / paths.PACKED).split_hash(TEST) == verdict["test_hash"]
    tested.write_list(TEST, tested.ids(TEST)[:1])
    with pytest.raises(SegopsError, match="not the data that was validated"):
        prepare.run(root)
    validate.run(root)
    again = json.loads((root / paths.VERDICT).read_text())
    assert again["test_hash"] != verdict["test_hash"]
    same = ("data_hash", "train_hash", "val_hash")
    assert [again[name] for name in same] == [verdict[name] for name in same]


def test_a_defect_of_test_fails_like_any_other(tested: Layout) -> None:
    first, second = tested.ids(TEST)
    tested.image_path(first).write_bytes(b"no image")
    shutil.copy(tested.image_path(tested.ids("val")[0]), tested.image_path(second))
    shutil.copy(tested.mask_path(tested.ids("val")[0]), tested.mask_path(second))
    with pytest.raises(SegopsError) as error:
        validate.run(tested.root.parent)
    assert f"JPEGImages/{first}.jpg: not decodable" in str(error.value)
    assert f"JPEGImages/{second}.jpg: in test is the same file as" in str(error.value)
    page = (tested.root.parent / paths.VALIDATION_PAGE).read_text()
    assert "images in test" in page


def test_an_id_of_test_that_another_list_names_is_found(tested: Layout) -> None:
    val = tested.ids("val")[0]
    tested.write_list(TEST, [*tested.ids(TEST), val])
    with pytest.raises(SegopsError, match=rf"val\.txt: {val} is also in .*test\.txt"):
        validate.run(tested.root.parent)


def test_a_test_without_masks_is_said_and_left_out(
    tested: Layout, caplog: pytest.LogCaptureFixture
) -> None:
    second = tested.ids(TEST)[1]
    tested.mask_path(second).unlink()
    with caplog.at_level(logging.WARNING, "segops"):
        validate.run(tested.root.parent)
    words = f"test is left out: 1 image of its list without a mask: {second}."
    assert words in caplog.text
    assert words in (tested.root.parent / paths.VALIDATION_PAGE).read_text()
    verdict = json.loads((tested.root.parent / paths.VERDICT).read_text())
    assert "test_hash" not in verdict
    prepare.run(tested.root.parent)
    assert not PackedStore(tested.root.parent / paths.PACKED).holds(TEST)


def test_a_bad_list_is_refused(tested: Layout) -> None:
    tested.list_path(TEST).write_text("../a\n")
    with pytest.raises(SegopsError, match=r"test\.txt: '\.\./a' is no image id"):
        open_layout(tested.root)


def test_no_stage_depends_on_it() -> None:
    stages = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
    packed = {
        path
        for name in ("augment", "train", "package", "evaluate")
        for path in stages[name]["deps"]
        if path.startswith("data/")
    }
    assert packed == {"data/packed/train", "data/packed/val", "data/packed/unlabelled"}


KNOW = {
    "cli/evaluate.py",  # asks for its score
    "data/packing.py",  # packs it
    "data/store.py",  # reads it
    "importers/cityscapes.py",  # make its list
    "importers/splits.py",
    "pretrain/images.py",  # leaves its images out
    "voc/layout.py",
    "voc/use.py",  # says that it is left out
}
"""The modules that may name the split."""


def test_nothing_else_names_it() -> None:
    source = ROOT / "src/segops"
    naming = set()
    for path in source.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            is_name = isinstance(node, ast.Name) and node.id == "TEST"
            is_text = isinstance(node, ast.Constant) and node.value == "test"
            if is_name or is_text:
                naming.add(path.relative_to(source).as_posix())
    assert naming == KNOW
    asking = {
        path.relative_to(source).as_posix()
        for path in source.rglob("*.py")
        if "release.looks" in path.read_text() or "import looks" in path.read_text()
    }
    assert asking == {"cli/evaluate.py"}

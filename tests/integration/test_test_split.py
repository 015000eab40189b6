"""`segops evaluate --split test`: each score is written down, in the ledger or in the checkout."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from segops import cli, files, paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.predict.bundle import bundle_digest
from segops.release import looks, promotion
from segops.release.status import status
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.voc.layout import TEST, open_layout
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace with a test split of two images and no model yet."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("SEGOPS_STARTED_BY", "anna")
    root = made.make(tmp_path / "checkout", database=False)
    layout = open_layout(root / "data/voc")
    for number, image_id in enumerate(layout.ids("val")[:2]):
        shutil.copy(layout.image_path(image_id), layout.root / f"JPEGImages/test{number}.jpg")
        shutil.copy(layout.mask_path(image_id), layout.mask_path(f"test{number}"))
    layout.write_list(TEST, ["test0", "test1"])
    before = PackedStore(root / paths.PACKED).data_hash
    pack(open_layout(layout.root), root / paths.PACKED, VOC_CLASSES)
    assert PackedStore(root / paths.PACKED).data_hash == before
    monkeypatch.chdir(root)
    return root


def scored(root: Path, miou: float = 0.61) -> dict[str, Any]:
    """An evaluation of the workspace's model on test."""
    return {
        "split": TEST, "images": 2, "miou": miou, "miou_low": 0.5, "miou_high": float("nan"),
        "confidence": 0.95, "bundle_digest": bundle_digest(root / paths.SEGMENTER),
    }  # fmt: skip


def test_a_version_s_score_is_an_entry_that_decides_nothing(root: Path) -> None:
    made.put_database(root)
    made.release(root, seed=1, quality=0.7)
    test_hash = PackedStore(root / paths.PACKED).split_hash(TEST)
    before, decided = made.aliases(root), promotion.gate(root)
    assert looks.earlier(root, None, test_hash) == []
    where = looks.write_down(root, None, scored(root), test_hash, 0, 0)
    assert where.startswith("entry ")
    again = looks.write_down(root, "models:/segops@champion", scored(root, 0.62), test_hash, 1, 1)
    assert again.startswith("entry ")
    entry = made.lines(root)[-1]
    assert (entry["kind"], entry["version"], entry["by"]) == ("tested", "1", "anna")
    assert entry["details"]["test_hash"] == test_hash
    assert (entry["details"]["miou"], entry["details"]["excluded"]) == (0.62, 1)
    first, second = looks.earlier(root, None, test_hash)
    assert (first.model, first.by) == ("version 1", "anna")
    assert second.result.startswith("mIoU 0.620 on 2 images of test")
    assert looks.earlier(root, None, "another split") == []
    assert not (root / paths.TEST_SCORES).exists()

    assert made.aliases(root) == before
    assert promotion.gate(root) == decided
    assert [one.what for one in status(root).decisions][-2:] == ["scored on test"] * 2
    described = made.client(root).get_model_version("segops", "1").description
    assert "mIoU 0.620 on 2 images of test" in str(described)
    assert "Models were scored on it 1 time before" in str(described)
    assert CliRunner().invoke(cli.app, ["ledger", "verify"]).exit_code == 0


@pytest.mark.slow
def test_a_model_that_is_no_version_is_a_line_of_the_checkout(root: Path) -> None:
    made.train(root, seed=1, quality=None)
    runner = CliRunner()
    refused = runner.invoke(cli.app, ["evaluate", "--split", "test", "--limit", "1"])
    assert refused.exit_code == 2
    before = {path: files.sha256_tree(root / path) for path in (paths.PACKED, paths.SEGMENTER)}
    said = runner.invoke(cli.app, ["evaluate", "--split", "test"], catch_exceptions=False).output
    assert "was not scored before" in said
    assert "on 2 images of test" in said
    (line,) = (root / paths.TEST_SCORES).read_text().splitlines()
    tree = json.loads(line)
    assert tree["by"] == "anna"
    assert tree["result"] in " ".join(said.split())
    test_hash = PackedStore(root / paths.PACKED).split_hash(TEST)
    assert tree["test_hash"] == tree["details"]["test_hash"] == test_hash
    assert {path: files.sha256_tree(root / path) for path in before} == before
    told = looks.listed(looks.earlier(root, None, test_hash))
    assert told.startswith("This test split was scored once before:\n")
    # A line that a killed process began does not count, and is cut off.
    with (root / paths.TEST_SCORES).open("a") as file:
        file.write('{"time": ')
    assert looks.write_down(root, None, scored(root), test_hash, 0, 1) == str(paths.TEST_SCORES)
    assert len(looks.earlier(root, None, test_hash)) == 2
    with (root / paths.TEST_SCORES).open("a") as file:
        file.write("{}\n")
    with pytest.raises(SegopsError, match="line 3 is no score on a test split"):
        looks.earlier(root, None, test_hash)


def test_without_a_test_split_it_says_how_to_make_one(root: Path) -> None:
    made.train(root, seed=1, quality=None)
    shutil.rmtree(root / paths.PACKED / TEST)
    said = CliRunner().invoke(cli.app, ["evaluate", "--split", "test"])
    assert said.exit_code == 1
    assert "List its images in ImageSets/Segmentation/test.txt" in str(
        said.exception or said.output
    )

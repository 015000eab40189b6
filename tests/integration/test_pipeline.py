"""The graph of dvc.yaml, run by the real DVC."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from PIL import Image

from segops import files, paths, pipeline
from segops.data.store import PackedStore
from segops.pipeline import tracked
from segops.runtime.errors import SegopsError
from segops.voc.layout import TEST, Layout
from tests.integration.conftest import dvc, segops, set_params

log = logging.getLogger("segops")


def test_stages_come_after_what_they_depend_on(workspace: Path) -> None:
    stages = pipeline.states(workspace)
    assert [stage.name for stage in stages] == [
        "code", "validate", "prepare", "augment", "train", "package", "export", "evaluate",
    ]  # fmt: skip
    upstream = {stage.name: set(stage.upstream) for stage in stages}
    assert upstream["prepare"] == {"code", "validate"}
    assert upstream["train"] == {"code", "prepare", "augment"}


def test_repro_writes_every_declared_output(reproduced: Path) -> None:
    for path in (
        paths.VERDICT, paths.POLICY, paths.AUGMENTATION_SHEET, paths.TRAINED, paths.SEGMENTER,
        paths.PACKAGE, paths.LAST_WEIGHTS, paths.EXPORTS, paths.EXPORT_PARITY,
        paths.EVALUATION, paths.COUNTS, paths.EVALUATION_PAGE, paths.VALIDATION_PAGE,
    ):  # fmt: skip
        assert (reproduced / path).exists(), path
    evaluation = files.read_json(reproduced / paths.EVALUATION)
    assert 0 <= evaluation["miou_low"] <= evaluation["miou_high"] <= 1
    assert evaluation["images"] == 6


def test_second_repro_runs_nothing(reproduced_copy: Path) -> None:
    done = dvc(reproduced_copy, "repro")
    assert done.returncode == 0
    assert done.stdout.count("Running stage") == done.stdout.count("Running stage 'code'") == 1
    assert all(
        pipeline.is_unchanged(reproduced_copy, one.name) for one in pipeline.states(reproduced_copy)
    )


@pytest.mark.slow
def test_a_cosmetic_change_retrains_nothing(reproduced_copy: Path) -> None:
    set_params(reproduced_copy, report={"pictures": False})
    done = dvc(reproduced_copy, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage 'validate'" in done.stdout
    assert "Running stage 'train'" not in done.stdout


@pytest.mark.long
def test_force_trains_again_and_gives_the_same_bytes(reproduced_copy: Path) -> None:
    before = files.read_json(reproduced_copy / paths.TRAINING)
    history = reproduced_copy / ".segops" / "history.jsonl"
    started = json.loads(history.read_text().splitlines()[0])["started"]
    done = dvc(reproduced_copy, "repro", "--force", "train")
    assert done.returncode == 0, done.stderr
    after = files.read_json(reproduced_copy / paths.TRAINING)
    assert json.loads(history.read_text().splitlines()[0])["started"] != started
    assert before["optimizer_steps"] == after["optimizer_steps"] > 0
    assert before["weights_sha256"] == after["weights_sha256"]


def test_bad_data_stop_the_pipeline_before_training(workspace: Path) -> None:
    images = sorted((workspace / "data/voc/JPEGImages").glob("*.jpg"))
    content = images[0].read_bytes()
    images[0].unlink()  # what DVC tracks may be a read-only link
    images[0].write_bytes(content[: len(content) // 2])
    masks = sorted((workspace / "data/voc/SegmentationClass").glob("*.png"))
    masks[3].unlink()
    done = dvc(workspace, "repro")
    assert done.returncode != 0
    for name in (images[0].name, masks[3].name):
        assert name in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    assert not files.read_json(workspace / paths.VERDICT)["passed"]
    assert (workspace / paths.VALIDATION_PAGE).is_file()
    assert not (workspace / paths.PACKED).exists()
    assert not (workspace / paths.SEGMENTER).exists()


def test_a_stage_is_refused_while_another_is_under_way(workspace: Path) -> None:
    with files.exclusive(workspace / paths.STAGE_LOCK, "a stage"):
        done = segops(workspace, "stage", "validate")
    assert done.returncode == 1
    assert "is under way in this workspace" in done.stderr


def test_missing_data_are_named(workspace: Path) -> None:
    (workspace / "data/voc.dvc").unlink()
    with pytest.raises(SegopsError, match="no such directory"):
        tracked.sync_data(workspace, Path("data/elsewhere"), log.info)


def test_new_content_is_tracked_and_forgets_the_sample_remote(workspace: Path) -> None:
    pointer = workspace / "data/voc.dvc"
    pointer.write_text(pointer.read_text() + "  remote: sample\n  push: false\n")
    assert dvc(workspace, "remote", "add", "sample", "data/sample").returncode == 0
    (workspace / "data/voc/extra.txt").write_text("new")
    tracked.sync_data(workspace, Path("data/voc"), log.info)
    assert "remote" not in pointer.read_text()
    assert pipeline.is_unchanged(workspace, "data/voc.dvc")


def test_a_pointer_that_moved_on_brings_its_data(workspace: Path) -> None:
    pointer = workspace / "data/voc.dvc"
    first = pointer.read_text()
    extra = workspace / "data/voc/extra.txt"
    extra.write_text("new")
    assert dvc(workspace, "add", "data/voc").returncode == 0
    pointer.write_text(first)  # as a git pull or checkout does
    tracked.sync_data(workspace, Path("data/voc"), log.info)
    assert not extra.exists()
    assert pointer.read_text() == first


@pytest.mark.slow
def test_a_new_val_image_retrains_nothing(reproduced_copy: Path) -> None:
    voc = reproduced_copy / "data/voc"
    names = (voc / "ImageSets/Segmentation/val.txt").read_text().split()
    listed = voc / "ImageSets/Segmentation/val.txt"
    listed.unlink()  # what DVC tracks may be a read-only link
    listed.write_text("\n".join(names[:-1]) + "\n")
    done = dvc(reproduced_copy, "repro")
    assert done.returncode == 0, done.stderr
    assert "Running stage 'evaluate'" in done.stdout
    assert "Running stage 'train'" not in done.stdout
    assert files.read_json(reproduced_copy / paths.EVALUATION)["images"] == len(names) - 1


@pytest.mark.slow
def test_a_test_split_is_checked_and_packed_and_nothing_else_runs(reproduced_copy: Path) -> None:
    layout = Layout(reproduced_copy / "data/voc")
    first = layout.ids("val")[0]
    for source in (layout.image_path(first), layout.mask_path(first)):
        with Image.open(source) as image:
            turned = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
            turned.save(source.with_stem("turned"))
    layout.write_list(TEST, ["turned"])
    done = dvc(reproduced_copy, "repro")
    assert done.returncode == 0, done.stderr
    assert PackedStore(reproduced_copy / paths.PACKED).ids(TEST) == ("turned",)
    ran = {line.split("'")[1] for line in done.stdout.splitlines() if "Running stage" in line}
    assert ran == {"code", "validate", "prepare"}

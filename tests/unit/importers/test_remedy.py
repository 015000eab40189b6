"""What `segops data use` refuses and an import takes: the message's command does it."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from segops.cli import data as commands
from segops.importers.by_params import use_by_params
from segops.importers.remedy import remedy
from segops.params.data import ClassParams
from segops.params.file import load_params
from segops.runtime.classes import palette
from segops.runtime.errors import SegopsError
from segops.runtime.masks import read_mask
from segops.voc.layout import IMAGES, LISTS, MASKS, Layout, open_layout


def command_for(source: Path, root: Path) -> str:
    """The command that the refusal names, "" where it names none."""
    with pytest.raises(SegopsError) as refused:
        use_by_params(load_params(root).data, source, root / "data/voc")
    lines = [line.strip() for line in str(refused.value).splitlines()]
    return next((line for line in lines if line.startswith("segops data import folder ")), "")


def imported(command: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    """Run a command on the workspace, which DVC does not track, and return its data set."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(commands, "checkout", lambda: root)
    monkeypatch.setattr("segops.pipeline.tracked.require_tracked", lambda *_: None)
    monkeypatch.setattr(commands, "_track", lambda *_: None)
    program, group, *words = shlex.split(command)
    assert (program, group) == ("segops", "data")
    done = CliRunner().invoke(commands.app, words, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return open_layout(root / "data/voc")


def rename_masks(source: Path, change: Callable[[str], str]) -> None:
    for path in (source / MASKS).iterdir():
        path.rename(path.with_name(change(path.name)))


def save_masks(source: Path, suffix: str) -> None:
    """Save the masks again; as JPEG all that is no background becomes white."""
    for path in (source / MASKS).iterdir():
        mask = Image.open(path)
        if suffix == ".jpg":
            mask = Image.fromarray((np.asarray(mask) > 0).astype(np.uint8) * 255)
        mask.save(path.with_suffix(suffix))
        path.unlink()


def colour_masks(source: Path) -> None:
    save_masks(source, ".tif")
    for path in (source / MASKS).iterdir():
        Image.fromarray(palette()[np.asarray(Image.open(path))]).save(path)


def grey_masks(source: Path) -> None:
    """Make the masks TIFFs of 0 and 255."""
    save_masks(source, ".jpg")
    for path in (source / MASKS).iterdir():
        mask = (np.asarray(Image.open(path)) > 127).astype(np.uint8) * 255
        Image.fromarray(mask).save(path.with_suffix(".tif"))
        path.unlink()


def to_trainval(source: Path) -> None:
    layout = Layout(source)
    layout.write_list("trainval", layout.ids("train"))
    for split in ("train", "val"):
        layout.list_path(split).unlink()


def unscored_test(source: Path) -> None:
    """Leave trainval, and a test without masks."""
    for image_id in Layout(source).ids("val"):
        Layout(source).mask_path(image_id).unlink()
    Layout(source).write_list("test", Layout(source).ids("val"))
    to_trainval(source)


def other_names(source: Path) -> None:
    """Name the files img_NUMBER and gt_NUMBER."""
    for number, path in enumerate(sorted((source / IMAGES).iterdir())):
        (source / MASKS / f"{path.stem}.png").rename(source / MASKS / f"gt_{number}.png")
        path.rename(path.with_name(f"img_{number}.jpg"))
        for split in ("train", "val"):
            file = Layout(source).list_path(split)
            file.write_text(file.read_text().replace(f"{path.stem}\n", f"img_{number}\n"))


def nested(source: Path) -> None:
    """Put all files into directories of a camera."""
    for part in (IMAGES, MASKS):
        (source / part / "cam").mkdir()
        for path in (source / part).iterdir():
            if path.is_file():
                path.rename(path.parent / "cam" / path.name)
    for split in ("train", "val"):
        file = Layout(source).list_path(split)
        file.write_text("".join(f"cam/{one}\n" for one in file.read_text().split()))


def without_lists(source: Path) -> None:
    for file in (source / LISTS).iterdir():
        file.unlink()
    (source / LISTS).rmdir()


CASES: dict[str, tuple[Callable[[Path], object], str]] = {
    "no val": (lambda source: Layout(source).list_path("val").unlink(), "--share val=0.2"),
    "no train": (lambda source: Layout(source).list_path("train").unlink(), "--share val=0.2"),
    "trainval": (to_trainval, "--share val=0.2"),
    "trainval and a test without masks": (unscored_test, "trainval.txt"),
    "no lists": (without_lists, "--share val=0.2"),
    "tif": (lambda source: save_masks(source, ".tif"), "--classes voc"),
    "tif of colours": (colour_masks, "--colors voc"),
    "jpg": (lambda source: save_masks(source, ".jpg"), "--threshold 128"),
    "0 and 255": (grey_masks, "--values 0=background,255=foreground"),
    "ID_mask": (
        lambda source: rename_masks(source, lambda name: name.replace(".png", "_mask.png")),
        "--classes voc",
    ),
    "gt_ID": (lambda source: rename_masks(source, "gt_{}".format), "--masks"),
    "img_N and gt_N": (other_names, "--images"),
    "directories": (nested, "--classes voc"),
}


@pytest.mark.parametrize("case", CASES)
def test_the_command_of_the_refusal_works(
    case: str, tiny_voc: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = tiny_voc.rename(tiny_voc.with_name("it's mine"))
    layout, (break_it, option) = Layout(source), CASES[case]
    splits, shapes = layout.splits(), {}
    for image_id in splits["train"]:
        shapes[image_id] = read_mask(layout.mask_path(image_id))
    break_it(source)
    command = command_for(source, root)
    assert option in command
    found = imported(command, root, monkeypatch)
    if "--share" not in command:
        assert {split: len(ids) for split, ids in found.splits().items()} == {"train": 12, "val": 6}
    elif case in ("no train", "no lists"):
        assert sum(map(len, found.splits().values())) == 18
    else:
        assert {*found.ids("train"), *found.ids("val")} == {*splits["train"]}
    both = shapes.keys() & {*found.ids("train")}
    assert both or case in ("img_N and gt_N", "directories")
    for image_id in both if option in ("--classes voc", "--colors voc", "--masks") else ():
        np.testing.assert_array_equal(read_mask(found.mask_path(image_id)), shapes[image_id])


def test_the_data_in_place_can_be_imported_from_themselves(
    tiny_voc: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "data").mkdir()
    place = tiny_voc.rename(root / "data/voc")
    save_masks(place, ".tif")
    command = command_for(place, root)
    assert {*imported(command, root, monkeypatch).splits()} == {"train", "val"}


def test_classes_of_the_parameters_are_named(tiny_voc: Path, root: Path) -> None:
    save_masks(tiny_voc, ".tif")
    names = tuple(f"c {number}" for number in range(21))
    data = load_params(root).data
    named = data.model_copy(update={"classes": tuple(ClassParams(name=one) for one in names)})
    assert f"--classes {shlex.quote(','.join(names))}" in remedy(tiny_voc, named)
    few = data.model_copy(update={"classes": (ClassParams(name="a"), ClassParams(name="b"))})
    assert "--classes class0,class1," in remedy(tiny_voc, few)
    mapped = [ClassParams(name=one, ids=(20 - number,)) for number, one in enumerate(names)]
    other = data.model_copy(update={"classes": tuple(mapped), "ignore": (77,)})
    assert "20=c 0,19=c 1," in remedy(tiny_voc, other)
    assert "--ignore 77,255" in remedy(tiny_voc, other)


@pytest.mark.parametrize("split", ["train", "val"])
def test_the_user_s_own_division_stays(split: str, tiny_voc: Path, root: Path) -> None:
    layout = Layout(tiny_voc)
    layout.mask_path(layout.ids(split)[0]).unlink()
    assert command_for(tiny_voc, root) == ""


def test_masks_of_several_classes_in_jpeg_have_no_command(tiny_voc: Path, root: Path) -> None:
    for path in (tiny_voc / MASKS).iterdir():
        Image.fromarray(np.asarray(Image.open(path))).save(path.with_suffix(".jpg"))
        path.unlink()
    assert command_for(tiny_voc, root) == ""


def test_names_that_an_option_cannot_hold_have_no_command(tiny_voc: Path, root: Path) -> None:
    save_masks(tiny_voc, ".tif")
    data = load_params(root).data
    for name in ("a, b", "a=b", " a"):
        classes = (ClassParams(name="c"), ClassParams.model_construct(name=name, ids=None))
        assert remedy(tiny_voc, data.model_copy(update={"classes": classes})) == ""


def test_images_to_leave_out_are_not_brought_back(tiny_voc: Path, root: Path) -> None:
    save_masks(tiny_voc, ".tif")
    unwanted = Layout(tiny_voc).ids("train")[:1]
    with pytest.raises(SegopsError) as refused:
        use_by_params(load_params(root).data, tiny_voc, root / "data/voc", unwanted)
    assert "data import folder" not in str(refused.value)


def test_a_directory_without_masks_is_not_searched(tmp_path: Path, root: Path) -> None:
    (tmp_path / "other/JPEGImages").mkdir(parents=True)
    assert remedy(tmp_path / "other", load_params(root).data) == ""

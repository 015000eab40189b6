"""How images are divided: by lists, shares, groups and classes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from segops.importers.splits import Division, divide, parsed_shares, read_lists
from segops.runtime.errors import SegopsError
from tests.unit.importers.conftest import Run, greyscale, pictures, small_coco, write_json

IDS = [f"scene_{number // 5:02d}_{number % 5}" for number in range(100)]
NONE: dict[str, str | None] = dict.fromkeys(IDS)
CLASSES: dict[str, list[int]] = {image_id: [0] for image_id in IDS}


def test_added_images_move_no_other_image() -> None:
    shares = Division(shares={"val": 0.2, "test": 0.1})
    before = divide(shares, NONE, CLASSES, {})
    counts = Counter(before.values())
    assert 10 <= counts["val"] <= 30
    assert 3 <= counts["test"] <= 18
    more = {**NONE, **{f"new{number}": None for number in range(50)}}
    after = divide(shares, more, {image_id: [0] for image_id in more}, {})
    assert {image_id: after[image_id] for image_id in IDS} == before


@pytest.mark.parametrize("stratify", [False, True])
def test_images_that_are_added_to_few_groups_move_none(stratify: bool) -> None:
    """A new image may come first in its group, and new groups may be those that chance takes."""
    division = Division(shares={"val": 0.3}, group="^(s[0-9]+)", stratify=stratify)

    def divided(names: list[str], before: dict[str, str]) -> dict[str, str]:
        given: dict[str, str | None] = dict.fromkeys(names)
        return divide(division, given, {one: [int(one[1:3]) % 4] for one in names}, before)

    for first in range(40):
        groups = [f"s{number:02d}" for number in range(first, first + 6)]
        names = [f"{group}_{one}" for group in groups for one in "bc"]
        before = divided(names, {})
        more = [f"{group}_a" for group in groups] + [f"s{99 - one}_a" for one in range(4)]
        after = divided([*more, *names], before)
        assert {name: after[name] for name in names} == before
        assert all(after[f"{group}_a"] == before[f"{group}_b"] for group in groups)


def test_groups_stay_together() -> None:
    division = Division(shares={"val": 0.3}, group=r"scene_(\d+)_.*")
    splits = divide(division, NONE, CLASSES, {})
    by_scene: dict[str, set[str]] = {}
    for image_id, split in splits.items():
        by_scene.setdefault(image_id[:8], set()).add(split)
    assert all(len(found) == 1 for found in by_scene.values())
    assert set(splits.values()) == {"train", "val"}


def test_rare_classes_are_divided_evenly() -> None:
    classes = {image_id: [0, 1] if number % 10 == 0 else [0] for number, image_id in enumerate(IDS)}
    division = Division(shares={"val": 0.2}, stratify=True)
    splits = divide(division, NONE, classes, {})
    rare = Counter(splits[image_id] for image_id in IDS if 1 in classes[image_id])
    assert rare == {"train": 8, "val": 2}
    assert Counter(splits.values()) == {"train": 80, "val": 20}
    more = {**NONE, **{f"new{number}": None for number in range(20)}}
    again = divide(
        division, more, classes | {one: [0, 1] for one in more if one not in NONE}, splits
    )
    assert {image_id: again[image_id] for image_id in IDS} == splits


def test_what_is_given_stays_and_val_is_taken_from_train() -> None:
    given = {image_id: "test" if number < 10 else "train" for number, image_id in enumerate(IDS)}
    splits = divide(Division(), given, CLASSES, {})
    assert all(splits[image_id] == "test" for image_id in IDS[:10])
    assert set(splits.values()) == {"train", "val", "test"}
    given = {image_id: "val" if number < 10 else "train" for number, image_id in enumerate(IDS)}
    assert divide(Division(), given, CLASSES, {}) == given


@pytest.mark.parametrize(
    ("option", "division"),
    [
        ("--share", Division(shares={"test": 0.5})),
        ("--group", Division(group="scene_(.*)_")),
        ("--stratify", Division(stratify=True)),
    ],
)
def test_what_would_do_nothing_is_refused(option: str, division: Division) -> None:
    given = {image_id: "val" if number < 10 else "train" for number, image_id in enumerate(IDS)}
    with pytest.raises(SegopsError, match=f"{option}: does nothing"):
        divide(division, given, CLASSES, {})


def test_a_few_images_have_a_val() -> None:
    few: dict[str, str | None] = dict.fromkeys(["a", "b"])
    splits = divide(Division(), few, {"a": [0], "b": [0]}, {})
    assert set(splits.values()) == {"train", "val"}
    with pytest.raises(SegopsError, match="no image is in val"):
        divide(Division(), {"a": None}, {"a": [0]}, {})


def test_chance_leaves_no_split_empty() -> None:
    """The hashes of these groups are all below 0.25, those of the others all above."""
    for keys in (["00", "01", "02", "03"], ["04", "05", "06", "07"]):
        ids: dict[str, str | None] = dict.fromkeys(
            f"seq{key}_{one}" for key in keys for one in "ab"
        )
        division = Division(shares={"val": 0.25}, group=r"seq(\d+)")
        splits = divide(division, ids, {image_id: [0] for image_id in ids}, {})
        assert set(splits.values()) == {"train", "val"}


PHOTOGRAPHS = {Path(f"/d/images/{name}.png"): name for name in ("a", "b", "c")}
SPLITS = dict(zip(PHOTOGRAPHS, ("train", "train", "val"), strict=True))


def named(*names: str) -> dict[Path, str]:
    return {Path(f"/d/images/{name}"): Path(name).stem for name in names}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("split.yaml", "train: [images/a.png, b]\nval:\n- c.png\n"),
        ("split.json", '{"training": ["a", "b.png"], "valid": ["c"]}'),
        ("split.yaml", "train: [a]\ntraining: [b]\nval: [c]\nepochs: [3]\ntest:\nnc: 2\nnc: 3\n"),
    ],
)
def test_lists_in_a_file(tmp_path: Path, name: str, content: str) -> None:
    (tmp_path / name).write_text(content)
    assert read_lists(tmp_path / name).match(PHOTOGRAPHS) == (SPLITS, [])


def test_lists_in_a_directory(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("\ufeffimages/a.png masks/a.png\n\n")
    (tmp_path / "Training.txt").write_text("b\n")
    (tmp_path / "val.txt").write_text("c.png\r\n")
    (tmp_path / "notes.txt").write_text("z\n")
    assert read_lists(tmp_path).match(PHOTOGRAPHS) == (SPLITS, [])
    (tmp_path / "val.txt").write_text("a\nz\n")
    _, problems = read_lists(tmp_path).match(PHOTOGRAPHS)
    assert problems[0].endswith("1 listed images are not there: z")
    assert problems[1].endswith("1 in two splits: a")


@pytest.mark.parametrize(
    ("photographs", "lines", "expected"),
    [
        (("A/1.png", "B/1.png"), "A/1.png", ["A/1.png"]),
        (("A/1.png", "B/1.png"), "/home/me/images/B/1", ["B/1.png"]),
        (("road.v2.png",), "road.v2", ["road.v2.png"]),
        (("Screenshot 9.png",), "Screenshot 9.png", ["Screenshot 9.png"]),
        (("Screenshot 9.png",), "x/Screenshot 9.png\tmasks/9.png", ["Screenshot 9.png"]),
        (("a.png",), "old\\a.png", ["a.png"]),
    ],
)
def test_a_line_names_a_path(
    tmp_path: Path, photographs: tuple[str, ...], lines: str, expected: list[str]
) -> None:
    (tmp_path / "train.txt").write_text(lines)
    splits, problems = read_lists(tmp_path).match(named(*photographs))
    assert problems == []
    assert list(splits) == [Path("/d/images") / name for name in expected]


def test_a_line_that_may_be_two_photographs(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("1.png")
    _, problems = read_lists(tmp_path).match(named("A/1.png", "B/1.png"))
    assert "1.png may be /d/images/A/1.png, /d/images/B/1.png" in problems[0]


def test_names_of_digits_and_items_that_are_none(tmp_path: Path) -> None:
    """YAML itself reads 2011_000003 as a number."""
    path = tmp_path / "lists.yaml"
    path.write_text("train: [2011_000003, 0010, true]\n")
    assert [line for _, line in read_lists(path).entries] == ["2011_000003", "0010", "true"]
    for text in (
        "train: [a]\nval: [b]\ntest: lists/test.txt",
        '{"train": ["a"], "test": {"x": "b"}}',
        "train: [a]\ntrain: [b]\nval: [c]",
        "train: &a [*a]",
        "train: [[a]]",
        "a: &a [x, x]\ntrain: [*a, *a]",
        "train: [" * 3000,
        "train: [a",
    ):
        path.write_text(text)
        with pytest.raises(SegopsError, match=r"lists\.yaml"):
            read_lists(path)


@pytest.mark.parametrize(
    ("pairs", "words"),
    [
        ({"val": "2"}, "val=2"),
        ({"train": "0.5"}, "train=0.5"),
        ({"val": "x"}, "val=x"),
        ({"val": "0.6", "test": "0.5"}, "leave nothing for train"),
    ],
)
def test_shares_that_are_none(pairs: dict[str, str], words: str) -> None:
    with pytest.raises(SegopsError, match=words):
        parsed_shares(pairs)


@pytest.mark.parametrize(("pattern", "words"), [("(", "no regular"), ("x(.)", "not fit scene")])
def test_patterns_that_do_not_fit(pattern: str, words: str) -> None:
    with pytest.raises(SegopsError, match=words):
        divide(Division(group=pattern), NONE, CLASSES, {})


def test_images_of_a_list_are_left_out(source: Path, run_import: Run) -> None:
    names = [f"{number}.png" for number in range(6)]
    pictures(source, *names)
    write_json(source / "train.json", small_coco(*names[:4]))
    write_json(source / "val.json", small_coco(*names[4:]))
    unwanted = ("0", "5", "elsewhere")
    imported = run_import("coco", source, without=unwanted)
    ids = {split: imported.layout.ids(split) for split in ("train", "val")}
    assert ids == {"train": ("1", "2", "3"), "val": ("4",)}
    assert not imported.layout.image_path("0").exists()
    with pytest.raises(SegopsError, match="none of the 1 images to leave out is in the data"):
        run_import("coco", source, without=("elsewhere",))


def test_splits_that_another_source_gave_are_not_kept(source: Path, run_import: Run) -> None:
    names = [f"{number}.png" for number in range(20)]
    for form, splits in (("a", ["train"] * 6 + ["val"] * 14), ("b", [""] * 20), ("c", [""] * 20)):
        for name, split in zip(names, splits, strict=True):
            pictures(source / form / "images" / split, name)
            greyscale(source / form / "masks" / split / name, np.eye(30, 40, dtype=np.uint8))
    given = run_import("folder", source / "a", values="0=a,1=b").layout.ids("val")
    assert len(given) == 14
    divided = run_import("folder", source / "b", values="0=a,1=b").layout.ids("val")
    assert len(divided) < 14
    assert run_import("folder", source / "c", values="0=a,1=b").layout.ids("val") == divided

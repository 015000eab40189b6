"""`segops data use`: a user's own data take the sample's place and lose nothing."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from segops import paths, pipeline
from segops.pipeline import cache, tracked
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout
from tests.integration.conftest import dvc, segops, set_params
from tests.support.registry_workspace import git
from tools.sample import generate


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """Another data set, 5 train and 2 val images."""
    target = tmp_path / "own"
    generate(target, train=5, val=2, seed=9, size=(80, 64))
    return target


def test_own_data_are_put_in_place_and_tracked(workspace: Path, own: Path) -> None:
    pointer = workspace / "data/voc.dvc"
    before = yaml.safe_load(pointer.read_text())["outs"][0]["md5"]
    done = segops(workspace, "data", "use", str(own))
    assert done.returncode == 0, done.stderr
    assert "5 train, 2 val" in done.stdout
    output = yaml.safe_load(pointer.read_text())["outs"][0]
    assert output["md5"] != before
    assert "remote" not in output
    found = open_layout(workspace / "data/voc").splits()
    assert {split: len(ids) for split, ids in found.items()} == {"train": 5, "val": 2}
    # What was there before is still to be had from DVC's cache.
    pointer.write_text(pointer.read_text().replace(output["md5"], before))
    assert dvc(workspace, "checkout", "--force", "data/voc.dvc").returncode == 0
    assert len(open_layout(workspace / "data/voc").ids("train")) == 12


def test_data_of_another_format_are_imported(workspace: Path, tmp_path: Path) -> None:
    source = tmp_path / "my cracks"
    for number in range(10):
        mask = np.zeros((48, 64), np.uint8)
        mask[4 * number : 4 * number + 5, 10:50] = 255
        for folder, array in (
            ("images", np.full((48, 64, 3), 20 * number, np.uint8)),
            ("masks", mask),
        ):
            (source / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(source / folder / f"{number}.png")
    kept = (workspace / "data/voc.dvc", workspace / "params.yaml")
    before = [path.read_text() for path in kept]
    command = ["data", "import", "folder", str(source)]
    done = segops(workspace, *command)
    assert done.returncode == 1
    assert "label 255 is not mapped: 2000 pixels" in done.stderr
    assert [path.read_text() for path in kept] == before
    done = segops(workspace, *command, "--values", "0=background,255=crack", "--share", "val=0.3")
    assert done.returncode == 0, done.stderr
    assert "params.yaml: data.classes is ['background', 'crack']; it was voc." in done.stdout
    layout = open_layout(workspace / "data/voc")
    assert sum(len(ids) for ids in layout.splits().values()) == 10
    params = yaml.safe_load((workspace / "params.yaml").read_text())
    assert params["data"]["classes"] == ["background", "crack"]
    assert params["validate"]["required_classes"] == ["background"], "it was there before"


@pytest.mark.parametrize(
    ("key", "value", "name"),
    [("metadata", "m.csv", "m.csv"), ("unlabelled", "more", "ImageSets/Segmentation/more.txt")],
)
@pytest.mark.parametrize("command", [("fetch", "voc2012"), ("import", "folder")])
def test_what_params_yaml_names_is_not_lost_by_data_without_it(
    key: str, value: str, name: str, command: tuple[str, str], own: Path, workspace: Path
) -> None:
    set_params(workspace, data={key: value})
    kept = (workspace / "data/voc.dvc", workspace / "params.yaml")
    before = [path.read_text() for path in kept]
    source = [str(own)] if command[0] == "import" else ["--mirror", own.as_uri()]
    done = segops(workspace, "data", *command, *source)
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"params.yaml: data.{key} needs {name} in data/voc, which `segops data" in said
    assert f"Set data.{key} to null and run the command again" in said
    assert [path.read_text() for path in kept] == before
    assert not list((workspace / paths.STATE).glob("downloads"))


def test_untracked_content_is_not_replaced(workspace: Path, own: Path) -> None:
    extra = workspace / "data/voc/notes.txt"
    extra.write_text("mine")
    done = segops(workspace, "data", "use", str(own))
    assert done.returncode == 1
    assert "does not track" in done.stderr
    assert extra.read_text() == "mine"


def test_dvc_is_not_started_on_a_pipe(workspace: Path) -> None:
    """DVC would wait for ever for its content."""
    data = Path("data/voc")
    os.mkfifo(workspace / data / "JPEGImages/pipe.jpg")
    (workspace / data / "JPEGImages/zero").symlink_to("/dev/zero")
    (workspace / data / "gone").symlink_to("nowhere")
    for step in (
        partial(pipeline.states, workspace),
        partial(pipeline.is_unchanged, workspace, "validate"),
        partial(tracked.require_tracked, workspace, data),
        partial(tracked.sync_data, workspace, data, print),
        partial(tracked.track_data, workspace, data, print),
    ):
        with pytest.raises(SegopsError) as refused:
            step()
        assert "data/voc: remove what is no file:" in str(refused.value)
        assert "JPEGImages/pipe.jpg: a pipe\n" in str(refused.value)
        assert "JPEGImages/zero: a device" in str(refused.value)
        assert "gone: a link that leads nowhere" in str(refused.value)


@pytest.mark.parametrize("place", ["src", "tests/unit"])
def test_data_do_not_go_where_git_tracks_files(place: str, workspace: Path, own: Path) -> None:
    (workspace / place).mkdir(parents=True, exist_ok=True)
    (workspace / place / "mine.py").touch()
    git(workspace, "add", "--force", place)
    set_params(workspace, data={"path": place})
    done = segops(workspace, "data", "use", str(own))
    assert done.returncode == 1
    said = " ".join(done.stderr.split())
    assert f"{place}: git tracks files in it" in said
    assert "Set data.path in params.yaml to a directory of its own" in said
    assert (workspace / place / "mine.py").is_file()


@pytest.mark.parametrize("name", ["a@b", "a$HOME b\u00e4"])
def test_a_checkout_may_lie_anywhere(name: str, workspace: Path) -> None:
    root = workspace.rename(workspace.with_name(name))
    states = {state.name: state.state for state in pipeline.states(root)}
    assert states["validate"] == "stale"
    assert not pipeline.is_unchanged(root, "validate")
    tracked.require_tracked(root, Path("data/voc"))


def test_a_worktree_of_a_checkout_that_dvc_cannot_name_is_refused(
    workspace: Path, tmp_path: Path
) -> None:
    root, tree = workspace.rename(workspace.with_name("\u00e4")), tmp_path / "tree"
    (tree / ".dvc").mkdir(parents=True)
    with pytest.raises(SegopsError, match="DVC writes no configuration with other than ASCII"):
        cache.share(root, tree, root)


@pytest.mark.parametrize("link", ["data/linked", "linked/voc"])
def test_data_behind_a_link_are_refused_before_anything_is_copied(
    link: str, workspace: Path, own: Path, tmp_path: Path
) -> None:
    (tmp_path / "elsewhere").mkdir()
    place = workspace / ("linked" if link.startswith("linked") else link)
    place.symlink_to(tmp_path / "elsewhere")
    set_params(workspace, data={"path": link})
    done = segops(workspace, "data", "use", str(own))
    assert done.returncode == 1
    assert "DVC tracks no directory behind a link. Remove the link" in " ".join(done.stderr.split())
    assert list((tmp_path / "elsewhere").iterdir()) == []
    place.unlink()  # the advice
    (workspace / link).parent.mkdir(exist_ok=True)
    with pytest.raises(SegopsError, match="no such directory"):
        tracked.sync_data(workspace, Path(link), print)


@pytest.mark.parametrize("name", ["a?b", "a{b", "a}b", "a%41b"])
def test_a_path_that_a_tool_would_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / name / "in").mkdir(parents=True)
    (tmp_path / name / "dvc.yaml").touch()
    with pytest.raises(SegopsError, match="the path of a checkout must not hold"):
        paths.workspace(tmp_path / name / "in")


def test_incomplete_data_are_refused_and_change_nothing(workspace: Path, own: Path) -> None:
    for mask in sorted((own / "SegmentationClass").glob("*.png"))[:2]:
        mask.unlink()
    pointer = (workspace / "data/voc.dvc").read_text()
    done = segops(workspace, "data", "use", str(own))
    assert done.returncode == 1
    assert done.stderr.count(".png") >= 2
    assert "Traceback" not in done.stderr
    assert (workspace / "data/voc.dvc").read_text() == pointer
    assert len(open_layout(workspace / "data/voc").ids("train")) == 12

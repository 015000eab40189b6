"""`segops data diff`: the data in the checkout against those of a commit, by the real DVC."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.files import sha256_tree
from segops.operate.data_diff import PAGE, diff
from segops.params.file import load_params
from segops.runtime.errors import SegopsError
from segops.runtime.masks import encode_mask, read_mask
from segops.voc.layout import Layout, open_layout
from tests.integration.conftest import dvc, git, segops


@pytest.fixture
def layout(workspace: Path) -> Layout:
    return open_layout(workspace / "data/voc")


def relabel(layout: Layout, image_id: str) -> None:
    """Four by four pixels of a mask become another class."""
    mask = read_mask(layout.mask_path(image_id))
    mask[:4, :4] = 3
    layout.mask_path(image_id).unlink()  # it may be a link to DVC's cache
    layout.mask_path(image_id).write_bytes(encode_mask(mask))


def test_what_is_not_tracked_yet_is_compared_with_a_commit(workspace: Path, layout: Layout) -> None:
    train, val = list(layout.ids("train")), list(layout.ids("val"))
    first = train[0]
    relabel(layout, first)
    hostile = "<b>new"
    shutil.copy(layout.image_path(first), layout.image_path(hostile))
    shutil.copy(layout.mask_path(first), layout.mask_path(hostile))
    layout.write_list("train", [*train[:-2], hostile])
    layout.write_list("val", [*val, train[-1]])
    kept = {path: sha256_tree(workspace / path) for path in ("data/voc", ".dvc/cache")}
    done = segops(workspace, "data", "diff")
    assert done.returncode == 0, done.stderr
    assert "1 image added: 1 in train." in done.stdout
    assert "1 image removed: 1 in train." in done.stdout
    assert "1 image moved between splits: 1 from train to val." in done.stdout
    assert "1 mask changed." in done.stdout
    assert "→ bird" in done.stdout
    page = (workspace / PAGE).read_text()
    assert "&lt;b&gt;new" in page
    assert hostile not in page
    assert page.count("data:image/jpeg") == 5  # before, now, what differs; added; removed
    assert {path: sha256_tree(workspace / path) for path in kept} == kept
    assert git(workspace, "status", "--short") in ("", f"?? {PAGE.parent}/")


def test_versions_are_compared_after_they_are_committed(workspace: Path, layout: Layout) -> None:
    settings = load_params(workspace)
    changes = diff(workspace, settings, "main", workspace / "page.html")
    assert changes.is_empty
    git(workspace, "tag", "before")
    relabel(layout, layout.ids("val")[0])
    assert dvc(workspace, "add", "data/voc").returncode == 0
    git(workspace, "commit", "--all", "--message", "other labels")
    changes = diff(workspace, settings, "before", workspace / "page.html")
    assert [one.image_id for one in changes.changed] == [layout.ids("val")[0]]
    assert diff(workspace, settings, "HEAD", workspace / "page.html").is_empty


def test_the_commits_own_classes_count(workspace: Path, layout: Layout) -> None:
    text = (workspace / "params.yaml").read_text()
    names = list(load_params(workspace).data.class_names)
    other = text.replace("classes: voc", f"classes: {[names[0], 'craft', *names[2:]]}")
    (workspace / "params.yaml").write_text(other)
    changes = diff(workspace, load_params(workspace), "HEAD", workspace / "page.html")
    pairs = {(one.before, one.after) for one in changes.relabelled}
    assert pairs == {("aeroplane", "craft")}
    assert all(one.photograph == "same" for one in changes.changed)


def test_what_is_not_there_is_named(workspace: Path) -> None:
    settings, page = load_params(workspace), workspace / "page.html"
    with pytest.raises(SegopsError, match=r"^nowhere: git knows no such commit"):
        diff(workspace, settings, "nowhere", page)
    with pytest.raises(SegopsError, match=r"^--all: git knows no such commit"):
        diff(workspace, settings, "--all", page)
    git(workspace, "rm", "--cached", "data/voc.dvc")
    git(workspace, "commit", "--message", "without data")
    with pytest.raises(SegopsError, match=r"^data/voc\.dvc: not in HEAD: .* `git log"):
        diff(workspace, settings, "HEAD", page)
    cached = sorted((workspace / ".dvc/cache/files/md5").glob("*/*"))
    lost = next(path for path in cached if path.suffix != ".dir")
    lost.unlink()
    match = r"lacks 1 of its \d+ files\. `dvc fetch --all-commits data/voc\.dvc` gets"
    with pytest.raises(SegopsError, match=match):
        diff(workspace, settings, "HEAD~1", page)
    listed = next(path for path in cached if path.suffix == ".dir")
    content = listed.read_text()
    for harmful in (
        content.replace("JPEGImages/", "../"),
        content.replace('"md5": "', '"md5": "../'),
    ):
        listed.unlink()
        listed.write_text(harmful)
        with pytest.raises(SegopsError, match=r"\.dir: damaged\. Delete it; `dvc fetch"):
            diff(workspace, settings, "HEAD~1", page)
    listed.unlink()
    with pytest.raises(SegopsError, match=r"cache does not hold it\. `dvc fetch"):
        diff(workspace, settings, "HEAD~1", page)
    assert not page.exists()


@pytest.mark.slow
def test_fetching_as_the_message_says_helps(workspace: Path, tmp_path: Path) -> None:
    remote = tmp_path / "remote"
    assert dvc(workspace, "remote", "add", "--default", "store", str(remote)).returncode == 0
    assert dvc(workspace, "push").returncode == 0
    git(workspace, "commit", "--all", "--message", "remote")
    shutil.rmtree(workspace / ".dvc/cache")
    settings, page = load_params(workspace), workspace / "page.html"
    with pytest.raises(SegopsError, match="dvc fetch --all-commits"):
        diff(workspace, settings, "HEAD~1", page)
    assert dvc(workspace, "fetch", "--all-commits", "data/voc.dvc").returncode == 0
    assert diff(workspace, settings, "HEAD~1", page).is_empty


def test_a_photograph_that_was_saved_again_is_no_change(workspace: Path, layout: Layout) -> None:
    path = layout.image_path(layout.ids("train")[0])
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"))
    path.unlink()
    Image.fromarray(pixels).save(path.with_suffix(".png"))
    changes = diff(workspace, load_params(workspace), "HEAD", workspace / "page.html")
    assert (changes.rewritten, changes.is_empty) == (1, True)

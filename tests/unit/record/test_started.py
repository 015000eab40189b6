"""From which code a training started, while the checkout moves on."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from segops import files
from segops.record import started
from segops.record.lineage import tag
from tests.support.registry_workspace import git


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout whose code differs from its commit."""
    git(tmp_path, "init", "-q")
    (tmp_path / "src").mkdir()
    (tmp_path / "src/code.py").write_text("CODE = 1\n")
    git(tmp_path, "add", "-A")
    git(tmp_path, "commit", "-q", "-m", "first")
    (tmp_path / "src/code.py").write_bytes(b"CODE = '\xe4'\n")
    return tmp_path


def commit(root: Path) -> str:
    git(root, "commit", "-q", "-a", "-m", "next")
    return git(root, "rev-parse", "HEAD").strip()


def test_the_code_of_the_start_is_told_after_the_next_commit(root: Path) -> None:
    first = git(root, "rev-parse", "HEAD").strip()
    started.keep(root, "a", goes_on=False)
    second = commit(root)
    found = started.origin(root, "a")
    assert found.tags[tag("code_commit")] == first
    assert found.tags[tag("code_patch")] == files.sha256_bytes(found.artifacts["code.patch"])
    assert b"CODE = '\xe4'" in found.artifacts["code.patch"]
    assert b"torch==" in found.artifacts["environment.txt"]
    assert started.origin(root, "b").tags[tag("code_commit")] == second


@pytest.mark.parametrize(("goes_on", "is_first"), [(True, True), (False, False)])
def test_an_interrupted_training_keeps_its_start(root: Path, goes_on: bool, is_first: bool) -> None:
    first = git(root, "rev-parse", "HEAD").strip()
    started.keep(root, "a", goes_on=False)
    commit(root)
    started.keep(root, "a", goes_on=goes_on)
    assert (started.origin(root, "a").tags[tag("code_commit")] == first) == is_first


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"tags": [], "environment.txt": 1}'])
def test_a_file_that_is_damaged_counts_as_none(root: Path, content: str) -> None:
    started.keep(root, "a", goes_on=False)
    (root / started.FILE).write_text(content)
    second = commit(root)
    assert started.origin(root, "a").tags[tag("code_commit")] == second


def test_a_patch_that_is_another_counts_as_none(root: Path) -> None:
    started.keep(root, "a", goes_on=False)
    (root / started.PATCH).write_text("another")
    second = commit(root)
    assert started.origin(root, "a").tags[tag("code_commit")] == second


def test_a_disk_that_is_full_is_a_warning(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    started.keep(root, "a", goes_on=False)
    shutil.rmtree(root / ".segops")
    (root / ".segops").write_text("in the way")
    with caplog.at_level(logging.WARNING):
        started.keep(root, "a", goes_on=False)
    assert "was not written" in caplog.text

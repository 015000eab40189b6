"""What of DVC's cache a clean-up may take: nothing that a branch, a tag or a worktree names."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.pipeline import cache
from tests.integration.conftest import git


def put(root: Path, digest: str) -> Path:
    """An object in DVC's cache."""
    place = root / ".dvc/cache/files/md5" / digest[:2] / digest[2:]
    place.parent.mkdir(parents=True, exist_ok=True)
    place.write_text(digest)
    return place


def point(root: Path, digest: str) -> None:
    """A file that DVC tracks."""
    output = f"outs:\n- md5: {digest}\n  size: 32\n  hash: md5\n  path: other\n"
    (root / "other.dvc").write_text(output)


def test_what_git_and_worktrees_name_stays(
    workspace: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    digests = [number * 31 + "f" for number in "0123456789"]
    branch, tagged, worktree, present, kept, *unused = digests
    objects = {digest: put(workspace, digest) for digest in digests}
    for number, digest in enumerate((branch, tagged)):
        git(workspace, "checkout", "-q", "-b", f"branch-{number}")
        point(workspace, digest)
        git(workspace, "add", "other.dvc")
        git(workspace, "commit", "-q", "-m", "other")
        if digest == tagged:
            git(workspace, "tag", "model/segops/v1")
        git(workspace, "checkout", "-q", "main")
    git(workspace, "branch", "-q", "-D", "branch-1")
    other = workspace.with_name("worktree")
    git(workspace, "worktree", "add", "-q", "--detach", str(other))
    point(other, worktree)
    point(workspace, present)
    with cache.unused_objects(workspace, [other], {kept}) as found:
        assert sorted(found) == sorted(objects[digest] for digest in unused)
    told = capfd.readouterr()
    assert "missing version info" not in told.out + told.err

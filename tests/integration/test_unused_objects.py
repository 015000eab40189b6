"""What of DVC's cache a clean-up may take: nothing that a branch, a tag or a worktree names."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops import pipeline
from segops.pipeline import cache
from segops.runtime.errors import SegopsError
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


def test_a_hash_that_is_a_number_for_yaml_is_told_with_its_file(workspace: Path) -> None:
    digest = 16 * "12"
    point(workspace, digest)
    for meets in (
        lambda: pipeline.is_unchanged(workspace, "other.dvc"),
        lambda: pipeline.states(workspace),
        lambda: pipeline.run_dvc(workspace, ["add", "params.yaml"], print),
    ):
        with pytest.raises(SegopsError, match=rf"{workspace}/other\.dvc: md5 {digest} of other is"):
            meets()
    git(workspace, "checkout", "-q", "-b", "numbered")
    git(workspace, "add", "other.dvc")
    git(workspace, "commit", "-q", "-m", "other")
    git(workspace, "checkout", "-q", "main")
    told = r"other\.dvc of commit [0-9a-f]{12}: md5 .* write it in quotes\."
    with pytest.raises(SegopsError, match=told), cache.unused_objects(workspace, [], ()):
        pass

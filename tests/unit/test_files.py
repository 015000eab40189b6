"""Outputs are written whole or not at all, and state has one home."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segops import files, paths
from segops.runtime.errors import SegopsError


def test_atomic_path_keeps_the_old_content_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    files.write_text(target, "old")
    with pytest.raises(RuntimeError), files.atomic_path(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_atomic_directory_replaces_and_keeps_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with files.atomic_directory(target) as temporary:
        (temporary / "a").write_text("1")
    with files.atomic_directory(target) as temporary:
        (temporary / "b").write_text("2")
    assert [path.name for path in target.iterdir()] == ["b"]
    with pytest.raises(RuntimeError), files.atomic_directory(target) as temporary:
        (temporary / "c").write_text("3")
        raise RuntimeError
    assert [path.name for path in target.iterdir()] == ["b"]
    assert list(tmp_path.iterdir()) == [target]


def test_json_refuses_nan(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        files.write_json(tmp_path / "a.json", {"miou": float("nan")})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("content", "expected"), [(None, "no such file"), ("{", "not JSON")])
def test_read_json_names_the_file(tmp_path: Path, content: str | None, expected: str) -> None:
    path = tmp_path / "a.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(SegopsError, match=expected) as caught:
        files.read_json(path)
    assert str(path) in str(caught.value)


def test_tree_hash_sees_names_and_contents(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("1")
    first = files.sha256_tree(tmp_path)
    (tmp_path / "__pycache__").mkdir()
    (tmp_path / "__pycache__" / "a.pyc").write_text("x")
    assert files.sha256_tree(tmp_path) == first
    (tmp_path / "a").rename(tmp_path / "b")
    assert files.sha256_tree(tmp_path) != first


HOLD = """
import sys, time
from pathlib import Path
from segops import files, paths
with files.exclusive(Path(sys.argv[1]), "a run"):
    print("held", flush=True)
    time.sleep(60)
"""


def test_lock_refuses_a_second_holder_and_a_kill_frees_it(tmp_path: Path) -> None:
    lock = tmp_path / "state" / "run.lock"
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    with pytest.raises(SegopsError, match="a run is under way"), files.exclusive(lock, "a run"):
        pass
    holder.kill()
    holder.wait()
    with files.exclusive(lock, "a run"):
        pass


def test_workspace_is_found_from_below_and_its_lack_is_named(tmp_path: Path) -> None:
    (tmp_path / "dvc.yaml").write_text("stages: {}\n")
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    assert paths.workspace(below) == tmp_path
    with pytest.raises(SegopsError, match=r"no dvc\.yaml"):
        paths.workspace(Path("/"))


def test_state_home_of_a_worktree_and_of_an_experiment_is_the_main_checkout(tmp_path: Path) -> None:
    main = tmp_path / "main"
    main.mkdir()

    def git(*arguments: str) -> None:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", *identity, *arguments], cwd=main, check=True, capture_output=True)

    git("init")
    git("commit", "--allow-empty", "-m", "first")
    git("worktree", "add", str(tmp_path / "other"))
    experiment = main / ".dvc" / "tmp" / "exps" / "standalone" / "x"
    experiment.mkdir(parents=True)
    assert paths.state_home(main) == main
    assert paths.state_home(tmp_path / "other") == main
    assert paths.state_home(experiment) == main
    assert paths.state_home(tmp_path) == tmp_path


LEAVES_SCRATCH = """
import os, sys
from segops import files
with files.scratch() as first, files.scratch() as second:
    (first / "file").write_text("x")
    print(first, second, flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_scratch_that_the_next_one_removes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    code = [sys.executable, "-c", LEAVES_SCRATCH]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(code, stdin=pipe, stdout=pipe, text=True) as killed,
        subprocess.Popen(code, stdin=pipe, stdout=pipe, text=True) as alive,
    ):
        assert killed.stdout is not None
        assert alive.stdout is not None
        left = [Path(name) for name in killed.stdout.readline().split()]
        held = [Path(name) for name in alive.stdout.readline().split()]
        killed.kill()
        killed.wait()
        (foreign := tmp_path / "segops-other").mkdir()
        (link := tmp_path / f"{files.SCRATCH}link").symlink_to(foreign)
        assert {path.is_dir() for path in left + held} == {True}
        next_one = subprocess.run(
            code, stdin=subprocess.DEVNULL, stdout=pipe, text=True, check=True
        )
        assert not any(path.exists() for path in left)
        assert all(path.is_dir() for path in held)
        assert (held[0] / "file").read_text() == "x"
        assert not any(Path(name).exists() for name in next_one.stdout.split())
        assert link.is_dir()
        alive.communicate()
    assert set(tmp_path.iterdir()) == {foreign, link}


LEAVES_DIRECTORY = """
import sys
from pathlib import Path
from segops import files
with files.atomic_directory(Path(sys.argv[1])) as temporary:
    (temporary / "file").write_text("x")
    print(temporary, flush=True)
    sys.stdin.read()
"""


def test_a_killed_process_leaves_a_directory_that_the_next_one_removes(tmp_path: Path) -> None:
    target = tmp_path / "voc[1].d"
    code = [sys.executable, "-c", LEAVES_DIRECTORY, str(target)]
    pipe = subprocess.PIPE
    with (
        subprocess.Popen(code, stdin=pipe, stdout=pipe, text=True) as killed,
        subprocess.Popen(code, stdin=pipe, stdout=pipe, text=True) as alive,
    ):
        left, held = (Path(one.stdout.readline().strip()) for one in (killed, alive) if one.stdout)
        killed.kill()
        killed.wait()
        others = {tmp_path / ".voc[1].d.mine.d", tmp_path / ".other.0123abcd.d"}
        for other in others:
            other.mkdir()
        with files.atomic_directory(target):
            assert left.is_dir()
        assert not left.exists()
        assert held.is_dir()
        alive.communicate()
    assert alive.returncode == 0
    assert set(tmp_path.iterdir()) == {target, *others}

"""New data start a run: a real git remote, a real folder, a real record."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from segops import files, paths, pipeline, tied
from segops.cli import app
from segops.operate import notify, triggers
from segops.operate.triggers import Branch, Folder
from segops.pipeline import tracked
from segops.record.lineage import tag
from segops.runtime.errors import SegopsError, TransientError
from segops.voc.layout import Layout, open_layout
from tests.support.channels import webhook
from tests.support.registry_workspace import client, git, make, release

OLD, NEW = f"{'1' * 32}.dir", f"{'2' * 32}.dir"
SAYS = """
import os, sys
from pathlib import Path

with Path("made.txt").open("a") as file:
    file.write(" ".join(sys.argv[1:]) + " | " + os.environ["SEGOPS_STARTED_BY"] + "\\n")
if os.environ.get("SEGOPS_LOG_FORMAT") == "json":
    print('{"time": "x", "level": "ERROR", "message": "no data"}')
assert os.environ["SEGOPS_UNATTENDED"]
sys.exit(int(Path("status.txt").read_text()))
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A workspace without a record."""
    return make(tmp_path / "workspace", database=False)


@pytest.fixture
def runs(root: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where a process in the place of `segops` writes how it was called; it ends with status 0."""
    (root / "segops").mkdir()
    (root / "segops/__init__.py").touch()
    (root / "segops/tied.py").write_text(Path(tied.__file__).read_text())
    (root / "segops/__main__.py").write_text(SAYS)
    monkeypatch.setenv("PYTHONPATH", str(root))
    ends_with(root, 0)
    return root / "made.txt"


def ends_with(root: Path, status: int) -> None:
    (root / "status.txt").write_text(str(status))


def point(root: Path, md5: str) -> None:
    """Commit a data set that DVC tracks as `md5`; the data themselves are elsewhere."""
    content = {"outs": [{"md5": md5, "hash": "md5", "path": "voc"}]}
    (root / "data/voc.dvc").write_text(yaml.safe_dump(content))
    git(root, "add", "-f", "data/voc.dvc", "params.yaml")
    git(root, "commit", "-q", "-m", "data")


@pytest.fixture
def remote(root: Path, tmp_path: Path) -> Path:
    """Another checkout of the repository, whose pushes reach the workspace's remote."""
    point(root, OLD)
    shutil.copytree(root, tmp_path / "origin", symlinks=True)
    git(root, "remote", "add", "origin", str(tmp_path / "origin"))
    return tmp_path / "origin"


def test_a_branch_with_new_data_makes_one_run_of_its_commit(
    root: Path, remote: Path, runs: Path
) -> None:
    point(remote, NEW)
    commit = git(remote, "rev-parse", "HEAD").strip()
    for _ in range(3):
        assert triggers.watch(root, Branch("origin/main"), 1, once=True) == 0
    (line,) = runs.read_text().splitlines()
    what, _, by = line.partition(" | ")
    assert what == f"run --isolated --revision {commit}"
    assert by.startswith(f"new data {NEW} in origin/main, seen by ")
    assert "SEGOPS_STARTED_BY" not in os.environ
    assert yaml.safe_load((root / "data/voc.dvc").read_text())["outs"][0]["md5"] == OLD


def test_a_run_that_fails_is_made_three_times_and_again_with_other_data(
    root: Path, remote: Path, runs: Path, caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    ends_with(root, 1)
    monkeypatch.setenv("SEGOPS_LOG_FORMAT", "json")
    with webhook() as hook:
        monkeypatch.setenv(notify.ADDRESSES, hook.address)
        got = [triggers.watch(root, Branch("origin/main"), 1, once=True) for _ in range(5)]
    assert got == [1, 1, 1, 0, 0]
    assert len(runs.read_text().splitlines()) == 3
    assert "3 runs of the same data have failed" in caplog.text
    (told,) = hook.got  # of the watch; the runs tell of themselves
    assert told["title"] == "origin/main: 3 runs of the same data failed"
    said = [one.levelname for one in caplog.records if one.getMessage() == "no data"]
    assert said == ["ERROR"] * 3
    point(remote, NEW)
    ends_with(root, 3)  # the gate refuses it: no other run of the same data
    got = [triggers.watch(root, Branch("origin/main"), 1, once=True) for _ in range(3)]
    assert got == [3, 0, 0]
    assert len(runs.read_text().splitlines()) == 4


def test_a_remote_or_branch_that_is_not_there_is_named(root: Path, remote: Path) -> None:
    with pytest.raises(TransientError, match=r"--branch origin/nowhere: .*git fetch: .*nowhere"):
        Branch("origin/nowhere").state(root)
    made = root / "made"
    for option in ("--output=x", f"origin/--upload-pack=touch {made}; git-upload-pack"):
        with pytest.raises(SegopsError):
            Branch(option).state(root)
        assert not made.exists()
    shutil.rmtree(remote)
    with pytest.raises(TransientError, match="git fetch"):
        Branch("origin/main").state(root)


def test_a_clone_of_one_branch_follows_another(
    root: Path, remote: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    git(root, "config", "remote.origin.fetch", "+refs/heads/main:refs/remotes/origin/main")
    git(remote, "checkout", "-q", "-b", "other")
    for md5 in (NEW, OLD):
        point(remote, md5)
        commit = git(remote, "rev-parse", "HEAD").strip()
        with monkeypatch.context() as hook:
            hook.setenv("GIT_DIR", str(root / "nowhere"))  # as in a hook of another repository
            other = Branch("origin/other")
            assert other.state(root) == commit
            with other.opened(root, commit) as found:
                assert found.md5 == md5


def test_the_champions_data_start_no_run(root: Path, runs: Path) -> None:
    point(root, OLD)
    release(root, seed=1, quality=0.8)
    assert triggers.champion_md5(root) == OLD
    assert triggers.watch(root, Branch("main"), 1, once=True) == 0
    assert not runs.exists()
    point(root, NEW)
    assert triggers.watch(root, Branch("main"), 1, once=True) == 0
    assert len(runs.read_text().splitlines()) == 1
    assert client(root).search_runs(["1"])[0].data.tags[tag("data_md5")] == OLD


@pytest.fixture
def with_dvc(root: Path) -> Path:
    """The workspace with DVC set up in it."""
    (root / "data/voc.dvc").unlink()
    subprocess.run(
        ["dvc", "init", "-q", "--no-scm"], cwd=root, env=pipeline.environment(), check=True
    )
    return root


def settle(folder: Path) -> None:
    """Wait until a second has passed since the last change."""
    while triggers.time.time() - triggers.last_change(folder) < 1:
        triggers.time.sleep(0.05)


def test_a_folder_that_still_changes_is_left_alone(
    with_dvc: Path, runs: Path, tmp_path: Path
) -> None:
    inbox = shutil.copytree(with_dvc / "data/voc", tmp_path / "inbox")
    old = triggers.time.time() - 86400
    for path in inbox.rglob("*"):
        os.utime(path, (old, old))  # as `cp -p` and rsync keep it
    assert Folder(inbox, 60).state(with_dvc) is None
    assert triggers.watch(with_dvc, Folder(inbox, 60), 1, once=True) == 0
    assert not runs.exists()
    settle(inbox)
    assert triggers.watch(with_dvc, Folder(inbox, 1), 1, once=True) == 0
    use, run = (line.partition(" | ")[0] for line in runs.read_text().splitlines())
    assert use.startswith(f"data use {with_dvc / 'data'}/")
    assert run == "run"
    state = Folder(inbox, 0).state(with_dvc)
    (inbox / "JPEGImages" / "new.jpg").write_bytes(b"half a photograph")
    assert Folder(inbox, 1).state(with_dvc) is None
    assert state is not None
    with Folder(inbox, 0).opened(with_dvc, state) as found:
        assert found is None  # an upload began while the copy was made


def test_an_inbox_is_compared_as_it_is_put_into_place(with_dvc: Path, tmp_path: Path) -> None:
    inbox = shutil.copytree(with_dvc / "data/voc", tmp_path / "inbox")
    (inbox / "readme.txt").write_text("a file that no list names")
    watched = Folder(inbox, 0)
    with watched.opened(with_dvc, str(watched.state(with_dvc))) as found:
        assert found is not None
        _, _, copy = found.commands[0]
        own = Folder(Path(shutil.copytree(copy, tmp_path / "copy")), 0)
    shutil.rmtree(with_dvc / "data/voc")
    shutil.copytree(own.path, with_dvc / "data/voc")
    assert found.md5 == tracked.track_data(with_dvc, Path("data/voc"), print)
    assert not list((with_dvc / "data").glob("segops-scratch-*"))


def test_an_inbox_comes_with_all_that_params_yaml_names(with_dvc: Path, tmp_path: Path) -> None:
    inbox = shutil.copytree(with_dvc / "data/voc", tmp_path / "inbox")
    layout = Layout(inbox)
    shutil.copy(layout.image_path(layout.ids("val")[0]), inbox / "JPEGImages/u.jpg")
    layout.write_list("more", ["u"])
    ids = [one for split in layout.splits().values() for one in split]
    table = "image_id,site\n" + "".join(f"{one},a\n" for one in (*ids, "u"))
    (inbox / "m.csv").write_text(table)
    params = yaml.safe_load((with_dvc / "params.yaml").read_text())
    params.setdefault("data", {}).update(metadata="m.csv", unlabelled="more")
    (with_dvc / "params.yaml").write_text(yaml.safe_dump(params))
    watched = Folder(inbox, 0)
    with watched.opened(with_dvc, str(watched.state(with_dvc))) as found:
        assert found is not None
        copy = open_layout(Path(found.commands[0][2]), unlabelled="more")
        assert copy.unlabelled_ids() == ("u",)
        assert copy.image_path("u").is_file()
        assert (copy.root / "m.csv").read_text() == table


def test_data_that_did_not_change_are_not_read_again(
    with_dvc: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched = Folder(with_dvc / "data/voc", 0)
    assert triggers.watch(with_dvc, watched, 1, once=True) == 0
    monkeypatch.setattr(tracked, "directory_md5", pytest.fail)
    assert triggers.watch(with_dvc, watched, 1, once=True) == 0
    assert len(runs.read_text().splitlines()) == 1


def test_a_folder_whose_files_are_renamed_meanwhile_still_changes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = tmp_path / "a.jpg.part"
    part.touch()
    scan = os.scandir

    def scanned(path: str) -> Any:
        """List a directory just before an upload gives its file its name."""
        with scan(path) as entries:
            found = list(entries)
        if part.exists():
            part.rename(part.with_suffix(""))
        return contextlib.nullcontext(found)

    monkeypatch.setattr(triggers.os, "walk", lambda top: [(top, [], [])])
    monkeypatch.setattr(triggers.os, "scandir", scanned)
    began = triggers.time.time()
    assert triggers.last_change(tmp_path) >= began
    assert (tmp_path / "a.jpg").exists()


def test_a_machine_that_refuses_ends_no_watch(
    root: Path, remote: Path, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / triggers.WATCHED).mkdir(parents=True)  # where a file is to be written
    with pytest.raises(SegopsError, match="a directory is in the place of a file"):
        triggers.watch(root, Branch("origin/main"), 1, once=True)


def test_the_data_directory_has_the_hash_that_dvc_gives_it(with_dvc: Path) -> None:
    data = with_dvc / "data/voc"
    settle(data)
    with Folder(data, 1).opened(with_dvc, "") as found:
        assert found is not None
    assert found.commands == (("run",),)
    assert found.md5 == tracked.track_data(with_dvc, Path("data/voc"), print)
    with pytest.raises(SegopsError, match=r"--folder .*nowhere: no such directory"):
        Folder(with_dvc / "nowhere", 1).state(with_dvc)


@pytest.mark.parametrize(
    "words", [["run", "--isolated", "--revision", "abc"], ["data", "use", "/srv/inbox"], ["run"]]
)
def test_the_commands_that_are_started_exist(words: list[str]) -> None:
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        command = command.commands[words.pop(0)]
    command.make_context(command.name, words)  # parses, runs nothing


def test_one_process_watches_in_a_workspace(root: Path) -> None:
    with (
        files.exclusive(root / triggers.LOCK, "a test"),
        pytest.raises(SegopsError, match="another `segops watch` is under way"),
    ):
        triggers.watch(root, Branch("main"), 1, once=True)


def test_a_damaged_note_is_no_note(root: Path, remote: Path, runs: Path) -> None:
    (root / paths.STATE).mkdir(exist_ok=True)
    for damaged in ("{", "[]", '{"origin/main": 7}'):
        (root / triggers.WATCHED).write_text(damaged)
        assert triggers.watch(root, Branch("origin/main"), 1, once=True) == 0
    assert len(runs.read_text().splitlines()) == 3

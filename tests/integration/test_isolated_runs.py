"""Runs in worktrees: real git, real DVC, a pipeline of one stage that copies a file."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from segops import files, paths, pipeline
from segops.cli.runs import app, run_options
from segops.operate import place, results, runs, turns, worktree
from segops.pipeline import tracked
from segops.runtime.errors import SegopsError
from tests.integration.conftest import ROOT, dvc, git
from tests.support import registry_workspace as made

STAGE = """
import pathlib, sys, time
mark = pathlib.Path(sys.argv[1])
mark.with_suffix(".begun").touch()
while not mark.exists():
    time.sleep(0.05)
pathlib.Path("out.txt").write_text(pathlib.Path("data/voc/a.txt").read_text())
"""
KILLED = """
import sys
from pathlib import Path
from segops.operate import runs
with runs.opened(Path.cwd(), "night", "HEAD", {}, print):
    print("open", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A committed checkout whose stage waits for the file that WAIT_FOR names."""
    root = tmp_path_factory.mktemp("isolated") / "checkout"
    (root / "data" / "voc").mkdir(parents=True)
    (root / "src" / "segops").mkdir(parents=True)
    (root / "src" / "segops" / "marker.txt").touch()
    (root / "data" / "voc" / "a.txt").write_text("first\n")
    (root / "stage.py").write_text(STAGE)
    stage = {
        "cmd": f"{sys.executable} stage.py $WAIT_FOR",
        "deps": ["data/voc"],
        "params": ["train"],
        "outs": ["out.txt"],
    }
    (root / "dvc.yaml").write_text(yaml.safe_dump({"stages": {"copy": stage}}))
    (root / "params.yaml").write_text("# kept\ntrain:\n  epochs: 3\n")
    (root / ".gitignore").write_text("/.segops/\n/mlflow.db\n/metrics/\n/reports/\n")
    (root / ".dvcignore").write_text(".segops\n")
    git(root, "init", "--initial-branch", "main")
    assert dvc(root, "init").returncode == 0
    assert dvc(root, "add", "data/voc").returncode == 0
    git(root, "add", "-A")
    git(root, "commit", "-m", "first")
    return root


@pytest.fixture
def checkout(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("WAIT_FOR", os.devnull)
    return shutil.copytree(template, tmp_path / "checkout", symlinks=True)


def command(*arguments: str) -> str:
    """What `segops runs` prints, in the working directory."""
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.output


def opened(root: Path, name: str = "night", revision: str = "HEAD", **values: Any) -> Any:
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    return runs.opened(root, name, revision, overrides, print)


def test_the_checkout_is_free_while_a_run_is_under_way(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user edits, asks for the status and runs the pipeline; neither sees the other."""
    mark = tmp_path / "go"
    with opened(checkout) as work:
        tracked.sync_data(work.root, Path("data/voc"), print)
        stage = subprocess.Popen(
            ["dvc", "repro"], cwd=work.root,
            env={**pipeline.environment(), "WAIT_FOR": str(mark)},
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + 120
            while not mark.with_suffix(".begun").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            (checkout / "params.yaml").write_text("train:\n  epochs: 4\n")
            assert "changed" in dvc(checkout, "status").stdout
            done = dvc(checkout, "repro")
            assert done.returncode == 0, done.stdout + done.stderr
            assert stage.poll() is None
        finally:
            mark.touch()
            assert stage.wait(timeout=120) == 0
        assert "epochs: 3" in (work.root / "dvc.lock").read_text()
        assert (work.root / "out.txt").read_text() == "first\n"
    assert "epochs: 4" in (checkout / "dvc.lock").read_text()


def test_a_run_sees_what_is_committed_and_shares_cache_and_record(
    checkout: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    (checkout / "params.yaml").write_text("train:\n  epochs: 9\n")
    (checkout / ".dvc" / "config.local").write_text("['remote \"near\"']\n    url = ../../store\n")
    with opened(checkout, "a b/c", train__lr=0.5) as work:
        assert work.run.name == "a-b-c"
        assert (work.root / "params.yaml").read_text() == "# kept\ntrain:\n  epochs: 3\n  lr: 0.5\n"
        assert paths.state_home(work.root) == checkout
        assert os.environ["PYTHONPATH"] == f"{work.root}/src:/elsewhere"
        tracked.sync_data(work.root, Path("data/voc"), print)
        assert (work.root / "data/voc/a.txt").read_text() == "first\n"
        local = work.root / ".dvc" / "config.local"
        assert local.stat().st_mode & 0o777 == 0o600
        assert dvc(work.root, "remote", "list").stdout.split()[1] == str(checkout.parent / "store")
    assert os.environ["PYTHONPATH"] == "/elsewhere"
    assert "because not committed: the changes of params.yaml." in capsys.readouterr().out
    assert not (paths.state_home(checkout) / paths.RUNS / "a-b-c" / runs.TREE).exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
    (run,) = runs.every(checkout)
    assert (run.state, run.overrides) == ("finished", {"train.lr": 0.5})


def test_a_run_that_fails_is_kept_and_says_where(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(SegopsError) as caught, opened(checkout) as work:
        raise SegopsError("train: the loss is NaN")
    assert str(caught.value) == (
        f"train: the loss is NaN\nThe worktree of run night is kept in {work.root}; "
        "`segops runs clean night` removes it."
    )
    assert (work.root / "params.yaml").is_file()
    with opened(checkout) as second:
        assert second.run.name == "night-2"
    monkeypatch.chdir(checkout)
    shown = command("show", "night")
    assert "state:      failed" in shown
    assert "why:        train: the loss is NaN" in shown
    assert "ERROR train: the loss is NaN" in command("log", "night")
    assert "Removed: night, night-2." in command("clean", "--all-finished")
    assert "No runs." in command("list")
    assert runs.every(checkout) == []
    assert len(git(checkout, "worktree", "list").splitlines()) == 1


def test_only_the_worktree_of_the_run_is_forgotten(checkout: Path, tmp_path: Path) -> None:
    """One on a disk that is away keeps its index; one that was deleted by hand hinders no run."""
    disk, away = tmp_path / "disk", tmp_path / "away"
    git(checkout, "worktree", "add", str(disk / "mine"))
    (disk / "mine" / "stage.py").write_text("staged")
    git(disk / "mine", "add", "stage.py")
    disk.rename(away)
    for _ in range(2):
        with pytest.raises(SegopsError), opened(checkout) as work:
            raise SegopsError("x")
        shutil.rmtree(checkout / paths.RUNS / "night")
    with opened(checkout) as work:
        pass
    assert str(work.root) not in git(checkout, "worktree", "list")
    away.rename(disk)
    assert git(disk / "mine", "status", "--porcelain") == "M  stage.py"


def test_what_cannot_be_removed_is_a_warning_after_the_end(
    checkout: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(worktree, "REMOVE_SECONDS", 0)

    def refused(path: Path, ignore_errors: bool) -> None:
        raise PermissionError(1, "Operation not permitted", str(path))

    with monkeypatch.context() as patch, opened(checkout) as work:
        patch.setattr(worktree.shutil, "rmtree", refused)
    assert "cannot be removed: Operation not permitted" in caplog.text
    assert [run.state for run in runs.every(checkout)] == ["finished"]
    assert work.root.is_dir()
    assert runs.clean(checkout) == ["night"]


def test_an_interrupted_training_is_continued_by_the_next_run_of_the_same(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SegopsError), opened(checkout, train__epochs=5) as first:
        files.write_text(first.root / paths.RESUME / "epoch-2", "state")
        files.write_text(first.root / paths.HISTORY, "epochs")
        raise SegopsError("killed")
    with opened(checkout) as other:
        assert not (other.root / paths.RESUME).exists()
    assert "is continued" not in capsys.readouterr().out
    with opened(checkout, train__epochs=5) as second:
        assert (second.root / paths.RESUME / "epoch-2").read_text() == "state"
        assert (second.root / paths.HISTORY).read_text() == "epochs"
    assert "The training that run night began is continued." in capsys.readouterr().out


def test_the_oldest_worktrees_of_runs_that_failed_go(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "KEPT", 1)
    clock = iter(f"2026-01-01T00:00:{number:02}+00:00" for number in range(60))
    monkeypatch.setattr(runs, "_now", lambda: next(clock))
    for name in ("a", "b", "c"):
        with pytest.raises(SegopsError), opened(checkout, name):
            raise SegopsError("x")
    trees = sorted(path.parent.name for path in (checkout / paths.RUNS).glob(f"*/{runs.TREE}"))
    assert trees == ["b", "c"]
    assert [run.name for run in runs.every(checkout)] == ["c", "b", "a"]


def test_data_that_dvc_does_not_track_are_named(
    checkout: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with opened(checkout):
        pass
    assert "Not in this run" not in capsys.readouterr().out
    (checkout / "data" / "voc" / "b.txt").write_text("new\n")
    with opened(checkout):
        pass
    said = "Not in this run: content of data/voc that DVC does not track. `dvc add data/voc`"
    assert said in capsys.readouterr().out


def test_a_run_that_ends_while_it_is_looked_at_is_not_killed(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as held:
        work = held.enter_context(opened(checkout))
        is_held = files.is_held

        def late(lock: Path) -> bool:
            answer = is_held(lock)
            work.write(state="finished")
            return answer

        monkeypatch.setattr(files, "is_held", late)
        assert [run.state for run in runs.every(checkout)] == ["finished"]
        held.close()


def test_a_killed_run_has_ended_and_one_under_way_is_not_removed(checkout: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED], cwd=checkout, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        while process.stdout.readline() != "open\n":
            assert process.poll() is None
        assert [run.state for run in runs.every(checkout)] == ["running"]
        with pytest.raises(SegopsError, match="night: this run is under way"):
            runs.clean(checkout, "night")
        assert runs.clean(checkout) == []
    finally:
        process.send_signal(signal.SIGKILL)
        process.communicate()
    assert [run.state for run in runs.every(checkout)] == ["killed"]
    assert runs.clean(checkout, "night") == ["night"]
    with pytest.raises(SegopsError, match="night: no such run"):
        runs.clean(checkout, "night")


@pytest.mark.parametrize(
    ("revision", "values", "message"),
    [
        ("nowhere", {}, "nowhere: git knows no such commit"),
        ("--output=x", {}, "--output=x: git knows no such commit"),
        ("HEAD", {"train__epochs": -1}, "train.epochs: expected a whole number of at least 1"),
        ("HEAD", {"train__nothing": 1}, "train.nothing: no such parameter"),
    ],
)
def test_a_run_that_cannot_begin_leaves_nothing(
    checkout: Path, revision: str, values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SegopsError, match=message), opened(checkout, "x", revision, **values):
        pass
    assert runs.every(checkout) == []
    assert not (checkout / paths.RUNS / "x").exists()
    assert len(git(checkout, "worktree", "list").splitlines()) == 1
    assert not (checkout / "x").exists()


def test_data_that_no_commit_names_are_no_data_of_a_run(checkout: Path) -> None:
    git(checkout, "rm", "--cached", "data/voc.dvc")
    git(checkout, "commit", "-m", "no data")
    said = r"voc\.dvc: not in commit .*`dvc add data/voc`"
    with pytest.raises(SegopsError, match=said), opened(checkout):
        pass


@pytest.mark.parametrize("name", ["-x", "a/b", "..", "a b", ""])
def test_a_name_is_one_that_git_takes(checkout: Path, name: str) -> None:
    with pytest.raises(SegopsError, match="expected up to 60 letters"):
        runs.require_name(checkout, name)


def test_a_result_is_a_commit_that_touches_nothing_of_the_users(checkout: Path) -> None:
    """Hooks do not run; ignored figures are in it; what is staged and the branch stay."""
    hooks = checkout / ".git" / "hooks"
    for hook in ("pre-commit", "commit-msg", "post-commit", "post-checkout",
                 "reference-transaction"):  # fmt: skip
        (hooks / hook).write_text(f"#!/bin/sh\necho {hook} >> {checkout}/hooks-ran\nexit 1\n")
        (hooks / hook).chmod(0o755)
    (checkout / "stage.py").write_text("staged")
    subprocess.run(["git", "-c", f"core.hooksPath={os.devnull}", "add", "stage.py"],
                   cwd=checkout, check=True)  # fmt: skip
    before = git(checkout, "status", "--porcelain", "--branch")
    head = git(checkout, "rev-parse", "HEAD")
    with opened(checkout, train__epochs=5) as work:
        files.write_json(work.root / paths.EVALUATION, {"miou": 0.5})
        files.write_text(work.root / paths.VALIDATION_JSON, " " * (results.LARGEST + 1))
        made = results.commit(work.root, work.run.commit, "Results of run night\n")
        assert worktree.set_ref(work.root, results.branch_of("night"), made)
        assert not worktree.set_ref(work.root, results.branch_of("night"), head)
    assert git(checkout, "status", "--porcelain", "--branch") == before
    assert not (checkout / "hooks-ran").exists()
    assert git(checkout, "rev-parse", "runs/night^") == head
    changed = git(checkout, "diff", "--name-only", "main", "runs/night").split()
    assert changed == ["params.yaml", "results/metrics/evaluation.json"]
    assert "epochs: 5" in git(checkout, "show", "runs/night:params.yaml")
    assert git(checkout, "log", "-1", "--format=%an <%ae>", "runs/night") == (
        "segops <segops@localhost>"
    )
    with pytest.raises(SegopsError, match=r"a run or a branch runs/night .* exists"):
        runs.require_name(checkout, "night")


def test_metrics_and_plots_tables_are_in_the_commit_of_a_result(
    checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """All that ``dvc.yaml`` calls a metric or a plot, so that nobody trains again to see it."""
    tree = yaml.safe_load((ROOT / "dvc.yaml").read_text())
    named = [one for stage in tree["stages"].values() for one in stage.get("metrics", [])]
    tables = [next(iter(one)) if isinstance(one, dict) else one for one in named]
    for plot in tree["plots"]:
        (name, shown), *_ = plot.items()
        tables += [*shown["y"]] if isinstance(shown["y"], dict) else [name]
    wanted = {name: f"a,b\n1,{place}\n" for place, name in enumerate(dict.fromkeys(tables))}
    assert {Path(name).suffix for name in wanted} == {".csv", ".json"}
    assert len(wanted) > 5
    for name, text in wanted.items():
        files.write_text(checkout / name, text)
    (checkout / paths.VALIDATION_JSON).parent.mkdir(exist_ok=True)
    (checkout / paths.VALIDATION_JSON).write_text(" " * 1_600_000)
    made = results.commit(checkout, "HEAD", "x\n")
    for name, text in wanted.items():
        assert git(checkout, "show", f"{made}:results/{name}") == text.strip()
    assert "results/reports" not in git(checkout, "ls-tree", "-r", "--name-only", made)
    assert caplog.messages == [
        f"{checkout / paths.VALIDATION_JSON}: 1.6 MB, not committed with the result: a file may "
        "have 1.0 MB."
    ]


def test_a_branch_that_takes_the_place_of_results_is_named_before_the_run(checkout: Path) -> None:
    git(checkout, "branch", "runs")
    with pytest.raises(SegopsError, match="git branch -m runs NAME"), opened(checkout):
        pass
    assert not (checkout / paths.RUNS / "night").exists()


def test_what_hinders_the_keeping_changes_no_verdict(
    checkout: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A branch that appeared while it trained, and no MLflow for the tag."""
    with place.chosen(checkout, "night", place.Wanted(isolated=True), print) as here:
        git(checkout, "branch", "runs")
        here.keep("segops", "1", "promoted", unchanged=False)
    (run,) = runs.every(checkout)
    assert (run.state, run.verdict, run.version) == ("finished", "promoted", "1")
    assert "The result is not, or not wholly, kept in git: " in caplog.text
    assert "Version 1 gets no tag in git: " in caplog.text


def test_author_and_committer_are_each_the_users_where_they_are_set(
    checkout: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "CI")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ci@example.org")
    made = results.commit(checkout, "HEAD", "x\n")
    assert git(checkout, "log", "-1", "--format=%ae %ce", made) == "ci@example.org segops@localhost"


def test_the_users_identity_makes_the_commit_where_it_is_set(checkout: Path) -> None:
    git(checkout, "config", "user.name", "Ada")
    git(checkout, "config", "user.email", "ada@example.org")
    git(checkout, "config", "commit.gpgSign", "true")
    made = results.commit(checkout, "HEAD", "x\n")
    assert git(checkout, "log", "-1", "--format=%an <%ae>", made) == "Ada <ada@example.org>"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "x"}, "--name: this belongs to --isolated"),
        ({"isolated": True, "overrides": ["train.lr"]}, "--set train.lr: expected KEY=VALUE"),
        ({"isolated": True, "overrides": ["train.lr=[1"]}, "the value is no YAML"),
        ({"isolated": True, "revision": "nowhere"}, "nowhere: git knows no such commit"),
        ({"isolated": True, "recipe": "x"}, "--recipe writes into this checkout"),
    ],
)
def test_options_that_do_not_fit_are_named(
    checkout: Path, options: dict[str, Any], message: str
) -> None:
    given = dict.fromkeys(("revision", "overrides", "name", "recipe"))
    with pytest.raises(SegopsError, match=re.escape(message)):
        run_options(checkout, **{"isolated": False, **given, **options})


def test_a_run_needs_git(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="not a git repository"), opened(tmp_path):
        pass


def test_a_run_of_a_deployment_waits_for_one_by_hand_and_not_the_other_way_round(
    checkout: Path,
) -> None:
    by_hand = ExitStack()
    by_hand.enter_context(turns.turn(checkout / paths.RUN_LOCK, "another run", print))
    said: list[str] = []

    def free(sentence: str) -> None:
        said.append(sentence)
        by_hand.close()

    with place.chosen(checkout, "night", place.Wanted(deployed=True), free) as scheduled:
        assert scheduled.root == checkout / paths.RUNS / "night" / runs.TREE
        with place.chosen(checkout, "hand", place.Wanted(wait=False), print) as here:
            assert (here.root, here.name) == (checkout, None)
    assert "another run (process " in said[0]
    assert said[1].startswith("Run night: commit ")


@pytest.mark.slow
def test_a_champion_has_a_tag_in_git(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Of a run in place the result is committed; what exists is not moved, what fails is told."""
    root = made.make(tmp_path / "checkout")
    made.release(root, seed=1, quality=0.8)
    made.challenge(root, seed=2, quality=0.1)
    head = git(root, "rev-parse", "HEAD")
    git(root, "commit", "--allow-empty", "-m", "later than the training")
    results.mark(root, "2", in_place=True)
    assert not git(root, "tag")
    results.mark(root, "1", in_place=True)
    released = git(root, "rev-parse", "model/segops/v1")
    assert git(root, "rev-parse", "model/segops/v1^") == head
    assert "results/metrics/evaluation.json" in git(root, "show", "--name-only", released)
    assert made.client(root).get_model_version("segops", "1").tags["segops.result_commit"] == (
        released
    )
    git(root, "tag", "--force", "model/segops/v1", head)
    results.mark(root, "1", in_place=True)
    assert git(root, "rev-parse", "model/segops/v1") == head
    git(root, "tag", "--delete", "model/segops/v1")
    git(root, "tag", "model/segops")
    results.mark(root, "1")
    assert "Version 1 gets no tag in git" in caplog.text
    git(root, "tag", "--delete", "model/segops")
    results.mark(root, "1")
    assert git(root, "rev-parse", "model/segops/v1") == released


@pytest.mark.slow
def test_no_result_is_committed_over_code_that_git_does_not_hold(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout")
    made.release(root, seed=1, quality=0.8)
    made.client(root).set_model_version_tag("segops", "1", "segops.code_differs", "true")
    results.mark(root, "1", in_place=True)
    assert git(root, "rev-parse", "model/segops/v1") == git(root, "rev-parse", "HEAD")

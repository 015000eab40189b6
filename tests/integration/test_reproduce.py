"""`segops reproduce`: a registered version made again, its refusals, and what stays behind."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from segops import files, paths
from segops.operate.reproduce import reproduce
from segops.record.lineage import tag
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.integration.conftest import dvc, git, segops
from tests.support import registry_workspace as made


@pytest.mark.slow
def test_a_champion_is_made_again_bit_for_bit(promoted: Path) -> None:
    before = git(promoted, "worktree", "list")
    done = segops(promoted, "reproduce", "champion")
    assert done.returncode == 0, done.stdout + done.stderr
    entry = made.lines(promoted)[-1]
    assert (entry["kind"], entry["verdict"], entry["version"]) == ("reproduced", "same bits", "1")
    assert entry["details"]["made"] == entry["details"]["registered"] | {
        "miou": pytest.approx(entry["details"]["registered"]["miou"], abs=1e-6)
    }
    assert entry["details"]["differs"] == []
    (champion,) = status(promoted).versions
    assert champion.reproduced == (entry["details"]["machine"],)
    assert "1 machine" in segops(promoted, "status").stdout
    # Nothing stays behind, and the workspace is as it was.
    assert not list((promoted / paths.STATE).glob("reproduce-*"))
    assert git(promoted, "worktree", "list") == before
    assert (
        files.read_json(promoted / paths.TRAINING)["weights_sha256"]
        == (entry["details"]["made"]["weights_sha256"])
    )


# The rest goes without a training: the one stage of these workspaces runs a script of the test.


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose champion is version 1, with its data in DVC's cache."""
    root = tmp_path_factory.mktemp("released") / "checkout"
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        made.make(root)
        (root / "dvc.yaml").write_text('stages: {evaluate: {cmd: sh "$STEP"}}\n')
        (root / "data/voc.dvc").unlink()
        (root / ".gitignore").write_text(
            "/.segops\n/mlflow.db\n/mlartifacts\n/metrics\n/models\n/plots\n/reports\n"
            "/data/packed\n/data/verdict.json\n/ledger\n"
        )
        assert dvc(root, "init").returncode == 0
        assert dvc(root, "add", "data/voc").returncode == 0
        git(root, "add", "-A")
        git(root, "commit", "-qm", "DVC")
        # Not committed: the lineage holds a patch.
        (root / "src/code.py").write_text("CODE = 2\n")
        assert made.release(root, seed=1, quality=0.8).verdict == "promoted"
    return root


@pytest.fixture
def root(released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The released workspace; what a test breaks of version 1 is mended after it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    client = made.client(released)
    before = client.get_model_version("segops", "1").tags
    for name in ("mlartifacts", ".dvc/cache"):
        shutil.copytree(released / name, tmp_path / name)
    yield released
    for name in ("mlartifacts", ".dvc/cache"):
        shutil.rmtree(released / name, ignore_errors=True)
        (tmp_path / name).rename(released / name)
    now = client.get_model_version("segops", "1").tags
    for name, value in before.items():
        if now.get(name) != value:
            client.set_model_version_tag("segops", "1", name, value)


def step(root: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    """What the stage does, a shell script."""
    path = root.parent / "step.sh"
    path.write_text(f"set -eu\n{text}\n")
    monkeypatch.setenv("STEP", str(path))


def untouched(root: Path) -> tuple[object, ...]:
    return (
        made.lines(root),
        git(root, "worktree", "list"),
        sorted((root / paths.STATE).glob("reproduce-*")),
    )


def artifact(root: Path, path: str) -> Path:
    """A file of the run of version 1, where the record keeps it."""
    run = made.client(root).get_model_version("segops", "1").run_id
    (found,) = (root / "mlartifacts").glob(f"{run}/artifacts/lineage/{path}")
    return found


def lack(root: Path) -> None:
    made.client(root).delete_model_version_tag("segops", "1", tag("data_md5"))


def other_commit(root: Path) -> None:
    client = made.client(root)
    for name in ("code_commit", "package_commit"):
        client.set_model_version_tag("segops", "1", tag(name), "e" * 40)


def other_digest(root: Path) -> None:
    made.client(root).set_model_version_tag("segops", "1", tag("bundle_digest"), "e" * 64)


def other_patch(root: Path) -> None:
    with artifact(root, "code.patch").open("ab") as file:
        file.write(b"\n")


def forged_patch(root: Path) -> None:
    other_patch(root)
    digest = files.sha256_file(artifact(root, "code.patch"))
    made.client(root).set_model_version_tag("segops", "1", tag("code_patch"), digest)


def no_patch(root: Path) -> None:
    made.client(root).set_model_version_tag("segops", "1", tag("code_differs"), "false")


def no_statement(root: Path) -> None:
    (statement,) = (root / "mlartifacts").rglob("*.statement.zip")
    statement.unlink()


def no_score(root: Path) -> None:
    made.client(root).set_model_version_tag("segops", "1", tag("miou"), "nan")


def other_params(root: Path) -> None:
    with artifact(root, "*/params.yaml").open("a") as file:
        file.write("# changed\n")


def other_data(root: Path) -> None:
    path = artifact(root, "*/data.dvc")
    path.write_text(path.read_text().replace("path: voc", "path: ../../voc"))


def pointer_that_runs(root: Path) -> None:
    with artifact(root, "*/data.dvc").open("a") as file:
        file.write("cmd: touch /tmp/run\n")


def no_lineage(root: Path) -> None:
    shutil.rmtree(artifact(root, "*/params.yaml").parent)


def no_data(root: Path) -> None:
    shutil.rmtree(root / ".dvc/cache")


@pytest.mark.parametrize(
    ("wanted", "change", "message"),
    [
        ("99", None, "segops has no version 99"),
        ("best", None, "segops has no such alias"),
        ("../1", None, "expected models:/NAME@ALIAS"),
        ("1", lack, "its lineage lacks data_md5"),
        ("1", no_lineage, r"lacks lineage/\w+/params.yaml"),
        ("1", other_commit, "commit eeeeeeeeeeee is not in the repository"),
        ("1", other_digest, "the ledger decided on"),
        ("1", other_patch, "lineage/code.patch .* has the digest"),
        ("1", forged_patch, "tags name other code.patch than the statement .* --trust-tags"),
        ("1", no_patch, "tags name other code than the statement"),
        ("1", no_statement, "its run lacks the statement decisions/0001.statement.zip"),
        ("1", no_score, "its tag segops.miou is 'nan'"),
        ("1", other_params, r"lineage/\w+/params.yaml .* has the digest"),
        ("1", other_data, "does not name the data"),
        ("1", pointer_that_runs, "does not name the data"),
        ("1", no_data, "are neither in DVC's cache nor in a remote"),
    ],
)
def test_refusals_change_nothing(
    wanted: str,
    change: Callable[[Path], None] | None,
    message: str,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    step(root, monkeypatch, f"touch {root.parent}/ran")
    if change is not None:
        change(root)
    before = untouched(root)
    with pytest.raises(SegopsError, match=message):
        reproduce(root, wanted, 0.01, print)
    assert untouched(root) == before
    assert not (root.parent / "ran").exists()


def test_without_a_statement_a_flag_lets_the_tags_decide(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step(root, monkeypatch, "exit 7")
    no_statement(root)
    no_data(root)
    with pytest.raises(SegopsError, match="are neither in DVC's cache nor in a remote"):
        reproduce(root, "1", 0.01, print, trust_tags=True)
    assert "lacks the statement" in caplog.text


def test_one_at_a_time(root: Path) -> None:
    before = untouched(root)
    with (
        files.exclusive(root / paths.REPRODUCE_LOCK, "a reproduction"),
        pytest.raises(SegopsError, match="a reproduction is under way"),
    ):
        reproduce(root, "1", 0.01, print)
    assert untouched(root) == before


@pytest.mark.slow
def test_a_failed_attempt_is_kept_and_the_next_replaces_it(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    step(root, monkeypatch, "echo no memory; exit 7")
    said: list[str] = []
    failed = reproduce(root, "1", 0.01, said.append)
    assert failed.outcome == "failed"
    assert failed.kept is not None
    assert (failed.kept / "src/code.py").read_text() == "CODE = 2\n"  # the patch was applied
    assert "no memory" in said
    entry = made.lines(root)[-1]
    assert (entry["kind"], entry["verdict"], entry["version"]) == ("reproduced", "failed", "1")
    assert status(root).versions[0].reproduced == ()

    # What the stages would leave: other weights with nearly the same mIoU.
    given = root.parent / "given"
    for name in ("metrics", "models"):
        shutil.copytree(root / name, given / name)
    training = files.read_json(given / paths.TRAINING)
    evaluation = files.read_json(given / paths.EVALUATION)
    other = {"weights_sha256": "f" * 64, "threads": 2}
    files.write_json(given / paths.TRAINING, training | other)
    near = {"miou": evaluation["miou"] - 0.005}
    files.write_json(given / paths.EVALUATION, evaluation | near)
    step(root, monkeypatch, f"cat data/voc/ImageSets/Segmentation/val.txt\ncp -R {given}/. .")
    result = reproduce(root, "champion", 0.01, said.append)
    assert result.outcome == "within tolerance", said
    assert result.differs == ("threads 1, here 2",)
    assert result.kept is None
    entry = made.lines(root)[-1]
    assert entry["verdict"] == "within tolerance"
    assert entry["details"]["made"]["weights_sha256"] == "f" * 64
    assert entry["details"]["registered"]["weights_sha256"] == training["weights_sha256"]
    assert status(root).versions[0].reproduced == (socket.gethostname(),)
    assert made.aliases(root) == {"champion": "1"}
    assert untouched(root)[1:] == (git(root, "worktree", "list"), [])


@pytest.mark.slow
def test_an_interrupted_call_leaves_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = root.parent / "started"
    step(root, monkeypatch, f"echo $$ > {started}.new\nmv {started}.new {started}\nsleep 600")
    before = untouched(root)
    command = [sys.executable, "-m", "segops", "reproduce", "1"]
    with subprocess.Popen(
        command,
        cwd=root,
        stdout=subprocess.DEVNULL,
        # A shell that runs the tests in the background lets its children ignore it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        while not started.exists():
            assert process.poll() is None
            time.sleep(0.05)
        stage = psutil.Process(int(started.read_text()))
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    assert psutil.wait_procs([stage], timeout=60)[1] == []
    assert untouched(root) == before

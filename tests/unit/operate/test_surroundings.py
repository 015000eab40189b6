"""What a run needs of its surroundings; each fault is made for real."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from segops import pipeline, reach
from segops.data import workers
from segops.operate import surroundings
from segops.runtime.errors import SegopsError, TransientError
from tests.unit.test_reach import hanging

ROOT = Path(__file__).parents[3]
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount and give away files")


def checked(
    root: Path,
    environment: Mapping[str, str] | None = None,
    limit: Callable[[], None] | None = None,
    before: tuple[str, ...] = (),
    what: str = "require",
) -> subprocess.CompletedProcess[str]:
    """The checks, in a process of their own with the fault."""
    code = (
        "import sys; from pathlib import Path\n"
        "from segops.operate import surroundings; from segops.runtime.errors import SegopsError\n"
        f"try: surroundings.{what}(Path(sys.argv[1]))\n"
        "except SegopsError as error: print(error); sys.exit(1)"
    )
    return subprocess.run(
        [*before, sys.executable, "-c", code, str(root)],
        env={**pipeline.environment(), **(environment or {})},
        capture_output=True, text=True, check=False, timeout=60, preexec_fn=limit,
    )  # fmt: skip


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A checkout that a run may begin in."""
    (tmp_path / "checkout").mkdir()
    (tmp_path / "checkout/params.yaml").write_text("train: {batch_size: 8}\n")
    (tmp_path / "checkout/dvc.yaml").write_text("stages: {}\n")
    subprocess.run(["git", "init", "-q"], cwd=tmp_path / "checkout", check=True)
    return tmp_path / "checkout"


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    for name in ("MLFLOW_TRACKING_URI", "PREFECT_API_URL"):
        monkeypatch.delenv(name, raising=False)


def refused(done: subprocess.CompletedProcess[str]) -> str:
    assert done.returncode == 1, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.count("\n") == 1
    return done.stdout


def test_nothing_is_wrong_with_an_ordinary_checkout(root: Path) -> None:
    done = checked(root)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null"])
def test_a_home_that_cannot_be_written_is_told(root: Path, place: str) -> None:
    said = refused(checked(root, {"HOME": place, "PREFECT_HOME": ""}))
    assert said.startswith(f"HOME={place}: Prefect keeps its database in {place}/.prefect, and")
    assert said.endswith("Set PREFECT_HOME to a directory that you may write.\n")
    said = refused(checked(root, {"PREFECT_HOME": place}))
    assert said.startswith(f"PREFECT_HOME={place}: ")


@as_root
@pytest.mark.parametrize("command", [("doctor", "--json"), ("run",), ("schedule", "list")])
def test_a_user_without_a_home_is_told(
    root: Path, tmp_path: Path, command: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOME is not set, and the system has no entry for the user."""
    monkeypatch.delenv("HOME")
    (tmp_path / "none").touch()
    hide = " && ".join(
        f"mount --bind {tmp_path / 'none'} {path}" for path in ("/etc/passwd", "/etc/nsswitch.conf")
    )
    enter = ("unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh")
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], check=False).returncode:
        pytest.skip("this container lets nobody mount")
    (root / "flows").symlink_to(ROOT / "flows")
    done = subprocess.run(
        [*enter, sys.executable, "-m", "segops", *command], cwd=root, env=pipeline.environment(),
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    words = f"HOME is not set, and the system knows no home of user {os.getuid()}; "
    assert "Traceback" not in done.stderr
    if command[0] == "doctor":
        found = {one["name"]: one for one in json.loads(done.stdout)}
        assert (found["home"]["state"], found["home"]["words"][: len(words)]) == ("fault", words)
        assert not [one for one in found.values() if "RuntimeError" in one["words"]]
    else:
        said = " ".join(done.stderr.split())
        assert words in said
        assert said.endswith("Set HOME to a directory that you may write.")


@as_root
def test_a_checkout_of_another_user_is_told(root: Path) -> None:
    for path in (root, root / ".git"):
        os.chown(path, 4242, -1)
    said = refused(checked(root, {"GIT_CONFIG_GLOBAL": "/dev/null", "LC_ALL": "de_DE.UTF-8"}))
    assert said.startswith(f"{root}: the checkout belongs to another user")
    command = said.partition("`")[2].partition("`")[0]
    config = {"GIT_CONFIG_GLOBAL": str(root.parent / "gitconfig")}
    subprocess.run(command, shell=True, check=True, env={**os.environ, **config})
    assert checked(root, config).returncode == 0


@pytest.mark.parametrize(
    ("kind", "value", "words"),
    [
        (resource.RLIMIT_NOFILE, 64, "A process may open 64 files here"),
        (resource.RLIMIT_AS, 1 << 30, "A process may map 1024 MiB of memory here"),
    ],
)
def test_a_limit_that_no_run_fits_in_is_told(root: Path, kind: int, value: int, words: str) -> None:
    said = refused(checked(root, limit=lambda: resource.setrlimit(kind, (value, value))))
    assert said.startswith(words)
    assert "`ulimit -" in said


def test_a_soft_limit_of_files_is_raised(root: Path) -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    done = checked(root, limit=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard)))
    assert done.returncode == 0, done.stdout


@as_root
def test_too_small_a_shared_memory_is_told(root: Path) -> None:
    with (root / "params.yaml").open("a") as file:
        file.write("hardware: {workers: 2}\naugment: {crop: [64, 64]}\n")
    mount = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    enter = ("unshare", "-m", "sh", "-c", mount, "sh")
    if not shutil.which("unshare") or subprocess.run([*enter, "true"], check=False).returncode:
        pytest.skip("this container lets nobody mount")
    said = refused(checked(root, before=enter, what="shared_memory"))
    assert said.startswith("/dev/shm: 0 MiB are free, and 5 batches of hardware.workers take 0.")
    done = checked(root, before=enter)
    assert done.returncode == 0, done.stdout  # a run in which nothing trains needs none


def test_the_batches_in_advance_are_those_of_the_loaders() -> None:
    assert surroundings.READ_AHEAD == workers.READ_AHEAD


@pytest.mark.parametrize("scheme", ["http", "postgresql"])
def test_a_server_of_mlflow_that_never_answers_is_told(
    root: Path, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reach, "SECONDS", 0.3)
    with hanging() as port:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"{scheme}://me:secret@127.0.0.1:{port}/x")
        where = f"MLflow at {scheme}://127.0.0.1:{port}/x does not answer: no answer within"
        with pytest.raises(TransientError, match=f"^{where}"):
            surroundings.require(root)


@pytest.mark.parametrize(
    "url", ["127.0.0.1:4200/api", "http://127.0.0.1:9/api", "http://[::1/x", "http://a:70000/api"]
)
def test_a_prefect_server_that_is_away_is_told(root: Path, url: str) -> None:
    said = refused(checked(root, {"PREFECT_API_URL": url}))
    assert "PREFECT_API_URL" in said
    assert url in said


PROXY = "http://127.0.0.1:9"


def test_loopback_calls_take_no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        for one in (name, name.upper()):
            monkeypatch.setenv(one, "")  # so that it is as it was afterwards
            monkeypatch.delenv(one)
    monkeypatch.setattr(surroundings, "spared", [])
    surroundings.spare_loopback()
    assert "NO_PROXY" not in os.environ
    monkeypatch.setenv("HTTP_PROXY", PROXY)
    monkeypatch.setenv("NO_PROXY", "git.example, localhost")
    assert surroundings.proxied() == ["HTTP_PROXY"]
    surroundings.spare_loopback()
    assert os.environ["no_proxy"] == os.environ["NO_PROXY"] == "git.example,localhost,127.0.0.1,::1"
    assert surroundings.proxied() == []
    monkeypatch.setenv("NO_PROXY", "*")
    surroundings.spare_loopback()
    assert os.environ["NO_PROXY"] == "*"
    monkeypatch.undo()


def test_the_sentence_is_an_error_of_ours(root: Path) -> None:
    (root / "params.yaml").write_text("train: {batch: 8}\n")
    with pytest.raises(SegopsError, match=r"train\.batch"):
        surroundings.shared_memory(root)

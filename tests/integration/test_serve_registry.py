"""`segops serve` follows the champion: promotion, rollback, and what must not be served."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
import torch

from segops import paths
from segops.predict.bundle import load_bundle
from segops.release.rollback import rollback
from tests.support import registry_workspace as made
from tests.support.prediction_server import Served, await_true, picture, serving

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@contextmanager
def asking(server: Served, content: bytes) -> Iterator[Counter[tuple[int, str, bytes]]]:
    """Ask without a pause; count statuses, models and masks."""
    seen: Counter[tuple[int, str, bytes]] = Counter()
    is_over = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=server.client.base_url, timeout=60, trust_env=False) as client:
            while not is_over.is_set():
                answer = client.post("/predict", content=content)
                key = answer.status_code, answer.headers.get("segops-model", ""), answer.content
                seen[key] += 1
                time.sleep(0.05)

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield seen
    finally:
        is_over.set()
        for thread in threads:
            thread.join()


def serves(server: Served, version: str) -> None:
    """Wait until a version is served."""
    client = server.client
    await_true(
        lambda: client.get("/model").json()["version"] == version, server.process, server.log
    )


def expected(root: Path, content: bytes) -> bytes:
    torch.set_num_threads(1)
    return load_bundle(root / paths.SEGMENTER).predict_bytes(content)[0]


def test_the_champion_is_followed_without_a_lost_request(tmp_path: Path) -> None:
    root, content = made.make(tmp_path / "checkout"), picture()
    made.release(root, seed=1, quality=0.5)
    first = expected(root, content)
    with serving(tmp_path / "out", "--workers", "1", root=root) as server:
        assert server.client.get("/model").json()["lineage_doubt"] is None
        assert server.client.get("/model").json()["card"]
        with asking(server, content) as seen:
            made.release(root, seed=2, quality=0.9)
            second = expected(root, content)
            assert second != first
            serves(server, "2")
            time.sleep(0.5)
            rollback(root, reason="a test")
            serves(server, "1")
            time.sleep(0.5)
        assert set(seen) == {(200, "segops/1", first), (200, "segops/2", second)}

        # The process that follows the registry dies: the next one goes on, and fetches anew.
        follower = server.follower()
        assert follower is not None
        follower.kill()
        await_true(lambda: server.follower() not in (None, follower), server.process, server.log)

        # The registry goes away: nothing changes, and the log says so once.
        (root / "mlflow.db").rename(root / "away.db")
        await_true(
            lambda: "The model stays as it is." in server.log.read_text(),
            server.process,
            server.log,
        )
        time.sleep(3)
        assert server.log.read_text().count("The model stays as it is.") == 1
        assert server.client.post("/predict", content=content).content == first
        (root / "away.db").rename(root / "mlflow.db")

        # An alias that was moved past the ledger is not followed.
        made.challenge(root, seed=3, quality=0.7)
        made.client(root).set_registered_model_alias("segops", "champion", "3")
        await_true(
            lambda: server.metric("segops_model_changes_total", outcome="refused") == 1,
            server.process, server.log,
        )  # fmt: skip
        assert "version 3: the ledger names no such champion" in server.log.read_text()
        assert server.client.post("/predict", content=content).content == first
        assert server.client.get("/model").json()["version"] == "1"
        assert "FileExistsError" not in server.log.read_text()


def spoil(tensor: torch.Tensor) -> None:
    tensor.data.fill_(torch.nan)


def test_a_model_that_fails_its_smoke_test_is_not_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, content = made.make(tmp_path / "checkout"), picture()
    made.release(root, seed=1, quality=0.5)
    first = expected(root, content)
    with serving(tmp_path / "out", "--workers", "1", root=root) as server:
        with asking(server, content) as seen:
            # The weights of the next one are not finite; the gate looks at the counts alone.
            with monkeypatch.context() as patched:
                patched.setattr(torch.nn.init, "normal_", spoil)
                made.release(root, seed=2, quality=0.9)
            assert made.aliases(root)["champion"] == "2"
            await_true(
                lambda: server.metric("segops_model_changes_total", outcome="refused") == 1,
                server.process,
                server.log,
            )
        assert set(seen) == {(200, "segops/1", first)}
        assert "segops version 2 is not served" in server.log.read_text()
        assert server.client.get("/ready").status_code == 200
        assert server.metric("segops_workers") == 1


def test_two_models_side_by_side(tmp_path: Path) -> None:
    root, content = made.make(tmp_path / "checkout"), picture()
    made.release(root, seed=1, quality=0.5)
    first = expected(root, content)
    made.release(root, seed=2, quality=0.9)
    second = expected(root, content)
    options = ("--compare", "models:/segops/1", "--workers", "1")
    with serving(tmp_path / "out", *options, root=root) as server:
        told = server.client.get("/model").json()
        assert [(one["key"], one["version"]) for one in told["models"]] == [
            ("main", "2"),
            ("compare", "1"),
        ]
        for key, mask in (("main", second), ("compare", first)):
            answer = server.client.post("/predict", content=content, params={"model": key})
            assert answer.content == mask
    # One version is served though the process that should find it dies before.
    fixed = ("--model", "models:/segops/1", "--workers", "1")
    with serving(tmp_path / "fixed", *fixed, root=root, ready=False) as server:
        await_true(lambda: server.follower() is not None, server.process, server.log)
        follower = server.follower()
        assert follower is not None
        follower.kill()
        await_true(
            lambda: server.client.get("/ready").status_code == 200, server.process, server.log
        )
        assert "is started again" in server.log.read_text()
        serves(server, "1")

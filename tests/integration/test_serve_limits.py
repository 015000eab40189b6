"""`segops serve`: workers that end, limits, keys, stops, exports; each on a server of its own."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from segops.export import make
from segops.predict import log as prediction_log
from segops.predict.bundle import load_bundle
from tests.support.prediction_server import (
    KEY,
    Served,
    await_true,
    error,
    picture,
    serving,
    write_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "segmenter"
    write_model(target, seed=1)
    return target


def test_a_worker_that_dies_loses_its_image_alone(bundle: Path, tmp_path: Path) -> None:
    large = picture(4000, 3000, form="JPEG")
    options = ("--workers", "1", "--deadline", "600")
    with serving(tmp_path, "--model", str(bundle), *options) as server:
        (worker,) = server.workers()
        with ThreadPoolExecutor() as pool:
            lost = pool.submit(server.client.post, "/predict", content=large)
            await_true(
                lambda: server.metric("segops_images_running") == 1, server.process, server.log
            )
            waits = pool.submit(server.client.post, "/predict", content=picture())
            worker.kill()
            assert error(lost.result())[0] == 503
            assert waits.result().status_code == 200
        assert server.metric("segops_worker_restarts") == 1
        # One that ends while it is idle costs no request.
        (worker,) = server.workers()
        worker.kill()
        await_true(lambda: server.metric("segops_worker_restarts") == 2, server.process, server.log)
        assert server.client.post("/predict", content=picture()).status_code == 200


def test_a_full_queue_and_a_deadline(bundle: Path, tmp_path: Path) -> None:
    large = picture(4000, 3000, form="JPEG")
    options = ("--workers", "1", "--queue", "2", "--deadline", "600")
    with serving(tmp_path, "--model", str(bundle), *options) as server:
        with ThreadPoolExecutor(8) as pool:
            asked = [pool.submit(server.client.post, "/predict", content=large) for _ in range(8)]
            answers = [one.result() for one in asked]
        statuses = [one.status_code for one in answers]
        assert set(statuses) == {200, 429}
        assert len({one.content for one in answers if one.status_code == 200}) == 1
        assert all("retry-after" in one.headers for one in answers if one.status_code == 429)
    with serving(
        tmp_path / "late", "--model", str(bundle), "--workers", "1", "--deadline", "0.3"
    ) as server:
        assert error(server.client.post("/predict", content=picture(4000, 4000)))[0] == 504
        await_true(
            lambda: server.client.post("/predict", content=picture()).status_code == 200,
            server.process, server.log,
        )  # fmt: skip


def test_more_images_than_a_worker_can_predict_cost_no_worker(bundle: Path, tmp_path: Path) -> None:
    large = picture(2000, 1500, form="JPEG")
    predictor = load_bundle(bundle, threads=1)
    began = time.monotonic()
    predictor.predict_bytes(large)
    seconds = time.monotonic() - began
    options = ("--workers", "1", "--deadline", f"{4 * seconds + 0.5:.1f}")
    with serving(tmp_path, "--model", str(bundle), *options) as server:
        # So many at once that the last ones are late, also on a server five times as fast.
        with ThreadPoolExecutor(24) as pool:
            asked = [pool.submit(server.client.post, "/predict", content=large) for _ in range(24)]
            statuses = [one.result().status_code for one in asked]
        assert set(statuses) == {200, 504}
        assert server.metric("segops_worker_restarts") == 0
        many = [("image", (f"{number}.png", picture())) for number in range(33)]
        assert error(server.client.post("/predict", files=many))[0] == 413
        assert server.client.post("/predict", files=many[:32]).status_code == 200


def test_keys_and_other_pages(bundle: Path, tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(f"# one client\n{KEY}\n")
    page, other = "https://app.example", f"{KEY}-of-another"
    with serving(
        tmp_path, "--model", str(bundle), "--workers", "1", "--key-file", str(keys),
        "--cors", page, ready=False, SEGOPS_SERVE_KEYS=other,
    ) as server:  # fmt: skip
        asked = server.client
        assert asked.get("/health").status_code == 200
        for headers in ({}, {"X-API-Key": "wrong"}, {"Authorization": f"Basic {KEY}"}):
            answer = asked.post("/predict", content=picture(), headers=headers)
            assert error(answer)[0] == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        await_true(lambda: asked.get("/ready").status_code == 200, server.process, server.log)
        for headers in ({"X-API-Key": other}, {"Authorization": f"Bearer {KEY}"}):
            assert asked.post("/predict", content=picture(), headers=headers).status_code == 200
        own = {"X-API-Key": KEY, "Origin": page}
        answer = asked.post("/predict", content=picture(), headers=own)
        assert answer.headers["access-control-allow-origin"] == page
        preflight = {"Origin": page, "Access-Control-Request-Method": "POST"}
        assert asked.options("/predict", headers=preflight).status_code == 200
        assert error(asked.get("/model", headers=own | {"Origin": "https://b.example"}))[0] == 403
        assert KEY not in server.log.read_text()
        seen = psutil.Process(server.process.pid)
        assert other not in " ".join([*seen.cmdline(), *seen.environ().values()])


def test_a_stop_answers_what_is_under_way(bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--model", str(bundle), "--workers", "1") as server:
        children = psutil.Process(server.process.pid).children(recursive=True)
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(server.client.post, "/predict", content=picture(4000, 3000))
            await_true(
                lambda: server.metric("segops_images_running") == 1, server.process, server.log
            )
            server.process.send_signal(signal.SIGTERM)
            assert asked.result().status_code == 200
        assert server.process.wait(60) == 0
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_workers_end_with_a_server_that_is_killed(bundle: Path, tmp_path: Path) -> None:
    with serving(tmp_path, "--model", str(bundle), "--workers", "1") as server:
        children = server.workers()
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(server.client.post, "/predict", content=picture(4000, 3000))
            await_true(
                lambda: server.metric("segops_images_running") == 1, server.process, server.log
            )
            server.process.kill()
            with pytest.raises(httpx.TransportError):
                asked.result()
        assert not psutil.wait_procs(children, timeout=10)[1]


def test_clients_that_leave_take_their_images_with_them(bundle: Path, tmp_path: Path) -> None:
    options = ("--model", str(bundle), "--workers", "1", "--log", str(tmp_path / "log"))
    with serving(tmp_path, *options) as server:
        leaving = threading.Thread(target=leave, args=(server,))
        first = ThreadPoolExecutor().submit(
            server.client.post, "/predict", content=picture(4000, 3000)
        )
        await_true(lambda: server.metric("segops_images_running") == 1, server.process, server.log)
        leaving.start()
        leaving.join()
        assert first.result().status_code == 200
        assert server.client.post("/predict", content=picture()).status_code == 200
    # A worker would write a line for the image whose client has left, too.
    assert len(list(prediction_log.read_log(tmp_path / "log"))) == 2


def leave(server: Served) -> None:
    """Ask for a large image behind another one, and close the connection."""
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(
            f"{server.client.base_url}/predict", content=picture(4000, 3000), timeout=0.2,
            trust_env=False,
        )  # fmt: skip


def test_an_export_is_served_without_torch(bundle: Path, tmp_path: Path) -> None:
    exported, content = tmp_path / "onnx", picture(seed=3)
    make.export(bundle, {"onnx": exported})
    expected = load_bundle(exported, threads=1).predict_bytes(content)[0]
    with serving(
        tmp_path, "--model", str(exported), "--runtime", "onnx", "--workers", "1",
        "--log", str(tmp_path / "log"),
    ) as server:  # fmt: skip
        assert server.client.get("/model").json()["runtime"] == "onnx"
        assert server.client.post("/predict", content=content).content == expected
        (worker,) = server.workers()
        assert not [one for one in worker.memory_maps() if "libtorch" in one.path]
        asked = {"explain": "cat"}
        json_form = {"Accept": "application/json"}
        answer = server.client.post("/predict", content=content, params=asked, headers=json_form)
        assert error(answer)[0] == 501
    (logged,) = prediction_log.read_log(tmp_path / "log")
    assert logged.observation.predicted is not None
    assert logged.observation.predicted.embedding is None


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (("--model", "nowhere"), "no bundle there"),
        (("--host", "0.0.0.0", "--model", "nowhere"), "could ask without a key"),
    ],
)
def test_what_cannot_be_served_is_said_at_once(
    tmp_path: Path, options: tuple[str, ...], sentence: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "segops", "serve", "--port", "0", *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr

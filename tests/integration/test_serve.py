"""`segops serve`: a real server, its workers, and clients that behave well and badly."""

from __future__ import annotations

import base64
import io
import json
import logging
import os
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest
import torch
from PIL import Image, ImageDraw

from segops.importers import labelme
from segops.predict import log as prediction_log
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.outputs import draw_overlay, encode_jpeg
from segops.runtime.masks import decode_mask
from segops.threads import cores
from segops.voc.hashes import pixel_hash
from segops.words import MIB
from tests.support.prediction_server import (
    Served,
    await_true,
    error,
    picture,
    png,
    serving,
    two_headers,
    write_model,
)

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
log = logging.getLogger(__name__)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "segmenter"
    write_model(target, seed=1)
    return target


@pytest.fixture(scope="module")
def predictor(bundle: Path) -> BundledPredictor:
    torch.set_num_threads(1)
    return load_bundle(bundle)


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--workers", "2", "--max-body", "1", "--max-pixels", "0.5")
    records = ("--record", str(folder / "marks"), "--log", str(folder / "log"))
    with serving(folder, "--model", str(bundle), *options, *records) as served:
        yield served


def pixels(content: bytes) -> Any:
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))


@pytest.mark.parametrize("threads", [1, 2])
def test_the_mask_has_the_bytes_of_segops_predict(
    threads: int, server: Served, bundle: Path, tmp_path: Path
) -> None:
    images = tmp_path / "images"
    images.mkdir()
    for number, form in enumerate(("JPEG", "PNG", "WEBP")):
        (images / f"{number}.{form.lower()}").write_bytes(picture(seed=number, form=form))
    subprocess.run(
        [
            sys.executable, "-m", "segops", "predict", str(images), "--model", str(bundle),
            "--device", "cpu", "--output", str(tmp_path / "masks"),
        ],
        check=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)},
    )  # fmt: skip
    with ExitStack() as stack:
        served = server
        if threads > 1:
            options = ("--model", str(bundle), "--threads", str(threads))
            served = stack.enter_context(serving(tmp_path, *options))
            workers = served.workers()
            assert len(workers) == max(1, cores() // threads)
            assert {one.environ()["OMP_NUM_THREADS"] for one in workers} == {str(threads)}
        for image in sorted(images.iterdir()):
            answer = served.client.post("/predict", content=image.read_bytes())
            assert answer.headers["content-type"] == "image/png"
            assert answer.content == (tmp_path / "masks" / f"{image.stem}.png").read_bytes()


def test_json_tells_shares_mask_confidence_and_outlines(
    server: Served, predictor: BundledPredictor
) -> None:
    content = picture(seed=4)
    asked = {"mask": "true", "confidence_map": "true", "polygons": "true", "explain": "cat"}
    answer = server.client.post(
        "/predict", content=content, params=asked, headers={"Accept": "application/json"}
    ).json()
    (result,) = answer["results"]
    expected, top = predictor.predict_tensors(pixels(content))
    assert len(np.unique(expected)) > 3
    counts = np.bincount(expected.ravel(), minlength=21)
    assert [one["pixels"] for one in result["classes"]] == counts.tolist()
    assert sum(one["share"] for one in result["classes"]) == pytest.approx(1)
    assert result["classes"][8] | {"pixels": 0, "share": 0} == {
        "id": 8, "name": "cat", "color": "#400000", "pixels": 0, "share": 0,
    }  # fmt: skip
    assert (result["width"], result["height"]) == (90, 60)
    assert result["confidence"] == pytest.approx(float(top.mean()), abs=1e-6)
    assert np.array_equal(decode_mask(base64.b64decode(result["mask"]), "mask"), expected)
    shown = np.asarray(Image.open(io.BytesIO(base64.b64decode(result["confidence_map"]))))
    assert np.abs(shown / 255 - top).max() <= 0.5 / 255 + 1e-6
    activation = np.asarray(Image.open(io.BytesIO(base64.b64decode(result["activation"]))))
    assert activation.shape == (60, 90)
    assert activation.max() == 255
    assert answer["model"]["digest"] == server.client.get("/model").json()["digest"]
    assert np.array_equal(drawn(result["polygons"], expected.shape), expected)


def drawn(polygons: list[dict[str, Any]], shape: tuple[int, int]) -> Any:
    """A mask from its outlines; what lies in a hole is drawn by its own outline, or background."""
    total = np.zeros(shape, np.uint8)
    for one in polygons:
        region = Image.new("1", shape[::-1])
        ImageDraw.Draw(region).polygon([(x, y) for x, y in one["points"]], 1, 1)
        inside = np.array(region)
        for hole in one["holes"]:
            cut = Image.new("1", shape[::-1])
            ImageDraw.Draw(cut).polygon([(x, y) for x, y in hole], 1, 0)
            # The corners of a hole are pixels of the region around it.
            border = Image.new("1", shape[::-1])
            ImageDraw.Draw(border).polygon([(x, y) for x, y in hole], 0, 1)
            inside &= ~(np.array(cut) & ~np.array(border))
        total[inside] = one["id"]
    return total


def test_other_forms(server: Served, predictor: BundledPredictor) -> None:
    content = picture(seed=5)
    image = pixels(content)
    npy = server.client.post("/predict", content=content, headers={"Accept": "application/x-npy"})
    probabilities = np.load(io.BytesIO(npy.content), allow_pickle=False)
    expected = predictor.predict_probabilities(image).astype(np.float16)
    assert np.array_equal(probabilities, expected)
    jpeg = server.client.post("/predict", content=content, headers={"Accept": "image/jpeg"})
    overlay = draw_overlay(image, predictor.predict(image).mask, predictor.classes)
    assert jpeg.content == encode_jpeg(overlay)


def test_each_of_several_images_has_its_own_result(
    server: Served, predictor: BundledPredictor
) -> None:
    good = [picture(seed=number) for number in range(3)]
    files = [
        ("image", ("one.png", good[0])),
        ("image", ("../../notes\x1b.txt", b"some text")),
        ("image", ("two.png", good[1])),
        ("image", ("three.png", good[2][:200])),
    ]
    answer = server.client.post("/predict", files=files, params={"mask": "true"})
    results = answer.json()["results"]
    assert [one["name"] for one in results] == ["one.png", "notes.txt", "two.png", "three.png"]
    for place, content in ((0, good[0]), (2, good[1])):
        mask = decode_mask(base64.b64decode(results[place]["mask"]), "mask")
        assert np.array_equal(mask, predictor.predict_mask(pixels(content)))
    assert [results[place]["error"]["status"] for place in (1, 3)] == [415, 422]
    archive = server.client.post("/predict", files=files, headers={"Accept": "application/zip"})
    with zipfile.ZipFile(io.BytesIO(archive.content)) as opened:
        assert opened.namelist() == ["0001-one.png", "0003-two.png", "results.json"]
        told = json.loads(opened.read("results.json"))["results"]
        assert "error" in told[1]
        assert (
            opened.read(told[2]["mask"]) == server.client.post("/predict", content=good[1]).content
        )


def twelve_bits() -> bytes:
    """The head of a JPEG with 12 bits a channel."""
    frame = b"\xff\xc1\0\x11\x0c\0\x10\0\x10\x03\x01\x11\0\x02\x11\0\x03\x11\0"
    return b"\xff\xd8" + frame + b"\xff\xd9"


BAD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "not an image": (415, "a PDF file", {"content": b"%PDF-1.7 and more"}),
    "truncated": (422, "image: ", {"content": picture(form="JPEG")[:700]}),
    "bomb": (413, "50000 x 50000 pixels", {"content": png(50_000, rows=bytes(1000))}),
    "two headers": (422, "two headers", {"content": two_headers()}),
    "12 bits": (422, "image: ", {"content": twelve_bits()}),
    "too many pixels": (413, "1000 x 1000", {"content": picture(1000, 1000, form="JPEG")}),
    "large body": (413, "1 MiB", {"content": bytes(100 << 20)}),
    "empty body": (400, "empty", {"content": b""}),
    "unknown class": (404, "no such class", {"params": {"explain": "unicorn"}}),
    "unknown model": (404, "no such model", {"params": {"model": "other"}}),
    "not a truth": (400, "mask", {"params": {"mask": "perhaps"}}),
    "unknown form": (406, "text/css", {"headers": {"Accept": "text/css"}}),
    "malformed multipart": (
        400, "malformed",
        {
            "content": b"--x\r\nno end",
            "headers": {"Content-Type": "multipart/form-data; boundary=x"},
        },
    ),
    "no boundary": (
        400, "boundary", {"content": b"text", "headers": {"Content-Type": "multipart/form-data"}},
    ),
    "many parts": (413, "64 parts", {"files": [("image", ("p.png", b"x"))] * 65}),
    "no file": (400, "no file", {"data": {"other": "1"}, "files": {"other": b"1"}}),
    "foreign host": (403, "answers to", {"headers": {"Host": "evil.example"}}),
    "foreign page": (403, "other web pages", {"headers": {"Origin": "http://evil.example"}}),
}  # fmt: skip


def ask_badly(server: Served, case: str) -> httpx.Response:
    _, _, asked = BAD[case]
    if not {"content", "files"} & asked.keys():
        asked = {**asked, "content": picture()}
    if "explain" in asked.get("params", {}):
        asked = {**asked, "headers": {"Accept": "application/json"}}
    return server.client.post("/predict", **asked)


@pytest.mark.parametrize("case", BAD)
def test_a_bad_request_gets_its_status_and_one_sentence(server: Served, case: str) -> None:
    before = server.metric("segops_worker_restarts")
    status, message = error(ask_badly(server, case))
    assert (status, BAD[case][1] in message) == (BAD[case][0], True), message
    assert "\n" not in message
    assert "Traceback" not in server.log.read_text()
    assert server.client.post("/predict", content=picture()).status_code == 200
    assert server.metric("segops_worker_restarts") == before


def test_other_paths_and_methods(server: Served) -> None:
    assert error(server.client.get("/predict"))[0] == 405
    assert error(server.client.get("/nothing"))[0] == 404


def test_slow_clients_are_told_so(server: Served) -> None:
    """One is slow with the head, another with the body; both get 408, and nobody waits for them."""

    def slowly(start: bytes) -> bytes:
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(start)
            connection.settimeout(60)
            return connection.makefile("rb").read()

    head = b"POST /predict HTTP/1.1\r\nHost: 127.0.0.1:%d\r\n" % server.port
    with ThreadPoolExecutor() as pool:
        waiting = [
            pool.submit(slowly, head),
            pool.submit(slowly, head + b"Content-Length: 1000\r\n\r\nfew"),
        ]
        assert server.client.post("/predict", content=picture()).status_code == 200
        assert not any(one.done() for one in waiting)
        for one in waiting:
            start, _, refused = one.result().partition(b"\r\n\r\n")
            assert start.startswith(b"HTTP/1.1 408 ")
            assert json.loads(refused)["error"]["status"] == 408


@pytest.mark.parametrize("count", [600, pytest.param(10_000, marks=pytest.mark.long)])
def test_many_bad_requests_change_nothing(server: Served, count: int) -> None:
    """Memory and the time of a good request stay as they are, within noise."""
    cases = [case for case in BAD if case != "large body"]

    def good_seconds() -> float:
        began = time.perf_counter()
        assert server.client.post("/predict", content=picture()).status_code == 200
        return time.perf_counter() - began

    def memory() -> int:
        processes = [psutil.Process(server.process.pid), *server.workers()]
        return sum(one.memory_info().rss for one in processes)

    def round_of(count: int) -> float:
        times = []
        for number in range(count):
            case = cases[number % len(cases)]
            assert ask_badly(server, case).status_code == BAD[case][0]
            if number % 10 == 0:
                times.append(good_seconds())
        return float(np.median(times))

    await_true(lambda: server.metric("segops_workers") == 2, server.process, server.log)
    first = round_of(200)
    held = memory()
    with socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /predict HTTP/1.1\r\n")
        last = round_of(count)
    grown = (memory() - held) / MIB
    log.info(
        "%d bad requests: %+.1f MiB; a good one takes %.0f ms, beside them %.0f ms",
        count, grown, 1000 * first, 1000 * last,
    )  # fmt: skip
    assert grown < 20
    assert last < 3 * first + 0.05
    assert "Traceback" not in server.log.read_text()


def test_a_mark_is_taken_up_as_labelme(server: Served) -> None:
    content = picture(form="JPEG", seed=7)
    for label, polygon in (
        ("dog", [[10, 10], [40, 10], [40, 30], [10, 30]]),
        ("cat", [[50, 5], [80, 5], [80, 20]]),
    ):
        mark = json.dumps({"note": "not a sofa", "class": label, "polygon": polygon})
        answer = server.client.post(
            "/marks", files={"image": ("p.jpg", content)}, data={"mark": mark}
        )
        assert answer.status_code == 201, answer.text
    marks = server.log.parent / "marks"
    name = answer.json()["image"]
    assert (marks / name).read_bytes() == content
    (image,) = labelme.read(marks).images
    marked = image.draw((90, 60))
    assert marked.labels[marked.indices[20, 20]] == "dog"
    assert marked.labels[marked.indices[6, 75]] == "cat"
    for bad, status in (
        ({"class": "unicorn", "polygon": [[1, 1], [2, 2], [1, 3]]}, 404),
        ({"class": "cat", "polygon": [[1, 1], [2, 2]]}, 400),
        ({"class": "cat", "polygon": [[1, 1], [200, 2], [1, 3]]}, 400),
    ):
        files = {"image": ("p.jpg", content)}
        answer = server.client.post("/marks", files=files, data={"mark": json.dumps(bad)})
        assert error(answer)[0] == status


def test_the_prediction_log_holds_a_line_for_each_image(
    server: Served, predictor: BundledPredictor
) -> None:
    content = picture(seed=11)
    server.client.post("/predict", content=content)
    logged = list(prediction_log.read_log(server.log.parent / "log"))
    shares = np.bincount(predictor.predict_mask(pixels(content)).ravel(), minlength=21) / 5400
    (found,) = [
        one for one in logged if one.observation.pixels == pixel_hash([pixels(content)], 90, 60)
    ]
    assert found.observation.predicted is not None
    np.testing.assert_allclose(found.observation.predicted.shares, shares, atol=1e-6)

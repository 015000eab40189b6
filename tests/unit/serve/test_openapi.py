"""What the server's OpenAPI document tells is what the server does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from segops.predict.bundle import bundle_digest
from segops.serve.app import application
from segops.serve.body import Budget
from segops.serve.metrics import Metrics
from segops.serve.pool import Limits, Pool, Source
from segops.serve.predicting import FORMS
from segops.serve.replies import JSON, ZIP
from segops.serve.serving import local_source
from tests.support.prediction_server import write_model

SUCCESS = {
    ("get", "/health"): ("200", {JSON}),
    ("get", "/ready"): ("200", {JSON}),
    ("get", "/metrics"): ("200", {"text/plain"}),
    ("get", "/model"): ("200", {JSON}),
    ("post", "/predict"): ("200", {*FORMS, ZIP}),
    ("post", "/marks"): ("201", {JSON}),
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    root = tmp_path_factory.mktemp("served")
    write_model(root / "segmenter", seed=1)
    return local_source(root / "segmenter", root)


@pytest.fixture(scope="module")
def app(source: Source) -> FastAPI:
    pool = Pool("none", ("cpu",), Limits(), None)
    pool.models = {"main": source}
    return application(pool, Metrics(pool), Path("marks"), Budget(1 << 20))


@pytest.fixture(scope="module")
def document(app: FastAPI) -> dict[str, Any]:
    return app.openapi()


def operations(document: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {
        (method, path): operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }


def examples(content: dict[str, Any]) -> list[Any]:
    """The examples of a body."""
    return [
        *([content["example"]] if "example" in content else []),
        *(one["value"] for one in content.get("examples", {}).values()),
    ]


def test_every_path_tells_its_status_and_its_media_types(document: dict[str, Any]) -> None:
    found = operations(document)
    assert found.keys() == SUCCESS.keys()
    for place, operation in found.items():
        status, kinds = SUCCESS[place]
        good = [one for one in operation["responses"] if one.startswith("2")]
        assert good == [status], place
        assert set(operation["responses"][status]["content"]) == kinds, place


def test_refusals_are_those_of_the_path(document: dict[str, Any]) -> None:
    for place, operation in operations(document).items():
        answers = {int(status): one for status, one in operation["responses"].items()}
        refusals = {status: one for status, one in answers.items() if status >= 400}
        assert {403, 500, 503} <= refusals.keys(), place
        assert (401 in refusals) == (place[1] not in ("/health", "/ready")), place
        assert (507 in refusals) == (place[1] == "/marks"), place
        assert (406 in refusals) == (place[1] == "/predict"), place
        for status, one in refusals.items():
            assert one["content"][JSON]["example"]["error"]["status"] == status


def test_there_are_examples(document: dict[str, Any]) -> None:
    found = operations(document)
    for place in (("post", "/predict"), ("post", "/marks")):
        for kind, content in found[place]["requestBody"]["content"].items():
            assert examples(content), (place, kind)
    for place, (status, kinds) in SUCCESS.items():
        for kind in kinds - {"text/plain"}:
            assert examples(found[place]["responses"][status]["content"][kind]), (place, kind)


def test_examples_have_the_form_of_answers(
    app: FastAPI, document: dict[str, Any], source: Source
) -> None:
    async def ask(path: str) -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport, base_url="http://server") as client:
            return await client.get(path)

    def example(path: str) -> Any:
        return operations(document)["get", path]["responses"]["200"]["content"][JSON]["example"]

    assert asyncio.run(ask("/health")).json() == example("/health")
    assert asyncio.run(ask("/ready")).status_code == 503  # no worker was started
    told, shown = asyncio.run(ask("/model")).json(), example("/model")
    assert told["digest"] == bundle_digest(Path(source.directory))
    assert shown.keys() == told.keys()
    assert shown["models"][0].keys() == told["models"][0].keys()
    assert shown["classes"][0].keys() == told["classes"][0].keys()
    answer = asyncio.run(ask("/metrics"))
    assert answer.headers["content-type"].startswith("text/plain")

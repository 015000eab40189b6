"""The routes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, PlainTextResponse

from segops import __version__
from segops.serve import examples, marks, page, predicting
from segops.serve.body import Budget, Upload, uploads
from segops.serve.errors import RequestError
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool
from segops.serve.predicting import FIELD
from segops.serve.replies import error_reply
from segops.serve.wanted import PNG, Wanted

MARK = "mark"


def application(pool: Pool, metrics: Metrics, record: Path | None, budget: Budget) -> FastAPI:
    """Return the routes over a pool of workers.

    Args:
        pool: Predicts.
        metrics: Counts images, and is shown at ``/metrics``.
        record: Directory for marks; None: they are not taken.
        budget: Counts the bodies of requests.
    """
    # Swagger's page loads its script from another server, which a server offline cannot.
    app = FastAPI(
        title="segops serve",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.state.pool = pool
    app.include_router(page.router())

    @app.exception_handler(RequestError)
    async def _refused(_: Request, error: RequestError) -> Response:
        return error_reply(error)

    @app.exception_handler(RequestValidationError)
    async def _invalid(_: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return error_reply(RequestError(400, f"{first['loc'][-1]}: {first['msg']}."))

    @app.exception_handler(HTTPException)
    async def _unknown(request: Request, error: HTTPException) -> Response:
        message = f"{request.method} {request.url.path}: {error.detail}; /openapi.json lists all."
        return error_reply(RequestError(error.status_code, message, dict(error.headers or {})))

    @app.exception_handler(Exception)
    async def _failed(_: Request, __: Exception) -> Response:
        # Starlette raises the exception again, for the log.
        return error_reply(RequestError(500, "The server failed; its log says why."))

    @app.get(
        "/health",
        summary="Whether the server's process works.",
        responses=examples.responses(
            examples.PROBE_ERRORS, description="It does.", example=examples.HEALTH
        ),
    )
    async def _health() -> dict[str, str]:
        return examples.HEALTH

    @app.get(
        "/ready",
        summary="Whether a model is loaded and passed its smoke test.",
        responses=examples.responses(
            examples.PROBE_ERRORS, description="One is.", example=examples.READY
        ),
    )
    async def _ready() -> dict[str, str]:
        pool.require_model()
        if not pool.live:
            raise RequestError(503, "The workers are being started.", {"Retry-After": "2"})
        return examples.READY

    @app.get(
        "/metrics",
        summary="Counts and times in Prometheus' text format.",
        response_class=PlainTextResponse,
        responses=examples.responses(examples.READ_ERRORS),
    )
    async def _metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get(
        "/model",
        summary="The models: classes, card, lineage, settings.",
        responses=examples.responses(
            examples.READ_ERRORS,
            description="The first model, and under `models` all of them.",
            example=examples.MODEL,
        ),
    )
    async def _model() -> Response:
        pool.require_model()
        models = [{"key": key, **source.told} for key, source in pool.models.items()]
        return JSONResponse({**models[0], "models": models, "marks": record is not None})

    @app.post(
        "/predict",
        summary="Predict images.",
        responses=examples.responses(examples.PREDICT_ERRORS),
        openapi_extra=examples.PREDICT,
    )
    async def _predict(
        request: Request,
        model: Annotated[str, Query(description="Key of the model: main or compare.")] = "main",
        mask: Annotated[bool, Query(description="JSON holds the mask, a PNG in base64.")] = False,
        confidence_map: Annotated[
            bool, Query(description="JSON holds each pixel's top probability, a grey PNG.")
        ] = False,
        polygons: Annotated[bool, Query(description="JSON holds outlines of regions.")] = False,
        explain: Annotated[
            str | None, Query(description="JSON holds the activation map of this class.")
        ] = None,
    ) -> Response:
        pool.require_place()
        if model not in pool.models:
            raise RequestError(
                404, f"model={model}: no such model; there is {', '.join(pool.models)}."
            )
        wanted = Wanted(PNG, mask, confidence_map, polygons, explain)
        with budget.share() as share:
            return await predicting.answer(request, pool, metrics, model, wanted, share)

    if record is not None:
        writing = asyncio.Lock()

        @app.post(
            "/marks",
            status_code=201,
            summary="Mark a wrong region.",
            responses=examples.responses(
                examples.MARK_ERRORS,
                201,
                "The mark is written; the name of the photograph's file.",
                example={"image": "5f2c9a0b7d13.jpg"},
            ),
            openapi_extra=examples.MARKS,
        )
        async def _marks(request: Request) -> Response:
            pool.require_place()
            with budget.share() as share:
                parts = await uploads(request, pool.limits.max_body, share)
                name = await _marked(pool, record, parts, writing)
            return JSONResponse({"image": name}, 201)

    return app


async def _marked(pool: Pool, record: Path, parts: Sequence[Upload], writing: asyncio.Lock) -> str:
    """Write a mark; return the name of the photograph's file."""
    images = [part for part in parts if part.is_file and part.field == FIELD]
    said = [part for part in parts if part.field == MARK]
    if len(images) != 1 or len(said) != 1:
        raise RequestError(
            400, f"A mark is one file in the field `{FIELD}` and one JSON text in `{MARK}`."
        )
    names = [one["name"] for one in pool.models["main"].told["classes"]]
    mark = marks.parsed(said[0].content, names)
    head = {"do": "photograph", "key": "main", "name": images[0].name}
    (answer, content), _ = await pool.predict(head, images[0].content)
    if (failed := answer.get("error")) is not None:
        raise RequestError(**failed)
    size = answer["width"], answer["height"]
    try:
        async with writing:  # marks of the same photograph share a file
            return await asyncio.to_thread(
                marks.write, record, mark, answer["suffix"], content[0], size
            )
    except OSError as error:
        raise RequestError(507, f"The mark cannot be written: {error.strerror}.") from error

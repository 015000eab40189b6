"""The routes of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from segops.serve import examples, marks, page, replies
from segops.serve.answer import JPEG, JSON, NPY, PNG, Wanted
from segops.serve.body import Upload, uploads
from segops.serve.errors import RequestError
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool, Source
from segops.serve.replies import ZIP, Result, error_reply

SHORT = ("name", "version", "digest")
"""What every answer tells of its model; `GET /model` tells the rest."""
FIELD, MARK = "image", "mark"
FORMS = (PNG, JSON, JPEG, NPY)
MANY_FORMS = (JSON, ZIP)


def application(pool: Pool, metrics: Metrics, record: Path | None) -> FastAPI:
    """Return the routes over a pool of workers.

    Args:
        pool: Predicts.
        metrics: Counts images, and is told at ``/metrics``.
        record: Directory for marks; None: they are not taken.
    """
    # Swagger's page loads its script from another server, which a server offline cannot.
    app = FastAPI(title="segops serve", docs_url=None, redoc_url=None, responses=examples.ERRORS)
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
        told = RequestError(error.status_code, message, dict(error.headers or {}))
        return error_reply(told)

    @app.get("/health", summary="Whether the server's process works.")
    async def _health() -> dict[str, str]:
        return {"status": "ok"}

    @app.get("/ready", summary="Whether a model is loaded and passed its smoke test.")
    async def _ready() -> dict[str, str]:
        if not pool.models or not pool.live:
            raise RequestError(503, "No model is loaded yet.", {"Retry-After": "2"})
        return {"status": "ready"}

    @app.get("/metrics", summary="Counts and times in Prometheus' text format.")
    async def _metrics() -> Response:
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/model", summary="The models: classes, card, lineage, settings.")
    async def _model() -> Response:
        if not pool.models:
            raise RequestError(503, "No model is loaded yet.", {"Retry-After": "2"})
        models = [{"key": key, **source.told} for key, source in pool.models.items()]
        return JSONResponse({**models[0], "models": models, "marks": record is not None})

    @app.post("/predict", summary="Predict images.", openapi_extra=examples.PREDICT)
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
        accepted = _accepted(request)
        parts = await uploads(request, pool.limits.max_body)
        images = [part for part in parts if part.is_file and part.field == FIELD]
        if not images:
            raise RequestError(400, f"The multipart body holds no file in a field named `{FIELD}`.")
        is_many = len(images) > 1
        form = _form(accepted, MANY_FORMS if is_many else (*FORMS, ZIP))
        pool.require_place()  # others may have come during the upload
        each = PNG if form == ZIP else form
        wanted = Wanted(each, mask, confidence_map, polygons, explain)
        results, models = await _predicted(request, pool, model, images, wanted)
        for result in results:
            outcome = "predicted" if result.error is None else str(result.error.status)
            metrics.images.labels(outcome).inc()
        told = short(models[model])
        if is_many or form == ZIP:
            return replies.several(results, form, told)
        return replies.single(results[0], form, told)

    if record is not None:

        @app.post("/marks", summary="Mark a wrong region.", openapi_extra=examples.MARKS)
        async def _marks(request: Request) -> Response:
            pool.require_place()
            parts = await uploads(request, pool.limits.max_body)
            name = await _marked(pool, record, parts)
            return JSONResponse({"image": name}, 201)

    return app


async def _marked(pool: Pool, record: Path, parts: Sequence[Upload]) -> str:
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
    # Not in a thread: marks of the same photograph are written one after another.
    return marks.write(record, mark, answer["suffix"], content[0], size)


async def _predicted(
    request: Request, pool: Pool, key: str, images: Sequence[Upload], wanted: Wanted
) -> tuple[list[Result], Mapping[str, Source]]:
    """Predict images, each with its own result; stop where the client has gone."""
    models = pool.models

    async def one(image: Upload) -> Result:
        nonlocal models
        head = {"do": "predict", "key": key, "name": image.name, "wanted": vars(wanted)}
        try:
            (answer, parts), models = await pool.predict(head, image.content)
        except RequestError as error:
            return Result(image.name, error=error)
        if (failed := answer.get("error")) is not None:
            return Result(image.name, error=RequestError(**failed))
        return Result(image.name, parts[0], answer["confidence"])

    work = asyncio.gather(*(one(image) for image in images))
    leaving = asyncio.ensure_future(_left(request))
    waited: set[asyncio.Future[Any]] = {work, leaving}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise RequestError(499, "The client closed the connection.")
        return await work, models
    finally:
        leaving.cancel()
        work.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def short(source: Source) -> dict[str, Any]:
    """Return what every answer tells of its model."""
    return {key: source.told[key] for key in SHORT}


def _accepted(request: Request) -> list[str]:
    """Return the media types that the client accepts, the dearest first."""
    found: list[tuple[float, str]] = []
    for part in ",".join(request.headers.getlist("accept")).split(","):
        kind, *options = (one.strip().lower() for one in part.split(";"))
        quality = next((one[2:] for one in options if one.startswith("q=")), "1")
        try:
            found.append((float(quality), kind))
        except ValueError:
            raise RequestError(400, f"Accept: q={quality} is no number.") from None
    found.sort(key=lambda one: -one[0])
    return [kind for quality, kind in found if kind and quality > 0] or ["*/*"]


def _form(accepted: Sequence[str], forms: Sequence[str]) -> str:
    """Return the first form that the client accepts.

    Raises:
        RequestError: It accepts none (406).
    """
    for kind in accepted:
        for form in forms:
            if kind in ("*/*", form) or (kind.endswith("/*") and form.startswith(kind[:-1])):
                return form
    raise RequestError(
        406, f"Accept: {', '.join(accepted)}: expected one of {', '.join(forms)} here."
    )

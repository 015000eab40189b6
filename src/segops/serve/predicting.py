"""Answers `POST /predict`: the form that the client accepts, and a result for each image."""

from __future__ import annotations

import asyncio
import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from segops.serve import replies
from segops.serve.body import Share, Upload, uploads
from segops.serve.errors import RequestError
from segops.serve.metrics import Metrics
from segops.serve.pool import Job, Pool, Source
from segops.serve.replies import JSON, ZIP, Result
from segops.serve.wanted import JPEG, NPY, PNG, Wanted

SHORT = ("name", "version", "digest")
"""What every answer tells of its model; `GET /model` tells the rest."""
FIELD = "image"
FORMS = (PNG, JSON, JPEG, NPY)
MANY_FORMS = (JSON, ZIP)
QUALITY = re.compile(r"0(\.[0-9]*)?|1(\.0*)?|\.[0-9]+")


async def answer(
    request: Request, pool: Pool, metrics: Metrics, key: str, wanted: Wanted, share: Share
) -> Response:
    """Answer a request with images.

    Args:
        request: The request.
        pool: Predicts.
        metrics: Counts images.
        key: Key of the model, which is served.
        wanted: What is asked for; the form is that which the client accepts.
        share: Counts the body.

    Raises:
        RequestError: The request fails as a whole.
    """
    kinds = accepted(request)
    parts = await uploads(request, pool.limits.max_body, share)
    images = [part for part in parts if part.is_file and part.field == FIELD]
    if not images:
        raise RequestError(400, f"The multipart body holds no file in a field named `{FIELD}`.")
    is_many = len(images) > 1
    form = chosen(kinds, MANY_FORMS if is_many else (*FORMS, ZIP))
    wanted = dataclasses.replace(wanted, form=PNG if form == ZIP else form)
    results = await _predicted(request, pool, key, images, wanted)
    for result in results:
        outcome = "predicted" if result.error is None else str(result.error.status)
        metrics.images.labels(outcome).inc()
    # A promotion may come between two images; each one keeps the model that predicted it.
    models = [result.model for result in results if result.model is not None]
    model = models[-1] if models else _short(pool.models[key])
    if is_many or form == ZIP:
        return replies.several(results, form, model)
    return replies.single(results[0], form, model)


def _short(source: Source) -> dict[str, Any]:
    return {name: source.told[name] for name in SHORT}


async def _predicted(
    request: Request, pool: Pool, key: str, images: Sequence[Upload], wanted: Wanted
) -> list[Result]:
    """Predict images, each with its own result; stop where the client has gone."""
    head = {"do": "predict", "key": key, "wanted": vars(wanted)}
    jobs = pool.put([({**head, "name": image.name}, image.content) for image in images])

    async def one(name: str, job: Job) -> Result:
        try:
            (answer, parts), models = await pool.answer(job)
        except RequestError as error:
            return Result(name, error=error)
        model = _short(models[key])
        if (failed := answer.get("error")) is not None:
            return Result(name, error=RequestError(**failed), model=model)
        return Result(name, parts[0], answer["confidence"], model=model)

    work = asyncio.gather(*(one(image.name, job) for image, job in zip(images, jobs, strict=True)))
    leaving = asyncio.ensure_future(_left(request))
    waited: set[asyncio.Future[Any]] = {work, leaving}
    try:
        await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        if not work.done():
            raise RequestError(499, "The client closed the connection.")
        return await work
    finally:
        leaving.cancel()
        work.cancel()
        for job in jobs:
            job.answer.cancel()


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def accepted(request: Request) -> dict[str, float]:
    """Return the media ranges that the client names, with their qualities, 0..1.

    Raises:
        RequestError: A quality is none (400).
    """
    found: dict[str, float] = {}
    for part in ",".join(request.headers.getlist("accept")).split(","):
        kind, *options = (one.strip().lower() for one in part.split(";"))
        quality = next((one[2:] for one in options if one.startswith("q=")), "1")
        if not QUALITY.fullmatch(quality):
            raise RequestError(400, f"Accept: q={quality}: expected a number of 0 to 1.")
        if kind:
            found[kind] = float(quality)
    return found or {"*/*": 1.0}


def chosen(kinds: Mapping[str, float], forms: Sequence[str]) -> str:
    """Return the form of the highest quality; of equal ones that which the client names first.

    The most specific range decides the quality of a form (RFC 9110, 12.5.1).

    Raises:
        RequestError: It accepts none (406).
    """
    order = list(kinds)

    def rank(form: str) -> tuple[float, int]:
        ranges = (form, f"{form.split('/')[0]}/*", "*/*")
        found = next((one for one in ranges if one in kinds), None)
        return (0.0, 0) if found is None else (kinds[found], -order.index(found))

    form = max(forms, key=rank)
    if rank(form)[0] > 0:
        return form
    raise RequestError(406, f"Accept: {', '.join(kinds)}: expected one of {', '.join(forms)} here.")

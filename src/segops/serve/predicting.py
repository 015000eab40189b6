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
from segops.serve.answer import JPEG, JSON, NPY, PNG, Wanted
from segops.serve.body import Share, Upload, uploads
from segops.serve.errors import RequestError
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool, Source
from segops.serve.replies import ZIP, Result

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
    pool.require_place()  # others may have come during the upload
    wanted = dataclasses.replace(wanted, form=PNG if form == ZIP else form)
    results, models = await _predicted(request, pool, key, images, wanted)
    for result in results:
        outcome = "predicted" if result.error is None else str(result.error.status)
        metrics.images.labels(outcome).inc()
    told = {name: models[key].told[name] for name in SHORT}
    if is_many or form == ZIP:
        return replies.several(results, form, told)
    return replies.single(results[0], form, told)


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

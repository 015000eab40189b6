"""The forms of answers: errors, one image, several images."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from starlette.responses import Response

from segops.serve.errors import RequestError

JSON, ZIP = "application/json", "application/zip"
LONGEST_STEM = 200
"""Bytes; most file systems take names of 255."""


class Result(NamedTuple):
    """The answer for one image.

    Attributes:
        name: The image's name.
        content: The worker's bytes; empty where it failed.
        confidence: Mean probability of the top class.
        error: Why there is no prediction.
        model: What answers tell of the model that took the image; None where none did.
    """

    name: str
    content: bytes = b""
    confidence: float = 0.0
    error: RequestError | None = None
    model: Mapping[str, Any] | None = None

    def differing(self, model: Mapping[str, Any]) -> dict[str, Any]:
        """Return the key `model` of its entry, where another model took it than the answer says."""
        return {} if self.model in (None, model) else {"model": self.model}

    def as_json(self, model: Mapping[str, Any]) -> bytes:
        """Return the entry of `results`; the worker made it where the image was predicted.

        Args:
            model: The model of the whole answer.
        """
        more = self.differing(model)
        if self.error is not None:
            entry = {"name": self.name, "error": self.error.body(), **more}
            return json.dumps(entry).encode()
        if not more:
            return self.content
        return self.content.removesuffix(b"}") + b"," + json.dumps(more).encode()[1:]


def error_reply(error: RequestError) -> Response:
    """Return the answer to a request that failed as a whole."""
    text = json.dumps({"error": error.body()})
    return Response(text, error.status, error.headers, JSON)


def single(result: Result, form: str, model: Mapping[str, Any]) -> Response:
    """Return the answer to a request with one image."""
    headers = {"segops-model": label(model)}
    if result.error is not None:
        headers |= result.error.headers
        error = result.error.body()
        entry = {"name": result.name, "error": error}
        text = json.dumps({"error": error, "model": model, "results": [entry]})
        return Response(text, result.error.status, headers, JSON)
    if form == JSON:
        return Response(_document([result], model), 200, headers, JSON)
    headers["segops-confidence"] = f"{result.confidence:.6f}"
    return Response(result.content, 200, headers, form)


def several(results: Sequence[Result], form: str, model: Mapping[str, Any]) -> Response:
    """Return the answer to a request with several images: JSON, or a ZIP archive of masks."""
    headers = {"segops-model": label(model)}
    if form == JSON:
        return Response(_document(results, model), 200, headers, JSON)
    buffer = BytesIO()
    listed: list[dict[str, Any]] = []
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:  # PNGs are compressed
        for number, result in enumerate(results, 1):
            entry: dict[str, Any] = {"name": result.name, **result.differing(model)}
            if result.error is None:
                stem = PurePosixPath(result.name).stem.encode()[:LONGEST_STEM]
                entry["mask"] = f"{number:04}-{stem.decode(errors='ignore')}.png"
                entry["confidence"] = result.confidence
                archive.writestr(entry["mask"], result.content)
            else:
                entry["error"] = result.error.body()
            listed.append(entry)
        archive.writestr("results.json", json.dumps({"model": model, "results": listed}))
    return Response(buffer.getvalue(), 200, headers, ZIP)


def label(model: Mapping[str, Any]) -> str:
    """Return name and version of a model, or name and digest, in characters of a header."""
    text = f"{model['name']}/{model['version'] or model['digest'][:12]}"
    return text.encode("ascii", "replace").decode()


def _document(results: Sequence[Result], model: Mapping[str, Any]) -> bytes:
    entries = b",".join(result.as_json(model) for result in results)
    return b'{"model":' + json.dumps(model).encode() + b',"results":[' + entries + b"]}"

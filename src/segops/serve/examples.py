"""What OpenAPI tells of requests and answers, with examples."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from segops.serve.replies import JSON

_BYTES = {"type": "string", "format": "binary"}
_ERROR = {
    "type": "object",
    "properties": {
        "error": {
            "type": "object",
            "properties": {"status": {"type": "integer"}, "message": {"type": "string"}},
            "required": ["status", "message"],
        }
    },
}
_TOLD = {
    400: ("The request is malformed.", "The body is empty; send an image's bytes."),
    401: ("The key is missing or wrong.", "This server asks for a key."),
    403: ("The request comes from another page.", "Requests from other web pages are refused."),
    404: ("There is no such class, model or path.", "model=b: no such model; there is main."),
    406: ("The answer has no form that the client accepts.", "Accept: text/css: expected ..."),
    408: ("The upload is too slow.", "The upload is slower than 64 KiB a second."),
    413: ("Body or image is too large.", "The body has more than 32 MiB (--max-body)."),
    415: ("The body is no image.", "image: not an image: a PDF file."),
    422: ("The image cannot be decoded.", "image: not decodable: image file is truncated."),
    429: ("The queue is full; `Retry-After` says when to try again.", "32 images wait already."),
    500: ("The server failed.", "The server failed; its log says why."),
    501: ("This runtime cannot do that.", "Only torch explains a class (--runtime torch)."),
    503: ("There is no model yet, or the worker ended.", "The model is being loaded."),
    504: ("The prediction was too slow.", "The prediction was not ready in time (--deadline)."),
    507: ("The mark has no room.", "This photograph has 200 marks already."),
}
_ERRORS: dict[int, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {
            JSON: {
                "schema": _ERROR,
                "example": {"error": {"status": status, "message": message}},
            }
        },
    }
    for status, (description, message) in _TOLD.items()
}
PROBE_ERRORS = (403, 500, 503)
"""Statuses of refusals of `/health` and `/ready`."""
READ_ERRORS = (401, *PROBE_ERRORS)
"""Those of `/metrics` and `/model`."""
MARK_ERRORS = (400, *READ_ERRORS, 404, 408, 413, 415, 422, 429, 501, 504, 507)
PREDICT_ERRORS = (400, *READ_ERRORS, 404, 406, 408, 413, 415, 422, 429, 501, 504)


def responses(
    errors: Iterable[int], status: int = 200, description: str = "", **content: Any
) -> dict[int | str, dict[str, Any]]:
    """Return the answers of a path as OpenAPI tells them.

    Args:
        errors: Statuses of its refusals.
        status: Its status where it succeeds.
        description: What it answers then.
        content: `example` of the JSON that it answers then; without it the caller tells the form.
    """
    found: dict[int | str, dict[str, Any]] = {one: _ERRORS[one] for one in errors}
    if content:
        schema = {"schema": {"type": "object"}, **content}
        found[status] = {"description": description, "content": {JSON: schema}}
    return found


_RESULT = {
    "name": "cat.jpg",
    "width": 500,
    "height": 375,
    "confidence": 0.93,
    "classes": [
        {"id": 0, "name": "background", "color": "#000000", "pixels": 140625, "share": 0.75},
        {"id": 8, "name": "cat", "color": "#400000", "pixels": 46875, "share": 0.25},
    ],
}
_MODEL = {"name": "segops", "version": "3", "digest": "5f2c..."}
_ANSWER = {
    "model": _MODEL,
    "results": [
        _RESULT,
        {"name": "notes.txt", "error": {"status": 415, "message": "notes.txt: not an image."}},
    ],
}
_POLYGON = {"id": 8, "name": "cat", "points": [[40, 60], [40, 300], [290, 180]], "holes": []}
_PNG_TEXT = "iVBORw0KGgo..."
_ALL = {
    "model": _MODEL,
    "results": [
        {
            **_RESULT,
            "mask": _PNG_TEXT,
            "polygons": [_POLYGON],
            "confidence_map": _PNG_TEXT,
            "activation": _PNG_TEXT,
        }
    ],
}
HEALTH, READY = {"status": "ok"}, {"status": "ready"}
_SERVED = {
    "key": "main",
    **_MODEL,
    "card": "# segops version 3 ...",
    "lineage": {"segops.code_commit": "8d1e..."},
    "lineage_doubt": "the ledger holds no decision on it, and so no statement",
    "classes": [
        {"id": 0, "name": "background", "color": "#000000"},
        {"id": 8, "name": "cat", "color": "#400000"},
    ],
    "background": "background",
    "channels": 3,
    "runtime": "torch",
    "settings": {"max_pixels": 100000000},
}
MODEL = {**_SERVED, "models": [_SERVED], "marks": False}
_LABEL = {"schema": {"type": "string"}, "example": "segops/3"}
_HEADERS = {
    "segops-model": {"description": "Name and version of the model.", **_LABEL},
    "segops-confidence": {
        "description": "Mean probability of the top class, of one image that does not come as JSON "
        "or as a ZIP archive.",
        "schema": {"type": "number"},
        "example": 0.93,
    },
}
PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {
                "schema": _BYTES,
                "examples": {
                    "one": {
                        "summary": "The bytes of an image file",
                        "description": "`curl --data-binary @cat.jpg localhost:8080/predict`",
                        "value": "(the bytes of cat.jpg)",
                    }
                },
            },
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _BYTES}},
                    "required": ["image"],
                },
                "examples": {
                    "several": {
                        "summary": "Several files in the field `image`",
                        "description": "`curl -F image=@cat.jpg -F image=@notes.txt "
                        "localhost:8080/predict`",
                        "value": {"image": ["(the bytes of cat.jpg)", "(those of notes.txt)"]},
                    }
                },
            },
        },
    },
    "responses": {
        "200": {
            "description": "The form that `Accept` names. `image/png` is the default for one "
            "image: a palette PNG of class ids of the image's size. `application/x-npy` holds "
            "float16 (classes, height, width). Several images come as JSON or as a ZIP archive.",
            "headers": _HEADERS,
            "content": {
                "image/png": {"schema": _BYTES, "example": "(the bytes of the mask)"},
                "image/jpeg": {"schema": _BYTES, "example": "(the mask over its image)"},
                "application/x-npy": {"schema": _BYTES, "example": "(the probabilities)"},
                "application/zip": {
                    "schema": _BYTES,
                    "example": "(0001-cat.png and results.json)",
                },
                JSON: {
                    "schema": {"type": "object"},
                    "examples": {
                        "several": {"summary": "Several images", "value": _ANSWER},
                        "all": {
                            "summary": "?mask=true&polygons=true&confidence_map=true&explain=cat",
                            "value": _ALL,
                        },
                    },
                },
            },
        }
    },
}
MARKS: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": _BYTES, "mark": {"type": "string"}},
                    "required": ["image", "mark"],
                },
                "example": {
                    "mark": '{"note": "a dog", "class": "dog", "polygon": [[1,1],[9,1],[9,9]]}'
                },
            }
        },
    }
}

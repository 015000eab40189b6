"""What OpenAPI tells of requests and answers, with examples."""

from __future__ import annotations

from typing import Any

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
    501: ("This runtime cannot do that.", "Only the torch runtime explains a class."),
    503: ("There is no model yet, or the worker ended.", "The model is being loaded."),
    504: ("The prediction was too slow.", "The prediction was not ready in time (--deadline)."),
    507: ("The mark has no room.", "This photograph has 200 marks already."),
}
ERRORS: dict[int | str, dict[str, Any]] = {
    status: {
        "description": description,
        "content": {
            "application/json": {
                "schema": _ERROR,
                "example": {"error": {"status": status, "message": message}},
            }
        },
    }
    for status, (description, message) in _TOLD.items()
}
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
_ANSWER = {
    "model": {"name": "segops", "version": "3", "digest": "5f2c..."},
    "results": [
        _RESULT,
        {"name": "notes.txt", "error": {"status": 415, "message": "notes.txt: not an image."}},
    ],
}
PREDICT: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {
            "image/*": {"schema": _BYTES},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"image": {"type": "array", "items": _BYTES}},
                    "required": ["image"],
                }
            },
        },
    },
    "responses": {
        "200": {
            "description": "The form that `Accept` names. `image/png` is the default for one "
            "image: a palette PNG of class ids of the image's size. `application/x-npy` holds "
            "float16 (classes, height, width). Several images come as JSON or as a ZIP archive.",
            "content": {
                "image/png": {"schema": _BYTES},
                "image/jpeg": {"schema": _BYTES},
                "application/x-npy": {"schema": _BYTES},
                "application/zip": {"schema": _BYTES},
                "application/json": {"schema": {"type": "object"}, "example": _ANSWER},
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

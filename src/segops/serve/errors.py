"""The error that ends a request, and its form in answers."""

from __future__ import annotations

from typing import Any


class RequestError(Exception):
    """A request, or one image of it, that gets no prediction.

    Attributes:
        status: The HTTP status.
        message: One sentence for the client.
        headers: Headers of the answer.
    """

    def __init__(self, status: int, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.headers = headers or {}

    def body(self) -> dict[str, Any]:
        """Return what the client reads: status and message."""
        return {"status": self.status, "message": self.message}


def no_class(asked: str) -> RequestError:
    """The error of a request that asks for a class that the model lacks."""
    return RequestError(404, f"{asked}: the model has no such class; GET /model lists its classes.")

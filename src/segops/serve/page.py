"""The page at ``/``: files of this package, sent under a strict Content-Security-Policy."""

from __future__ import annotations

from importlib import resources

from fastapi import APIRouter
from starlette.responses import Response

from segops.serve.errors import RequestError

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",  # a newer server brings a newer page
}
TYPES = {".css": "text/css", ".html": "text/html", ".js": "text/javascript"}
STYLE = "style.css"
SHARED_STYLES = ("style.css", "controls.css")
"""Of the reports: the page has their look."""


def router() -> APIRouter:
    """Return the routes of the page; its files are read once."""
    own = resources.files("segops.serve") / "page"
    files = {one.name: one.read_bytes() for one in own.iterdir()}
    reports = resources.files("segops.report") / "templates"
    shared = b"".join((reports / name).read_bytes() for name in SHARED_STYLES)
    files[STYLE] = shared + files[STYLE]
    routes = APIRouter(include_in_schema=False)

    @routes.get("/")
    async def _index() -> Response:
        return _reply(files, "index.html")

    @routes.get("/page/{name}")
    async def _file(name: str) -> Response:
        return _reply(files, name)

    return routes


def _reply(files: dict[str, bytes], name: str) -> Response:
    kind = TYPES.get(name[name.rfind(".") :])
    if kind is None or name not in files:
        raise RequestError(404, f"/page/{name}: the page has no such file.")
    return Response(files[name], media_type=f"{kind}; charset=utf-8", headers=HEADERS)

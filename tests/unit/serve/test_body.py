"""Multipart bodies, names and forms."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from segops.serve import body
from segops.serve.errors import RequestError
from segops.serve.predicting import accepted, chosen


def request(
    content: bytes, headers: dict[str, str], pause: float = 0.0, step: int = 1000
) -> Request:
    """A request whose body comes in chunks of `step` bytes."""
    chunks = [content[at : at + step] for at in range(0, len(content), step)] or [b""]

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(pause)
        return {"type": "http.request", "body": chunks.pop(0), "more_body": bool(chunks)}

    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw}, receive)


def read(content: bytes, headers: dict[str, str], most: int = 1 << 20) -> list[body.Upload]:
    with body.Budget(1 << 22).share() as share:
        return asyncio.run(body.uploads(request(content, headers), most, share))


def encoded(files: Any, data: Any = None) -> tuple[bytes, dict[str, str]]:
    made = httpx.Request("POST", "http://x/", files=files, data=data)
    return made.read(), {"content-type": made.headers["content-type"]}


def test_parts_come_with_their_bytes() -> None:
    binary = bytes(range(256)) * 20 + b"\r\n--\r\n"
    files = [("image", ("a.png", binary)), ("image", ("C:\\b\\c.png", b"\r\n"))]
    parts = read(*encoded(files, {"mark": "{}"}))
    found = [(one.field, one.name, one.content, one.is_file) for one in parts]
    assert sorted(found) == [
        ("image", "a.png", binary, True),
        ("image", "c.png", b"\r\n", True),
        ("mark", "mark", b"{}", False),
    ]


def test_another_body_is_an_image() -> None:
    (one,) = read(b"bytes", {"content-type": "image/png"})
    assert (one.field, one.content, one.is_file) == ("image", b"bytes", True)


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b"", "image/png", 400),
        (b"text", "multipart/form-data", 400),
        (b"text", f"multipart/form-data; boundary={'x' * 71}", 400),
        (b"no boundary in here", "multipart/form-data; boundary=x", 400),
        (b"--x\r\n\r\n\r\nno name\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
        (
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nno end',
            "multipart/form-data; boundary=x",
            400,
        ),
        (b"--x\r\n\xff: \xff\r\n\r\n\r\n--x--\r\n", "multipart/form-data; boundary=x", 400),
    ],
)
def test_malformed_bodies(content: bytes, kind: str, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        read(content, {"content-type": kind})
    assert caught.value.status == status


def test_too_many_parts() -> None:
    files = [("image", ("a.png", b"x"))] * (body.MOST_PARTS + 1)
    with pytest.raises(RequestError, match="parts") as caught:
        read(*encoded(files))
    assert caught.value.status == 413


@pytest.mark.parametrize("headers", [{}, {"content-length": "5001"}])
def test_large_bodies_are_refused_by_their_length_or_on_the_way(headers: dict[str, str]) -> None:
    with pytest.raises(RequestError) as caught:
        read(bytes(5001), headers, most=5000)
    assert caught.value.status == 413
    assert len(read(bytes(5000), {}, most=5000)[0].content) == 5000


def test_a_slow_upload_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(body, "GRACE_SECONDS", 0.05)
    share = body.Share(body.Budget(1 << 20))
    slow = request(bytes(10_000), {}, pause=0.03)
    with pytest.raises(RequestError) as caught:
        asyncio.run(body.read(slow, 1 << 20, share))
    assert caught.value.status == 408
    monkeypatch.setattr(body, "SLOWEST", 1000)
    steady = request(bytes(10_000), {}, pause=0.03)
    assert len(asyncio.run(body.read(steady, 1 << 20, share))) == 10_000


def test_all_bodies_together_are_bounded() -> None:
    budget = body.Budget(8000)
    with budget.share() as first:
        asyncio.run(body.read(request(bytes(5000), {}), 1 << 20, first))
        with pytest.raises(RequestError) as caught, budget.share() as second:
            asyncio.run(body.read(request(bytes(5000), {}), 1 << 20, second))
        assert caught.value.status == 429
        assert budget.held == 5000
    assert budget.held == 0


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", "image/png"),
        ("*/*", "image/png"),
        ("application/json", "application/json"),
        ("image/*;q=0.5, application/json;q=0.4", "image/png"),
        ("text/html, application/json;q=0.9, */*;q=0.1", "application/json"),
        ("image/jpeg;q=0, */*", "image/png"),
        ("image/png;q=0, */*", "application/json"),
        ("application/json, text/plain, */*", "application/json"),
        ("image/jpeg, image/png", "image/jpeg"),
        ("*/*;q=0", 406),
        ("image/png;q=nan", 400),
        ("text/html", 406),
        ("image/png;q=much", 400),
    ],
)
def test_the_form_that_a_client_accepts(accept: str, form: str | int) -> None:
    asked = request(b"", {"accept": accept})
    forms = ("image/png", "application/json", "image/jpeg")
    if isinstance(form, str):
        assert chosen(accepted(asked), forms) == form
    else:
        with pytest.raises(RequestError) as caught:
            chosen(accepted(asked), forms)
        assert caught.value.status == form


HEAD = b'--x\r\nContent-Disposition: form-data; name="image"; filename="'


@pytest.mark.parametrize(
    "content",
    [
        HEAD + b'\\"' * (1 << 22) + b'"\r\n\r\nx\r\n--x--\r\n',
        b"--x\r\n" + b"a: b\r\n" * (1 << 20) + b"\r\nx\r\n--x--\r\n",
        b"\n" * (8 << 20),
        b"--x\r\n" + b"a: bbbbbbbb\r\n" * 4000 + HEAD[5:] + b'a"\r\n\r\nx\r\n--x--\r\n',
    ],
)
def test_what_is_no_content_of_a_part_is_bounded(content: bytes) -> None:
    began = time.process_time()
    with body.Budget(1 << 24).share() as share, pytest.raises(RequestError) as caught:
        one = request(content, {"content-type": "multipart/form-data; boundary=x"}, step=1 << 16)
        asyncio.run(body.uploads(one, 1 << 24, share))
    assert caught.value.status == 400
    assert time.process_time() - began < 2


def test_others_have_their_turn_while_a_body_is_split() -> None:
    content = HEAD + b'a"\r\n\r\n' + b"\r" * (8 << 20) + b"\r\n--x--\r\n"
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> list[body.Upload]:
        counting = asyncio.create_task(count())
        try:
            return await body._parts(content, "x")
        finally:
            counting.cancel()

    (part,) = asyncio.run(both())
    assert len(part.content) == 8 << 20
    assert turns > 100

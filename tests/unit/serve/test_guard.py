"""Hosts, origins and keys."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import Headers
from starlette.testclient import TestClient
from typer.testing import CliRunner

from segops.cli import app
from segops.runtime.errors import SegopsError
from segops.serve import server, settings
from segops.serve.guard import Keys, refusal
from segops.serve.metrics import Metrics
from segops.serve.pool import Pool

ENVIRON = Path("/proc/self/environ")
HOSTS = ["127.0.0.1:8080", "localhost:8080"]
KEY = "0123456789abcdef"


def scope(headers: dict[str, str], method: str = "POST") -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    return {"type": "http", "method": method, "headers": raw, "path": "/"}


@pytest.mark.parametrize(
    ("headers", "is_allowed"),
    [
        ({"Host": "localhost:8080"}, True),
        ({"Host": "LOCALHOST:8080"}, True),
        ({"Host": "localhost:9"}, False),
        ({}, False),
        ({"Host": "localhost:8080", "Origin": "http://localhost:8080"}, True),
        ({"Host": "localhost:8080", "Origin": "http://evil.example"}, False),
        ({"Host": "localhost:8080", "Origin": "null"}, False),
        ({"Host": "localhost:8080", "Origin": "https://app.example"}, True),
        ({"Host": "localhost:8080", "Sec-Fetch-Site": "cross-site"}, False),
        ({"Host": "localhost:8080", "Sec-Fetch-Site": "same-origin"}, True),
    ],
)
def test_hosts_and_origins(headers: dict[str, str], is_allowed: bool) -> None:
    why = refusal(scope(headers), HOSTS, ["https://app.example"])
    assert (why is None) is is_allowed


def test_a_link_may_be_followed() -> None:
    link = {
        "Host": "localhost:8080",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Dest": "document",
    }
    assert refusal(scope(link, "GET"), HOSTS) is None
    assert refusal(scope(link, "POST"), HOSTS) is not None


def test_keys() -> None:
    keys = Keys([KEY, "another key"])
    assert keys.knows(Headers({"X-API-Key": KEY}))
    assert keys.knows(Headers({"Authorization": f"bearer {KEY}"}))
    assert not keys.knows(Headers({"Authorization": f"Basic {KEY}"}))
    assert not keys.knows(Headers({"X-API-Key": KEY[:-1]}))
    assert not keys.knows(Headers({}))
    assert KEY not in repr(vars(keys))


def test_where_keys_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "keys"
    file.write_text(f"# of the camera\n  # and another comment\n\n{KEY}\n")
    monkeypatch.setenv(settings.KEYS, f"{KEY}1, {KEY}2")
    assert settings.read_keys(file) == (f"{KEY}1", f"{KEY}2", KEY)
    assert settings.read_keys(None) == ()  # the environment of workers holds none
    assert KEY not in repr(settings.Settings(model="x", keys=(KEY,)))


@pytest.mark.skipif(not ENVIRON.exists(), reason="the system has no /proc")
def test_other_programs_do_not_see_the_keys() -> None:
    code = (
        "from pathlib import Path; from segops.serve.settings import read_keys; "
        f"print(read_keys(None), Path('{ENVIRON}').read_bytes())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, settings.KEYS: f"{KEY}1 {KEY}2"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    keys, seen = done.stdout.split(") b")
    assert keys == f"('{KEY}1', '{KEY}2'"
    assert settings.KEYS in seen
    assert KEY not in seen


@pytest.mark.parametrize(
    "content", ["", "# nothing\n", " # indented and long\n", KEY + "ä", "short\n", f"{KEY} {KEY}\n"]
)
def test_unusable_keys(tmp_path: Path, content: str) -> None:
    file = tmp_path / "keys"
    file.write_text(content)
    with pytest.raises(SegopsError, match="key"):
        settings.read_keys(file)
    with pytest.raises(SegopsError, match="not readable"):
        settings.read_keys(tmp_path / "missing")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "example.org"])
def test_other_machines_need_a_key(host: str) -> None:
    with pytest.raises(SegopsError, match="--key-file"):
        settings.Settings(model="x", host=host)
    settings.Settings(model="x", host=host, keys=(KEY,))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.2", "::1", "localhost"])
def test_this_machine_needs_none(host: str) -> None:
    assert settings.Settings(model="x", host=host).keys == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("https://App.example", "https://app.example"),
        ("https://app.example:443", "https://app.example"),
        ("http://[::1]:3000", "http://[::1]:3000"),
    ],
)
def test_origins_are_those_of_browsers(text: str, found: str) -> None:
    assert settings.origin(text) == found


@pytest.mark.parametrize(
    "text", ["", "*", "null", "app.example", "https://app.example/", "ftp://a", "https://a b"]
)
def test_what_no_browser_sends_is_no_origin(text: str) -> None:
    with pytest.raises(SegopsError, match="--cors"):
        settings.origin(text)


def test_a_page_that_may_ask_can_read_why_it_is_refused() -> None:
    page = "https://app.example"
    chosen = settings.Settings(model="x", keys=(KEY,), cors=(page,))
    pool = Pool("onnx", ("cpu",), chosen.limits, None)
    client = TestClient(server.app(chosen, pool, Metrics(pool), 8080))
    for method, status in (("POST", 401), ("OPTIONS", 200)):
        headers = {"Origin": page, "Access-Control-Request-Method": "POST"}
        answer = client.request(method, "/predict", headers=headers)
        assert answer.status_code == status
        assert answer.headers["access-control-allow-origin"] == page
    assert client.options("/predict").status_code == 401


@pytest.mark.parametrize("value", ["inf", "nan", "1e9"])
@pytest.mark.parametrize("option", ["--deadline", "--max-body", "--max-pixels"])
def test_numbers_without_sense_are_refused(option: str, value: str) -> None:
    done = CliRunner().invoke(app, ["serve", "--model", "nowhere", option, value])
    assert done.exit_code == 2
    assert option in done.output

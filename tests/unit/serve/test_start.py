"""The start of the server."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from segops.serve import server
from segops.serve.settings import Settings
from tests.support.prediction_server import write_model


@pytest.mark.parametrize("number", server.STOPS)
def test_a_signal_while_it_starts_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    write_model(tmp_path / "model", seed=1)
    make = server.app

    def app(*arguments: Any) -> Any:
        os.kill(os.getpid(), number)
        return make(*arguments)

    monkeypatch.setattr(server, "app", app)
    handlers = {one: signal.getsignal(one) for one in server.STOPS}
    lines: list[str] = []
    try:
        server.serve(Settings(str(tmp_path / "model"), port=0), lines.append)
    finally:
        for one, handler in handlers.items():
            signal.signal(one, handler)
    assert lines == []

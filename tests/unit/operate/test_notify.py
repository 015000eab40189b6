"""People are told through real channels on the loopback device; secrets are shown nowhere."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import apprise
import pytest
import yaml
from typer.testing import CliRunner

from segops.cli import app
from segops.monitor.drift import FEATURES, LOOK, Change, Drift, Test
from segops.operate import notify, silence
from segops.operate.drift import Monitored
from segops.operate.messages import LONGEST, Message, decided, drifted, version_page
from segops.release.check import Check, at_least
from segops.release.gate import Decision
from segops.release.smoke import Smoke
from segops.runtime.errors import SegopsError
from tests.support.channels import Webhook, hanging, mailbox, webhook

NAMES = "train: class <b>a|b</b> `*c*` \\n é of {d}"
MESSAGE = Message("failed", "Run quick-fox failed", (NAMES, "", "Run: http://127.0.0.1/x"))
EVALUATION = {
    "miou": 0.7, "miou_low": 0.6, "miou_high": 0.8, "confidence": 0.95, "images": 40, "split": "val"
}  # fmt: skip


@pytest.fixture
def hook() -> Iterator[Webhook]:
    with webhook() as running:
        yield running


@pytest.fixture(autouse=True)
def no_channels(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(notify.ADDRESSES, raising=False)
    monkeypatch.delenv(notify.FILE, raising=False)


def workspace(root: Path, **settings: Any) -> Path:
    (root / "params.yaml").write_text(yaml.safe_dump({"notify": settings}))
    return root


def test_a_webhook_and_a_mail_hold_subject_cause_and_links(hook: Webhook) -> None:
    with mailbox() as (address, mails):
        told = notify.send([notify.Channel(1, hook.address), notify.Channel(2, address)], MESSAGE)
    assert told == [notify.Told("channel 1 (json)", None), notify.Told("channel 2 (mailto)", None)]
    (got,) = hook.got
    assert (got["title"], got["type"]) == ("Run quick-fox failed", "failure")
    assert got["message"] == f"{NAMES}\nRun: http://127.0.0.1/x"
    (mail,) = mails
    assert mail["Subject"] == "Run quick-fox failed"
    assert mail["To"] == "team@example.org"
    html = mail.get_body(("html",))
    assert html is not None
    assert "&lt;b&gt;a|b&lt;/b&gt;" in html.get_content()


def test_a_channel_that_is_down_delays_no_other_and_its_secret_is_not_logged(
    hook: Webhook, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notify.send, "__defaults__", (1.0,))
    with hanging() as deaf, webhook() as refusing:
        refusing.status = 403
        addresses = [deaf, "json://me:hiddenPASSWORD@127.0.0.1:9/closedSECRET", refusing.address]
        monkeypatch.setenv(notify.ADDRESSES, " ".join([*addresses, "nosuch://tokenSECRET"]))
        monkeypatch.setenv(notify.FILE, str(tmp_path / "more"))
        (tmp_path / "more").write_text(f"# the team\n{hook.address}\n\n")
        with caplog.at_level(logging.DEBUG):
            notify.tell(workspace(tmp_path), MESSAGE, by_hand=False)
    assert len(hook.got) == 1
    said = {record.getMessage() for record in caplog.records if record.name == "segops"}
    assert said >= {
        "Channel 1 (json) was not told: no answer within 1 s.",
        "Channel 3 (json) was not told: Failed to send JSON POST notification: error=403.",
        "Channel 5 (json) was told: Run quick-fox failed.",
    }
    assert any(one.startswith("Channel 2 (json) was not told: ") for one in said)
    assert any(one.startswith("Channel 4 (nosuch) was not told: its address") for one in said)
    errors = [one for one in caplog.records if one.name == "segops" and one.levelname == "ERROR"]
    assert len(errors) == 4
    everything = " ".join(said) + repr(notify.channels())
    for secret in ("SECRET", "PASSWORD", "T0KEN", "127.0.0.1"):
        assert secret not in everything


def test_no_part_of_an_address_is_in_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    address = "mailto://me:a%2Fb@mail.example.org?to=team@example.org"
    cleaned = notify.without_secrets("pw=a/b or a%2Fb at mail.example.org: status 500", address)
    assert cleaned == "pw=*** or *** at ***: status 500"

    def fail(*_: object, **__: object) -> bool:
        raise RuntimeError("pw1")

    monkeypatch.setattr(apprise.Apprise, "notify", fail)
    (told,) = notify.send([notify.Channel(1, "json://me:x@127.0.0.1/pw1")], MESSAGE)
    assert told.problem == "it failed (RuntimeError)."


@pytest.mark.parametrize(
    ("settings", "by_hand", "is_told"),
    [
        ({}, False, True),
        ({}, True, False),
        ({"by_hand": True}, True, True),
        ({"events": ["promoted"]}, False, False),
    ],
)
def test_the_parameters_say_what_is_told(
    hook: Webhook,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    settings: dict[str, Any],
    by_hand: bool,
    is_told: bool,
) -> None:
    monkeypatch.setenv(notify.ADDRESSES, hook.address)
    notify.tell(workspace(tmp_path, **settings), MESSAGE, by_hand=by_hand)
    assert bool(hook.got) is is_told
    monkeypatch.setenv(notify.UNATTENDED, "1")  # as in a run of `segops watch`
    hook.got.clear()
    notify.tell(tmp_path, MESSAGE, by_hand=by_hand)
    assert bool(hook.got) is ("events" not in settings)


def test_nothing_that_is_wrong_here_ends_a_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    notify.tell(tmp_path, MESSAGE, by_hand=False)  # no params.yaml
    notify.tell(workspace(tmp_path, events=["launched"]), MESSAGE, by_hand=False)
    monkeypatch.setenv(notify.FILE, str(tmp_path / "missing"))
    notify.tell(workspace(tmp_path), MESSAGE, by_hand=False)
    said = [one.getMessage() for one in caplog.records]
    assert [one.startswith("Nobody was told: ") for one in said] == [True, True, True]
    assert "notify.events" in said[1]
    assert f"SEGOPS_NOTIFY_FILE={tmp_path}/missing: No such file" in said[2]


def decision(verdict: Any, *checks: Check) -> Decision:
    return Decision(
        verdict=verdict, checks=checks, model="tiles", version="3", champion_version="2"
    )


COMPARED = Check(
    name="champion", passed=True, observed=0.1, required=-0.02,
    sentence="mIoU 0.700 against 0.600 of champion version 2.",
)  # fmt: skip


def test_a_rejection_tells_cause_numbers_and_the_champions_number() -> None:
    low = at_least("mIoU", "mIoU", 0.7, 0.75)
    told = decided(decision("rejected", low, COMPARED), evaluation=EVALUATION, links=["Run: x"])
    assert told is not None
    assert (told.event, told.kind) == ("rejected", "look")
    assert told.subject == "tiles version 3 is rejected"
    assert told.body.splitlines() == [
        "mIoU 0.700 on 40 images of val (95 % interval 0.600 to 0.800).",
        "mIoU is 0.700, below 0.750.",
        "mIoU 0.700 against 0.600 of champion version 2.",
        "Run: x",
    ]
    assert told.resource == "segops.model-version.tiles.3"
    assert told.figures == {"miou": 0.7, "miou_low": 0.6, "miou_high": 0.8, "champion": "2"}


def test_each_end_has_its_event() -> None:
    passed, taken_back = Smoke("3", True, "It predicts."), Smoke("3", False, "It does not load.")
    promoted = decided(decision("promoted", COMPARED), smoke=passed)
    assert promoted is not None
    assert (promoted.event, promoted.kind) == ("promoted", "good")
    candidate = decided(decision("candidate", COMPARED))
    assert candidate is not None
    assert "segops approve 3 --reason WHY" in candidate.body
    withdrawn = decided(decision("promoted", COMPARED), smoke=taken_back)
    assert withdrawn is not None
    assert withdrawn.event == "withdrawn"
    assert "It does not load." in withdrawn.body
    assert decided(decision("unchanged", COMPARED)) is None


def delivered(
    message: Message | None, root: Path, hook: Webhook, monkeypatch: pytest.MonkeyPatch
) -> dict[str, Any]:
    """What the webhook gets of a message that a run of a schedule tells."""
    assert message is not None
    monkeypatch.setenv(notify.ADDRESSES, hook.address)
    notify.tell(workspace(root), message, by_hand=False)
    (got,) = hook.got
    return got


def test_an_inconclusive_comparison_is_delivered(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few = Check(
        name="champion", passed=False, undecided=True, observed=0.01, required=-0.02,
        sentence="mIoU 0.700 against 0.690 of champion version 2: -0.05 to 0.07, too few images.",
    )  # fmt: skip
    links = ["Run: http://127.0.0.1/run", "Version: http://127.0.0.1/version"]
    told = decided(decision("inconclusive", few), evaluation=EVALUATION, links=links)
    got = delivered(told, tmp_path, hook, monkeypatch)
    assert got["title"] == (
        "tiles version 3 is neither promoted nor rejected: the comparison cannot decide"
    )
    assert got["type"] == "warning"
    assert got["message"].splitlines() == [
        "mIoU 0.700 on 40 images of val (95 % interval 0.600 to 0.800).",
        few.sentence,
        *links,
    ]


def test_a_drift_is_delivered(
    hook: Webhook, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = Change("brightness", 0.001, (0.3, 0.5, 0.7), (0.0, 0.1, 0.2))
    unsure = Change("sharpness", 0.5, (0.3, 0.5, 0.7), (0.3, 0.6, 0.7))
    tests = (
        Test(LOOK, 0.001, 0.004, True, 500, 40, (change, unsure)),
        Test(FEATURES, 0.9, 0.9, False, 500, 40),
    )
    page = tmp_path / "reports/drift.html"
    found = Monitored(
        Drift(0.05, 40, tests, {}, ()), "models:/tiles@champion", "tiles", "b" * 64, "d" * 64,
        tmp_path / "log", ("3 images are no photographs.",), page,
    )  # fmt: skip
    got = delivered(drifted(found, ["Run: http://127.0.0.1/run"]), tmp_path, hook, monkeypatch)
    assert got["title"] == "tiles: Drift found in 40 images: colour and sharpness"
    assert got["type"] == "warning"
    assert got["message"].splitlines() == [
        "colour and sharpness: p 0.0040, brightness 0.100 instead of 0.500",
        "3 images are no photographs.",
        f"Page: {page}",
        "Run: http://127.0.0.1/run",
    ]


@pytest.mark.parametrize(
    ("sentences", "subject"),
    [
        (["Schedule a: x. Page: http://p", "y"], "2 schedules without an ended run for 24 hours"),
        ([silence.NONE], "the Prefect server has no schedule"),
    ],
)
def test_silence_is_delivered(
    sentences: list[str],
    subject: str,
    hook: Webhook,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    got = delivered(silence.message(sentences, 24), tmp_path, hook, monkeypatch)
    assert (got["title"], got["type"]) == (f"segops: {subject}", "warning")
    assert got["message"].splitlines() == sentences


def test_a_long_cause_is_cut() -> None:
    body = Message("failed", "x", ("y" * 10_000,)).body
    assert len(body) == LONGEST
    assert body.endswith(" ...")


def test_a_version_has_a_page_where_mlflow_has_a_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "https://me:hidden@mlflow.example.org/")
    page = "https://mlflow.example.org/#/models/tiles/versions/3"
    assert version_page(tmp_path, "tiles", "3") == [f"Version: {page}"]
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    assert version_page(tmp_path, "tiles", "3") == []


def test_a_person_can_try_the_channels(hook: Webhook, monkeypatch: pytest.MonkeyPatch) -> None:
    none = CliRunner().invoke(app, ["notify", "test"])
    assert isinstance(none.exception, SegopsError)
    assert "SEGOPS_NOTIFY" in str(none.exception)
    monkeypatch.setenv(notify.ADDRESSES, hook.address)
    tried = CliRunner().invoke(app, ["notify", "test"])
    assert (tried.exit_code, tried.output) == (0, "channel 1 (json): has the message.\n")
    hook.status = 500
    refused = CliRunner().invoke(app, ["notify", "test"])
    assert refused.exit_code == 1
    assert "channel 1 (json): Failed to send JSON POST notification: " in refused.output

"""The outcomes of the gate's checks, as the command line and the flow's page show them."""

from __future__ import annotations

from html import unescape
from io import StringIO
from typing import get_args

import pytest
from markdown_it import MarkdownIt

from flows.retrain import Summary, class_page, verdict_page
from segops.cli import summary
from segops.cli.common import Terminal
from segops.release.check import Check, Outcome
from segops.release.gate import Decision, Verdict
from tests.support.evaluations import evaluation_of

CHECKS = (
    Check(name="mIoU", passed=True, observed=0.6, required=0.5, sentence="It is [enough]."),
    Check(name="IoU of a|b", passed=False, observed=None, required="complete", sentence="A <gap>."),
    Check(
        name="champion",
        passed=False,
        observed=-0.05,
        required=-0.02,
        sentence="Too few images.",
        undecided=True,
    ),
)


def test_every_outcome_is_printed_as_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    printed = StringIO()
    console = Terminal(file=printed, force_terminal=True, color_system="standard")
    monkeypatch.setattr(summary, "console", console)
    summary.show_decision(Decision(verdict="inconclusive", checks=CHECKS), 3)
    assert printed.getvalue().splitlines() == [
        "Gate on version 3: \x1b[1;33minconclusive\x1b[0m",
        "  \x1b[32mpassed   \x1b[0m  It is [enough].",
        "  \x1b[31mfailed   \x1b[0m  A <gap>.",
        "  \x1b[33mundecided\x1b[0m  Too few images.",
    ]


def test_every_verdict_and_outcome_has_a_colour() -> None:
    assert set(summary.VERDICTS) == set(get_args(Verdict))
    assert set(summary.OUTCOMES) == set(get_args(Outcome))


def test_the_flows_page_tells_the_three_outcomes_apart() -> None:
    decision = Decision(verdict="rejected", checks=CHECKS)
    page = verdict_page(Summary({}, "segops", "3", True, decision, evaluation_of(), "sqlite://"))
    assert page.splitlines()[-3:] == [
        "| mIoU | passed | It is \\[enough\\]. |",
        "| IoU of a\\|b | **failed** | A &lt;gap&gt;. |",
        "| champion | **undecided** | Too few images. |",
    ]
    assert "**mIoU 0.612 on 7 images of val (95 % interval 0.581 to 0.650)**" in page


def test_names_of_users_are_no_markup_of_the_flows_page() -> None:
    name = "a|b `c` <b>d</b> [e](http://x) *f*"
    evaluation = evaluation_of()
    evaluation["classes"] = {name: next(iter(evaluation["classes"].values()))}
    decision = Decision(verdict="rejected", checks=CHECKS)
    page = Summary({}, name, "3", True, decision, evaluation, "sqlite://")
    reader = MarkdownIt("commonmark", {"html": True}).enable("table")
    rows = reader.render(class_page(page)).split("<tr>")
    assert unescape(rows[2]).strip().startswith(f"<td>{name}</td>")
    assert rows[2].count("<td>") == 4
    heading, *_ = reader.render(verdict_page(page)).splitlines()
    assert unescape(heading) == f"<h1>{name} version 3: rejected</h1>"

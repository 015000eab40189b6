"""A model that was made again, held against the registered one."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from segops.record.lineage import tag
from segops.release.chain import GENESIS, Entry
from segops.release.reproductions import Model, compare, differences, machines
from segops.release.versions import Version
from segops.runtime.errors import SegopsError

REGISTERED = Model("a" * 64, "b" * 64, "v" * 64, 0.75)


@pytest.mark.parametrize(
    ("made", "outcome"),
    [
        (REGISTERED, "same bits"),
        (replace(REGISTERED, miou=0.7500004), "same bits"),  # a tag holds six decimals
        (replace(REGISTERED, weights_sha256="c"), "within tolerance"),
        (replace(REGISTERED, bundle_digest="c"), "within tolerance"),
        (replace(REGISTERED, weights_sha256="c", miou=0.76), "within tolerance"),
        (replace(REGISTERED, weights_sha256="c", miou=0.74), "within tolerance"),
        (replace(REGISTERED, weights_sha256="c", miou=0.761), "differs"),
        (replace(REGISTERED, miou=0.7), "differs"),  # the same bits: the registered score is wrong
        (replace(REGISTERED, miou=None), "differs"),
        (replace(REGISTERED, miou=math.nan), "differs"),
        (replace(REGISTERED, val_hash="w"), "differs"),
    ],
)
def test_compare(made: Model, outcome: str) -> None:
    found, reason = compare(REGISTERED, made, 0.01)
    assert found == outcome, reason


@pytest.mark.parametrize("value", ["nan", "high", "-1", ""])
def test_a_score_that_is_none_gets_one_sentence(value: str) -> None:
    with pytest.raises(SegopsError, match=r"its tag segops\.miou is"):
        Model.of_version(Version("1", "r", {tag("miou"): value}))


def test_without_a_score_the_bits_decide() -> None:
    registered = replace(REGISTERED, miou=None)
    assert compare(registered, registered, 0.01)[0] == "same bits"
    other = replace(registered, weights_sha256="c")
    assert compare(registered, other, 0.01)[0] == "differs"
    assert compare(registered, replace(registered, miou=0.5), 0.01)[0] == "differs"


def test_what_differs_is_named() -> None:
    tags = {tag("device"): "cuda", tag("python"): "3.11.7", tag("cpu"): "One", tag("driver"): "570"}
    here = {"device": "cpu", "python": "3.11.7", "cpu": "Other", "threads": 1}
    told = differences(
        tags, {"threads": 4}, ["numpy==2.4.6", "torch==2.15.0"], here,
        ["numpy==2.4.6", "timm==1.0.31", "torch==2.14.0"],
    )  # fmt: skip
    assert told == [
        "device cuda, here cpu",
        "cpu One, here Other",
        "driver 570, here none",
        "threads 4, here 1",
        "timm none, here 1.0.31",
        "torch 2.15.0, here 2.14.0",
    ]
    # An earlier segops recorded neither processor nor, perhaps, libraries.
    assert differences({}, {}, (), here, ["numpy==2.4.6"]) == []


def test_the_last_attempt_of_each_machine_counts() -> None:
    def entry(number: int, version: str, machine: str, verdict: str) -> Entry:
        return Entry(
            sequence=number, previous=GENESIS, time="2026-01-01T00:00:00+00:00", kind="reproduced",
            registry="local", model="segops", version=version, run_id="r", verdict=verdict,
            reason="", by="test", details={"machine": machine},
        )  # fmt: skip

    entries = [
        entry(1, "1", "two", "failed"),
        entry(2, "1", "one", "same bits"),
        entry(3, "1", "two", "within tolerance"),
        entry(4, "1", "three", "same bits"),
        entry(5, "1", "three", "differs"),
        entry(6, "2", "one", "failed"),
    ]
    assert machines(entries) == {"1": ["one", "two"], "2": []}

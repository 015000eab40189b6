"""The gate's decision, from evidence alone. Mistakes are those that promoters in the field made."""

from __future__ import annotations

import ast
import inspect
import math
from dataclasses import fields, replace
from typing import Any

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from segops.params.gate import GateParams
from segops.release import check, gate, gate_checks, gate_limits
from segops.release.evidence import (
    Challenger,
    Comparison,
    Evidence,
    Identical,
    NoRelease,
    Score,
    Unknown,
    ValidationVerdict,
)
from segops.release.gate import decide
from segops.release.pairing import PairedCounts, compare

POLICY = GateParams(min_miou=0.5, min_class_iou={"bird": 0.3}, margin=0.02)
STRICT = POLICY.model_copy(
    update={
        "max_slowdown": 2.0,
        "allowed_weight_licences": ["apache-2.0"],
        "max_looks": 9,
        "too_many_looks": "refuse",
    }
)
RANK = {"rejected": 0, "inconclusive": 1, "promoted": 2}


def comparison(**changes: Any) -> Comparison:
    """A comparison that shows the challenger to be no worse."""
    base = Comparison(
        version="1",
        bundle_digest="old",
        val_hash="val",
        images=60,
        excluded=0,
        classes=("background", "bird"),
        challenger_miou=0.62,
        reference_miou=0.60,
        difference=0.02,
        low=0.005,
        high=0.035,
        minimum_detectable=0.015,
    )
    return replace(base, **changes)


def evidence(**changes: Any) -> Evidence:
    """Evidence on which the gate promotes."""
    base = Evidence(
        challenger=Challenger("segops", "2", "run", "new"),
        score=Score(
            0.62, {"background": 0.8, "bird": 0.44, "boat": None}, 60, 0, "new", "d", "val"
        ),
        validation=ValidationVerdict(True, "d"),
        lineage_missing=(),
        champion=comparison(),
        best=comparison(),
        champion_version="1",
    )
    return replace(base, **changes)


def failed(decision: gate.Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]


def score(**changes: Any) -> Evidence:
    base = evidence().score
    assert isinstance(base, Score)
    return evidence(score=replace(base, **changes))


def test_better_challenger_is_promoted() -> None:
    decision = decide(evidence(), POLICY)
    assert decision.verdict == "promoted"
    assert (decision.version, decision.champion_version) == ("2", "1")
    assert [check.name for check in decision.checks] == [
        "artifact",
        "validation",
        "lineage",
        "unseen images",
        "scored classes",
        "mIoU",
        "IoU of bird",
        "looks at val",
        "champion",
        "best release",
    ]


def test_first_release_is_an_answer_of_its_own() -> None:
    decision = decide(
        evidence(champion=NoRelease(), best=NoRelease(), champion_version=None), POLICY
    )
    assert decision.verdict == "promoted"
    assert "no best release yet" in decision.checks[-1].sentence
    assert decision.champion_version is None


def test_the_champion_itself_is_unchanged() -> None:
    decision = decide(evidence(champion=Identical("1")), POLICY)
    assert decision.verdict == "unchanged"


def test_challenger_that_is_itself_the_best_release_passes() -> None:
    assert decide(evidence(best=Identical("2")), POLICY).verdict == "promoted"


# The ten mistakes of promoters, as far as a decision alone can make them; the others stand in
# tests/integration/test_promotion.py.


def test_mistake_1_registry_outage_read_as_no_champion() -> None:
    outage = Unknown("MLflow at http://tracking:5000 does not answer")
    for changes in ({"champion": outage}, {"best": outage}, {"champion": outage, "best": outage}):
        decision = decide(evidence(**changes), POLICY)
        assert decision.verdict == "rejected"
        assert "does not answer" in decision.reason


def test_mistake_3_tolerance_that_ratchets_quality_down() -> None:
    """Each challenger loses a margin against the champion before it; only the first may."""
    best = 0.70
    champion, verdicts = best, []
    for _ in range(4):
        challenger = champion - POLICY.margin / 2
        against_champion = comparison(
            challenger_miou=challenger,
            reference_miou=champion,
            difference=challenger - champion,
            low=challenger - champion - 0.005,
            high=challenger - champion + 0.005,
        )
        against_best = replace(against_champion, reference_miou=best, difference=challenger - best)
        decision = decide(evidence(champion=against_champion, best=against_best), POLICY)
        verdicts.append(decision.verdict)
        champion = challenger
    assert verdicts == ["promoted", "promoted", "rejected", "rejected"]


def test_mistake_4_loser_wins() -> None:
    worse = comparison(
        challenger_miou=0.55, difference=-0.05, low=-0.07, high=-0.03, minimum_detectable=0.02
    )
    decision = decide(evidence(champion=worse, best=worse), POLICY)
    assert decision.verdict == "rejected"
    assert failed(decision) == ["champion", "best release"]


def test_mistake_5_evaluating_on_training_data() -> None:
    assert failed(decide(score(seen_images=1), POLICY)) == ["unseen images"]
    assert "unseen images" in failed(decide(score(images=0, miou=math.nan), POLICY))


def test_mistake_7_comparing_scores_of_different_data() -> None:
    for role in ("champion", "best"):
        decision = decide(evidence(**{role: comparison(val_hash="other")}), POLICY)
        assert decision.verdict == "rejected"
        assert "different data" in decision.reason
    assert decide(score(val_hash=""), POLICY).verdict == "rejected"


def test_mistake_8_promoting_the_latest_unconditionally() -> None:
    """A higher version number is no merit."""
    newest = Challenger("segops", "99", "run", "new")
    decision = decide(replace(score(miou=0.1), challenger=newest), POLICY)
    assert decision.verdict == "rejected"
    assert failed(decision) == ["mIoU"]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, None, -0.1, 1.1])
def test_mistake_9_missing_or_nan_passes_a_comparison(value: float | None) -> None:
    assert failed(decide(score(miou=value), POLICY)) == ["mIoU"]
    assert failed(
        decide(score(class_iou={"background": 0.8, "boat": 0.5, "bird": value}), POLICY)
    ) == ["IoU of bird"]


@pytest.mark.parametrize(
    "field",
    ["challenger_miou", "reference_miou", "difference", "low", "high", "minimum_detectable"],
)
@pytest.mark.parametrize("role", ["champion", "best"])
def test_mistake_9_nan_in_a_comparison(field: str, role: str) -> None:
    decision = decide(evidence(**{role: comparison(**{field: math.nan})}), POLICY)
    assert decision.verdict == "rejected"
    assert "not finite" in decision.reason


def judged(
    version: str, rows: list[tuple[str, int, int, int, int]], **changes: Any
) -> PairedCounts:
    """A model's counts from rows of (image, class id, intersection, predicted, truth)."""
    counts = pd.DataFrame(
        rows, columns=["image_id", "class_id", "intersection", "predicted", "truth"]
    )
    counts.insert(1, "image_sha256", "sha-" + counts["image_id"])
    base = PairedCounts(
        version, f"digest-{version}", ("background", "bird", "boat"), frozenset(), counts
    )
    return replace(base, **changes)


GOOD = [("a", 0, 90, 95, 100), ("a", 1, 40, 45, 50), ("b", 0, 80, 90, 100), ("b", 1, 30, 40, 50)]
STRAY = [*[(i, c, n, p - 5, t) for i, c, n, p, t in GOOD], ("a", 2, 0, 10, 0), ("b", 2, 0, 10, 0)]


def test_mistake_10_averaging_over_different_classes() -> None:
    """A stray prediction of a class that val does not hold adds no class to either mean."""
    found = compare(judged("2", GOOD), judged("1", STRAY), "val", POLICY)
    assert found.classes == ("background", "bird")
    swapped = compare(judged("1", STRAY), judged("2", GOOD), "val", POLICY)
    assert swapped.classes == found.classes
    assert swapped.difference == pytest.approx(-found.difference)
    assert (found.challenger_miou, found.reference_miou) == pytest.approx(
        (swapped.reference_miou, swapped.challenger_miou)
    )


def test_images_that_either_was_trained_on_do_not_count() -> None:
    more = [*GOOD, ("c", 0, 1, 100, 100), ("c", 1, 0, 10, 50), ("d", 2, 5, 9, 9)]
    ours = judged("2", more, trained_on=frozenset({"sha-c"}))
    theirs = judged("1", more, trained_on=frozenset({"sha-d"}))
    found = compare(ours, theirs, "val", POLICY)
    assert (found.images, found.excluded) == (2, 2)
    assert found.classes == ("background", "bird")
    assert found.challenger_miou == pytest.approx((170 / 215 + 70 / 115) / 2)


def test_models_of_other_classes_are_not_compared() -> None:
    from segops.runtime.errors import SegopsError

    with pytest.raises(SegopsError, match=r"registry\.model"):
        compare(
            judged("2", GOOD),
            judged("1", GOOD, class_names=("background", "cat", "dog")),
            "val",
            POLICY,
        )


def test_nothing_left_to_compare_on_rejects() -> None:
    every = frozenset({"sha-a", "sha-b"})
    found = compare(judged("2", GOOD), judged("1", GOOD, trained_on=every), "val", POLICY)
    decision = decide(evidence(champion=found), POLICY)
    assert decision.verdict == "rejected"
    assert "trained on" in decision.reason


# Inconclusive: the loss observed is within the margin, a larger one is not excluded.


def test_too_few_images_to_decide_is_inconclusive() -> None:
    weak = comparison(difference=0.0, low=-0.05, high=0.05, minimum_detectable=0.048)
    decision = decide(evidence(champion=weak, best=weak), POLICY)
    assert decision.verdict == "inconclusive"
    found = next(one for one in decision.checks if one.name == "champion")
    assert found.outcome == "undecided"
    assert "0.048" in found.sentence
    assert decision.reason == found.sentence


def test_loss_beyond_the_margin_is_rejected_even_where_the_interval_is_wide() -> None:
    weak = comparison(difference=-0.03, low=-0.09, high=0.03, minimum_detectable=0.06)
    assert decide(evidence(champion=weak), POLICY).verdict == "rejected"


def test_inconclusive_comparison_does_not_hide_another_failure() -> None:
    weak = comparison(difference=0.0, low=-0.05, high=0.05)
    decision = decide(replace(score(miou=0.1), champion=weak), POLICY)
    assert decision.verdict == "rejected"
    outcomes = {check.name: check.outcome for check in decision.checks}
    assert (outcomes["mIoU"], outcomes["champion"]) == ("failed", "undecided")
    assert decision.reason == "mIoU on val is 0.100, below 0.500."


def test_loss_of_exactly_the_margin_passes() -> None:
    exact = comparison(
        challenger_miou=0.60,
        reference_miou=0.62,
        difference=0.60 - 0.62,
        low=0.60 - 0.62,
        high=0.0,
    )
    assert decide(evidence(champion=exact, best=exact), POLICY).verdict == "promoted"


@pytest.mark.parametrize("changes", [{"images": 1}, {"val_hash": "other"}])
def test_one_reason_is_told_once_where_the_champion_is_the_best_release(
    changes: dict[str, Any],
) -> None:
    found = comparison(**changes)
    decision = decide(evidence(champion=found, best=found), POLICY)
    assert failed(decision) == ["champion", "best release"]
    champion, best = (one.sentence for one in decision.checks[-2:])
    assert "version 1" in champion.lower()
    assert best == "The champion is the best release too: the same holds of it."
    other = replace(found, version="3")
    best = decide(evidence(champion=found, best=other), POLICY).checks[-1].sentence
    assert "version 3" in best.lower()


# Fail closed.


@pytest.mark.parametrize(
    "field", [one.name for one in fields(Evidence) if one.name != "champion_version"]
)
def test_whatever_is_unknown_rejects_with_its_reason(field: str) -> None:
    decision = decide(evidence(**{field: Unknown("the dog ate it")}), STRICT)
    assert decision.verdict == "rejected"
    assert "the dog ate it" in decision.reason


@pytest.mark.parametrize(
    ("changes", "name"),
    [
        ({"validation": ValidationVerdict(False, "d")}, "validation"),
        ({"validation": ValidationVerdict(True, "other")}, "validation"),
        ({"validation": ValidationVerdict(True, "")}, "validation"),
        ({"validation": ValidationVerdict(True, "d", ("bird", "boat"))}, "scored classes"),
        (
            {"score": Score(0.99, {"background": None, "bird": 0.99}, 60, 0, "new", "d", "val")},
            "scored classes",
        ),
        ({"lineage_missing": ("seed",)}, "lineage"),
        ({"challenger": Challenger("segops", "2", "run", "tampered")}, "artifact"),
        (
            {"challenger": Challenger("segops", "2", "run", "new", "broke in production")},
            "artifact",
        ),
        ({"champion": comparison(images=1)}, "champion"),
        ({"champion": comparison(classes=())}, "champion"),
        ({"best": comparison(low=0.5, high=0.1)}, "best release"),
    ],
)
def test_other_ways_to_fail(changes: dict[str, Any], name: str) -> None:
    decision = decide(evidence(**changes), POLICY)
    assert decision.verdict == "rejected"
    assert failed(decision) == [name]


def test_floor_for_a_class_that_val_does_not_hold_rejects() -> None:
    decision = decide(evidence(), POLICY.model_copy(update={"min_class_iou": {"boat": 0.0}}))
    assert failed(decision) == ["IoU of boat"]
    decision = decide(evidence(), POLICY.model_copy(update={"min_class_iou": {"cat": 0.0}}))
    assert failed(decision) == ["IoU of cat"]


def test_the_gate_reads_nothing_and_asks_nobody() -> None:
    imported = {
        name
        for module in (gate, gate_checks, gate_limits, check)
        for node in ast.walk(ast.parse(inspect.getsource(module)))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [str(node.module)]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }
    assert imported == {
        "__future__",
        "collections.abc",
        "math",
        "typing",
        "pydantic",
        "segops.models.licences",
        "segops.params.gate",
        "segops.release",
        "segops.release.check",
        "segops.release.evidence",
        "segops.release.gate_checks",
        "segops.report.figures",
        "segops.words",
    }


# Properties.

anything = st.floats(allow_nan=True, allow_infinity=True) | st.none()
share = st.floats(0, 1)
step = st.floats(0, 0.2)


@st.composite
def found(draw: st.DrawFn) -> Evidence:
    """Evidence with plain finite numbers, good or bad."""
    champion, best = (
        comparison(
            difference=(difference := draw(st.floats(-0.1, 0.1))),
            low=difference - draw(step),
            high=difference + draw(step),
        )
        for _ in range(2)
    )
    base = score(miou=draw(share), class_iou={"bird": draw(share)})
    return replace(base, champion=champion, best=best)


@given(found(), step, step, step, step)
def test_better_in_all_that_is_observed_is_never_judged_worse(
    before: Evidence, miou: float, bird: float, champion: float, best: float
) -> None:
    assert isinstance(before.score, Score)
    assert isinstance(before.champion, Comparison)
    assert isinstance(before.best, Comparison)

    def better(one: Comparison, by: float) -> Comparison:
        return replace(one, difference=one.difference + by, low=one.low + by, high=one.high + by)

    after = replace(
        before,
        score=replace(
            before.score,
            miou=min(1.0, (before.score.miou or 0) + miou),
            class_iou={"bird": min(1.0, (before.score.class_iou["bird"] or 0) + bird)},
        ),
        champion=better(before.champion, champion),
        best=better(before.best, best),
    )
    assert RANK[decide(after, POLICY).verdict] >= RANK[decide(before, POLICY).verdict]


@given(
    st.lists(anything, min_size=8, max_size=8).filter(
        lambda values: any(value is None or not math.isfinite(value) for value in values)
    )
)
def test_what_is_not_finite_never_promotes(values: list[float | None]) -> None:
    names = ("challenger_miou", "reference_miou", "difference", "low", "high", "minimum_detectable")
    numbers = [math.nan if value is None else value for value in values[2:]]
    base = score(miou=values[0], class_iou={"bird": values[1]})
    spoilt = replace(base, champion=comparison(**dict(zip(names, numbers, strict=True))))
    assert decide(spoilt, POLICY).verdict == "rejected"


@given(found())
def test_a_promoted_challenger_meets_every_requirement(evidence_: Evidence) -> None:
    decision = decide(evidence_, POLICY)
    assert isinstance(evidence_.score, Score)
    assert isinstance(evidence_.champion, Comparison)
    assert isinstance(evidence_.best, Comparison)
    if decision.verdict == "promoted":
        assert (evidence_.score.miou or 0) >= POLICY.min_miou - 1e-9
        assert evidence_.champion.low >= -POLICY.margin - 1e-9
        assert evidence_.best.difference >= -POLICY.margin - 1e-9
    assert gate.Decision.model_validate_json(decision.model_dump_json()) == decision

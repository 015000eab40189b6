"""The smoke test after a promotion: a fresh process loads the champion by its alias."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segops import paths
from segops.cli import life
from segops.release import fresh, promotion
from segops.release.gate import Decision
from segops.release.reinstate import reinstate
from segops.release.smoke import Smoke, smoke
from segops.release.status import status
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, keep_masks, kinds, train


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made.make(tmp_path / "checkout")


def release(root: Path, seed: int, wrong: int = 0, **machine: str) -> Decision:
    """Promote a model whose evaluation kept masks, so many pixels of them wrong."""
    train(root, seed, 0.6 + seed / 10)
    keep_masks(root, wrong, **machine)
    made.register(root, made.record(root))
    return promotion.promote(root, promotion.gate(root))


def put_to_test(root: Path, decision: Decision) -> Smoke:
    result = smoke(root, decision)
    assert result is not None
    return result


def test_a_champion_that_predicts_what_it_was_scored_with_stays(root: Path) -> None:
    decision = release(root, seed=1)
    assert "has not passed its smoke test" in status(root).warnings[0]
    result = put_to_test(root, decision)
    assert result.passed
    assert "predicts 4 images of val on the machine that scored it: 0 of 20480" in result.sentence
    assert kinds(root)[-1] == ("smoke", "passed", "1")
    assert made.lines(root)[-1]["details"]["differing"] == 0
    assert status(root).warnings == ()
    assert status(root).decisions[-1].what == "passed the smoke test"
    assert aliases(root) == {"champion": "1"}
    assert smoke(root, decision) is None, "once after each promotion"


@pytest.mark.slow
def test_a_champion_that_predicts_otherwise_goes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Elsewhere 0.1 % of the pixels may differ: 20 of 20480.
    assert put_to_test(root, release(root, 1, wrong=20, host="elsewhere")).passed
    result = put_to_test(root, release(root, 2, wrong=21, host="elsewhere"))
    assert not result.passed
    assert "on another machine or device: 21 of 20480 pixels differ" in result.sentence
    assert "Version 2 is withdrawn. Version 1 is champion again." in result.sentence
    assert aliases(root) == {"champion": "1"}
    assert kinds(root)[-3:] == [
        ("smoke", "failed", "2"), ("intent", "rollback", "2"), ("done", "rollback", "2"),
    ]  # fmt: skip
    assert made.lines(root)[-2]["by"] == "the smoke test"
    assert status(root).withdrawn["2"].startswith("The smoke test failed. Version 2")

    # On the machine that scored it, a single pixel is too much; the command says so.
    train(root, 3, 0.9)
    keep_masks(root, wrong=1)
    monkeypatch.chdir(root)
    with pytest.raises(life.typer.Exit) as ended:
        life.promote()
    assert ended.value.exit_code == life.REJECTED
    assert "Smoke test: failed" in capsys.readouterr().out
    assert aliases(root) == {"champion": "1"}

    # It comes back where the masks are mended, through the gate and the test.
    keep_masks(root)
    life.reinstate("3", "another library was installed meanwhile")
    assert "Smoke test: passed" in capsys.readouterr().out
    assert aliases(root) == {"champion": "3", "previous": "1"}

    # Without val nothing can be compared; the model is loaded and predicts all the same.
    decision = release(root, 4)
    (root / paths.PACKED / "val").rename(root / "val")
    result = put_to_test(root, decision)
    assert result.passed
    assert "val's images are not in this checkout" in result.sentence


def test_without_an_earlier_champion_the_alias_is_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = release(root, seed=1)

    def not_usable(*_: object, **__: object) -> None:
        raise fresh.NotUsableError("no module named elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(fresh, "predict", not_usable)
        result = put_to_test(root, decision)
    assert "does not predict: no module named elsewhere" in result.sentence
    assert "There is no champion now." in result.sentence
    assert aliases(root) == {}
    assert status(root).warnings == ()
    assert release(root, seed=1).verdict == "rejected"
    assert release(root, seed=2).verdict == "promoted"
    reinstate(root, "1", "it was not its fault")


def test_a_test_that_was_interrupted_is_made_by_the_next_promotion(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    decision = release(root, seed=1)

    def lacking(*_: object, **__: object) -> None:
        raise fresh.TransientError("no space left")

    with monkeypatch.context() as patch, pytest.raises(fresh.TransientError):
        patch.setattr(fresh, "predict", lacking)
        smoke(root, decision)
    assert aliases(root) == {"champion": "1"}, "the model is not to blame"
    again = promotion.gate(root)
    assert again.verdict == "unchanged"

    def blank(_: Path, uri: str, digest: str, images: list[Any], **__: Any) -> fresh.Predicted:
        assert uri == "models:/segops@champion"
        return fresh.Predicted(tuple(np.zeros(one.shape[:2], np.uint8) for one in images), {})

    monkeypatch.setattr(fresh, "predict", blank)
    assert not put_to_test(root, again).passed

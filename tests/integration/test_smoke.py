"""The smoke test after a promotion: a fresh process loads the champion by its alias."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segops import paths
from segops.cli import life
from segops.release import fresh, promotion
from segops.release.gate import Decision
from segops.release.reinstate import reinstate
from segops.release.rollback import rollback
from segops.release.smoke import Smoke, smoke
from segops.release.status import status
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, keep_masks, kinds, train

pytestmark = pytest.mark.slow


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


def run_of(root: Path, version: str) -> str:
    return str(made.client(root).get_model_version("segops", version).run_id)


def put_to_test(root: Path) -> Smoke:
    result = smoke(root)
    assert result is not None
    return result


def test_a_champion_that_predicts_what_it_was_scored_with_stays(root: Path) -> None:
    release(root, seed=1)
    assert "has not passed its smoke test" in status(root).warnings[0]
    result = put_to_test(root)
    assert result.passed
    assert "predicts 4 images of val on the machine that scored it: 0 of 20480" in result.sentence
    assert kinds(root)[-1] == ("smoke", "passed", "1")
    assert made.lines(root)[-1]["details"]["differing"] == 0
    assert status(root).warnings == ()
    assert status(root).decisions[-1].what == "passed the smoke test"
    assert aliases(root) == {"champion": "1"}
    assert smoke(root) is None, "once after each promotion"
    last = made.lines(root)[-1]
    (held,) = root.glob(f"mlartifacts/*/artifacts/decisions/{last['sequence']:04d}.json")
    assert json.loads(held.read_text()) == last, "its run holds the ledger's entry at once"


@pytest.mark.slow
def test_a_champion_that_predicts_otherwise_goes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Elsewhere 0.1 % of the pixels may differ: 20 of 20480.
    release(root, 1, wrong=20, host="elsewhere")
    assert put_to_test(root).passed
    release(root, 2, wrong=21, host="elsewhere")
    result = put_to_test(root)
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
    release(root, 4)
    (root / paths.PACKED / "val").rename(root / "val")
    result = put_to_test(root)
    assert result.passed
    assert "val's images are not in this checkout" in result.sentence


def test_without_an_earlier_champion_the_alias_is_removed(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1)

    def not_usable(*_: object, **__: object) -> None:
        raise fresh.NotUsableError("no module named elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(fresh, "predict", not_usable)
        result = put_to_test(root)
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
    release(root, seed=1)

    def lacking(*_: object, **__: object) -> None:
        raise fresh.TransientError("no space left")

    with monkeypatch.context() as patch, pytest.raises(fresh.TransientError):
        patch.setattr(fresh, "predict", lacking)
        smoke(root)
    assert aliases(root) == {"champion": "1"}, "the model is not to blame"
    assert promotion.gate(root).verdict == "unchanged"
    assert release(root, seed=-4).verdict == "rejected", "of another model"

    def blank(_: Path, uri: str, digest: str, images: list[Any], **__: Any) -> fresh.Predicted:
        assert uri == "models:/segops@champion"
        return fresh.Predicted(tuple(np.zeros(one.shape[:2], np.uint8) for one in images), {})

    monkeypatch.setattr(fresh, "predict", blank)
    # The masks are those that the gate decided with, from the run: the workspace's are another's.
    (kept,) = root.glob(f"mlartifacts/{run_of(root, '1')}/artifacts/metrics/kept_masks.json")
    content = kept.read_bytes()
    kept.write_bytes(content.replace(b'"images"', b'"pictures"'))
    with pytest.raises(SegopsError, match="is not the file that the gate decided with"):
        smoke(root)
    kept.unlink()
    with pytest.raises(SegopsError, match="is not the file that the gate decided with"):
        smoke(root)
    assert kinds(root)[-1] == ("decision", "rejected", "2")
    kept.write_bytes(content)
    assert not put_to_test(root).passed


def test_an_outage_withdraws_nothing_and_the_lost_release_comes_back(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1)
    release(root, seed=2)

    def only(*usable: str) -> Any:
        """Let those versions alone predict; `full` stands for a disk that is full."""

        def predict(_: Path, model: str, digest: str, *__: Any, **___: Any) -> fresh.Predicted:
            if "full" in usable and not model.startswith("models:"):
                raise fresh.TransientError("no space left")
            if digests.get(digest) in usable:
                return fresh.Predicted((), {})
            raise fresh.NotUsableError("no module named elsewhere")

        return predict

    found = made.client(root).search_model_versions("name = 'segops'")
    digests = {one.tags["segops.bundle_digest"]: str(one.version) for one in found}
    monkeypatch.setattr(fresh, "predict", only("full"))
    with pytest.raises(fresh.TransientError, match="no space left"):
        smoke(root)
    assert aliases(root) == {"champion": "2", "previous": "1"}

    # Where no earlier release predicts either, there is no champion, and the gate says what to do.
    monkeypatch.setattr(fresh, "predict", only())
    assert "There is no champion now." in put_to_test(root).sentence
    rejected = release(root, seed=3)
    assert rejected.verdict == "rejected"
    assert "`segops rollback --reason WHY` restores it" in rejected.reason
    monkeypatch.setattr(fresh, "predict", only("1"))
    planned = rollback(root, "the library is back", dry_run=True)
    assert aliases(root) == {"challenger": "3"}
    assert rollback(root, "the library is back") == planned
    assert (planned.withdrawn, planned.champion) == (None, "1")
    assert aliases(root)["champion"] == "1"
    assert kinds(root)[-1] == ("done", "restore", "1")
    assert [*status(root).withdrawn] == ["2"]
    assert status(root).warnings == ()
    assert release(root, seed=3).verdict == "promoted"


def test_without_a_usable_release_a_rollback_leaves_no_champion(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    release(root, seed=1)
    made.client(root).delete_registered_model_alias("segops", "champion")

    def not_usable(*_: object, **__: object) -> None:
        raise fresh.NotUsableError("no module named elsewhere")

    with monkeypatch.context() as patch:
        patch.setattr(fresh, "predict", not_usable)
        done = rollback(root, "it is lost")
    assert (done.withdrawn, done.champion) == ("1", None)
    assert release(root, seed=2).verdict == "promoted"

"""`segops ledger history`: all versions, their decisions and changes, with a real MLflow."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from segops import cli
from segops.cli.common import Terminal
from segops.record.lineage import tag
from segops.release import changes, promotion, versions
from segops.release.history import PAGE, history
from segops.report.history_page import HistoryPage
from segops.runtime.errors import SegopsError, TransientError
from tests.support import registry_workspace as made


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four versions: a release, one refused, one on other data, one that was rolled back."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("history") / "checkout")
        made.release(root, seed=1, quality=0.7)
        made.set_params(root, train={"lr": 0.02})
        assert made.release(root, seed=2, quality=0.5).verdict == "rejected"
        (root / "src/code.py").write_text("CODE = 2\n")
        made.git(root, "commit", "-q", "-a", "-m", "second")
        made.use_data(root, seed=4)
        made.set_params(root, train={"lr": 0.03, "epochs": 3}, gate={"margin": 0.03})
        assert made.release(root, seed=3, quality=0.8).verdict == "promoted"
        assert made.release(root, seed=4, quality=0.9).verdict == "promoted"
        with changes.changing(root) as registry:  # a rollback without its trial of version 3
            before = registry.aliases()
            run = versions.get(registry.store, registry.model, "4").run_id
            after: dict[str, str | None] = {"champion": "3", "previous": None}
            changes.change(registry, "rollback", "4", run, "<b>glare</b>", before, after)
        return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(released, tmp_path / "checkout")


@pytest.fixture(scope="module")
def found(released: Path) -> HistoryPage:
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        return history(released, released / PAGE)


@pytest.mark.slow
def test_every_version_has_its_decision_and_the_gates_own_figures(
    released: Path, found: HistoryPage
) -> None:
    rows = {row.number: row for row in found.rows}
    assert {number: row.state for number, row in rows.items()} == {
        "1": "released", "2": "rejected", "3": "champion", "4": "withdrawn",
    }  # fmt: skip
    decided = {one["version"]: one["details"]["evidence"] for one in made.lines(released)
               if one["kind"] == "decision"}  # fmt: skip
    assert rows["1"].difference is None
    assert [rows[one].compared for one in "1234"] == [None, "1", "1", "3"]
    for number in "234":
        comparison, row = decided[number]["champion"], rows[number]
        assert row.difference is not None
        assert row.difference.difference == comparison["difference"]
        assert (row.difference.low, row.difference.high) == (comparison["low"], comparison["high"])
        miou = decided[number]["score"]["miou"]
        assert (row.miou, row.low) == (miou, pytest.approx(miou - 0.1, abs=1e-6))
        assert row.images == comparison["images"]
    assert [one.what for one in rows["4"].moments] == ["promoted to champion", "rolled back"]
    assert rows["4"].moments[1].reason == "<b>glare</b>"
    assert all(row.by and row.registered and len(row.weights) == 64 for row in rows.values())


@pytest.mark.slow
def test_what_changed_is_told_against_the_champion_of_that_time(found: HistoryPage) -> None:
    rows = {row.number: row for row in found.rows}
    assert (rows["1"].before, rows["1"].changes) == (None, ())
    assert [rows[one].before for one in "234"] == ["1", "1", "3"]
    second = {(one.kind, one.name): one.text for one in rows["2"].changes}
    assert set(second) == {("parameters", "train.lr")}
    assert second["parameters", "train.lr"].endswith(" → 0.02")
    third = {(one.kind, one.name): one.text for one in rows["3"].changes}
    assert third["parameters", "train.lr"].endswith(" → 0.03")
    assert third["parameters", "gate.margin"] == "0.02 → 0.03"
    assert set(third) == {
        ("parameters", "train.lr"), ("parameters", "gate.margin"), ("data", ""), ("code", ""),
    }  # fmt: skip
    assert re.fullmatch(r"[0-9a-f]{10} → [0-9a-f]{10}", third["code", ""])
    assert "of val" in third["data", ""]  # the images that differ were counted
    assert rows["4"].changes == ()
    assert rows["2"].val == rows["1"].val != rows["3"].val


@pytest.mark.slow
def test_the_page_marks_champion_and_val_and_escapes_names(
    released: Path, found: HistoryPage
) -> None:
    page = (released / PAGE).read_text()
    assert page.count('<a href="#v') == 4
    assert page.count('class="champion" aria-label="version 3, champion: mIoU') == 1
    assert page.count('class="other-val"') == 1
    assert "another val from version 3 on" in page
    assert "<b>glare" not in page
    assert "&lt;b&gt;glare" in page
    ids = re.findall(r'<tr id="v(\d)"( class="refused")?>', page)
    assert ids == [("4", ""), ("3", ""), ("2", ' class="refused"'), ("1", "")]
    assert "http" not in page.partition("</style>")[2]


@pytest.mark.slow
def test_what_the_registry_no_longer_has_is_told_from_the_ledger(root: Path) -> None:
    client = made.client(root)
    fourth = client.get_model_version("segops", "4")
    client.delete_model_version("segops", "2")
    outputs = client.get_run(str(fourth.run_id)).outputs
    assert outputs is not None
    client.delete_run(str(fourth.run_id))
    client.delete_logged_model(outputs.model_outputs[0].model_id)
    client.set_model_version_tag("segops", "1", tag("miou"), "great")
    rows = {row.number: row for row in history(root, root / PAGE).rows}
    assert rows["2"].is_gone
    assert (rows["2"].state, rows["2"].weights) == ("rejected", "")
    assert rows["2"].difference is not None
    assert [one.text for one in rows["2"].changes] == ["version 2 is gone from the registry"]
    assert [one[1:] for one in rows["4"].changes] == [("", "those of version 4 are not recorded")]
    assert rows["1"].miou is not None  # the ledger's
    assert "gone from the registry" in (root / PAGE).read_text()


@pytest.mark.slow
def test_the_command_shows_the_last_versions(
    released: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(released)
    monkeypatch.setattr("segops.cli.ledger.console", Terminal(width=160))
    monkeypatch.setattr("segops.cli.ledger.LAST", 3)
    monkeypatch.setattr("segops.cli.ledger.CHANGES", 2)
    page = tmp_path / "page.html"
    done = CliRunner().invoke(
        cli.app, ["ledger", "history", "--output", str(page)], catch_exceptions=False
    )
    assert done.exit_code == 0
    assert page.is_file()
    said = " ".join(done.output.split())
    for part in ("withdrawn", "rejected", "champion", "train.lr", "and 2 more", "to 3"):
        assert part in said
    assert "The last 3 of 4 versions; the page has all." in said


def test_without_a_version_it_says_what_to_do(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout")
    with made.ledger_of(root):
        pass
    with pytest.raises(SegopsError, match=r"has no version of it.*`segops promote` registers"):
        history(root, root / PAGE)
    other = root / "ledger/segops-0123456789ab.log"
    other.parent.mkdir(exist_ok=True)
    other.write_text("")
    with pytest.raises(SegopsError, match=r"other registries \(segops-0123456789ab\.log\): set"):
        history(root, root / PAGE)
    assert not (root / PAGE).exists()


def test_mlflow_out_of_reach_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = made.make(tmp_path / "checkout", database=False)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 does not answer"):
        history(root, root / PAGE)
    assert not (root / PAGE).exists()


@pytest.mark.slow
def test_a_version_without_a_decision_is_held_against_the_one_before(root: Path) -> None:
    made.challenge(root, seed=9, quality=0.8)
    row = history(root, root / PAGE).rows[-1]
    assert (row.number, row.state, row.before, row.difference) == ("5", "not decided", "4", None)
    with changes.looking(root) as registry:
        assert registry.aliases()["challenger"] == "5"
    assert promotion.gate(root).version == "5"

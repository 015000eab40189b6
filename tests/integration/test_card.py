"""The model card of a version: in its description, in its run, and on the command line."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from typer.testing import CliRunner

from segops import cli
from segops.params.file import load_params
from segops.record.update import record
from segops.release import publish_card, versions
from segops.release.register import register
from tests.support import registry_workspace as made


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A workspace whose model, version 1, is registered and not decided on."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    root = made.make(tmp_path / "checkout")
    monkeypatch.chdir(root)
    made.set_params(root, registry={"card": {"intended_use": "Counting cats."}})
    assert made.challenge(root, seed=1, quality=0.7).version == "1"
    return root


def described(root: Path, number: str) -> str:
    return str(made.client(root).get_model_version("segops", number).description)


def readme(root: Path, number: str) -> str:
    client = made.client(root)
    run = client.get_model_version("segops", number).run_id
    path = f"model_card/segops-{number}/README.md"
    return Path(client.download_artifacts(str(run), path)).read_text()


def test_the_card_follows_the_life_of_a_version(root: Path) -> None:
    assert "Not decided yet." in described(root, "1")
    assert "Counting cats." in readme(root, "1")
    assert made.release(root, seed=1, quality=0.7).verdict == "promoted"
    assert "Gate: promoted." in described(root, "1")
    assert "Gate: promoted." in readme(root, "1")
    assert ModelCard(readme(root, "1")).data.to_dict()["model-index"][0]["name"] == "segops"

    before = made.snapshot(root), described(root, "1")
    register(root, record(root))
    with made.ledger_of(root) as ledger:
        version = versions.get(ledger.store, "segops", "1")
        publish_card.publish(ledger, version, load_params(root).registry.card)
    assert (made.snapshot(root), described(root, "1")) == before


def test_the_card_tells_how_the_data_differ_from_those_of_the_champion(root: Path) -> None:
    made.release(root, seed=1, quality=0.7)
    made.use_data(root, seed=4)
    assert made.challenge(root, seed=2, quality=0.8).version == "2"
    for card in (described(root, "2"), readme(root, "2")):
        line = next(one for one in card.splitlines() if "since version 1" in one)
        assert "images of val with another photograph" in line
        assert "true pixels of val: " in line
    assert "since version" not in readme(root, "1")


def test_a_description_that_a_person_wrote_stays(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    client = made.client(root)
    client.update_model_version("segops", "1", "Ours: do not touch.")
    with caplog.at_level(logging.INFO, "segops"):
        made.release(root, seed=1, quality=0.7)
        made.release(root, seed=1, quality=0.7)
    assert described(root, "1") == "Ours: do not touch."
    assert sum("its description was edited" in one for one in caplog.messages) == 1
    assert "Gate: promoted." in readme(root, "1")
    # Emptied, or what an earlier segops wrote, it is segops' again.
    for text in ("", "mIoU 0.700 on val when registered"):
        client.update_model_version("segops", "1", text)
        register(root, record(root))
        assert "Gate: promoted." in described(root, "1")


def test_a_decision_does_not_depend_on_the_card(
    root: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (root / "mlartifacts").rename(root / "elsewhere")
    made.set_params(root, registry={"card": {"pictures": True}})
    with made.ledger_of(root) as ledger:
        version = versions.get(ledger.store, "segops", "1")
        (root / "mlartifacts").write_text("no directory")
        publish_card.publish(ledger, version, load_params(root).registry.card)
    assert "The model card of segops version 1 was not written" in caplog.text


def test_the_command(root: Path, tmp_path: Path) -> None:
    call = CliRunner().invoke
    done = call(cli.app, ["card", "1"])
    assert done.exit_code == 0, done.output
    assert "# segops version 1" in done.output
    assert "library_name: segops" in done.output
    done = call(cli.app, ["card", "1", "--output", str(tmp_path / "card")])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "card/README.md").read_text() == readme(root, "1")
    made.set_params(root, registry={"card": {"intended_use": "Counting dogs."}})
    before = described(root, "1")
    call(cli.app, ["card", "1"])
    assert described(root, "1") == before
    done = call(cli.app, ["card", "1", "--update"])
    assert done.exit_code == 0, done.output
    assert "Counting dogs." in described(root, "1")
    done = call(cli.app, ["card", "9"])
    assert done.exit_code == 1
    assert "segops has no version 9" in str(done.exception)

"""What a clean-up removes of a record on MLflow's server, and what other machines keep there."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.store.artifact.mlflow_artifacts_repo import MlflowArtifactsRepository
from typer.testing import CliRunner

from segops.cli import app
from segops.operate import clean as module
from segops.operate.clean import Plan, Wanted, clean, plan
from segops.predict.bundle import load_bundle
from segops.record.lineage import START_FIELD, tag
from segops.release import unnamed
from segops.release.audit import audit
from segops.release.named import PIN
from segops.release.resolve import resolved
from segops.release.unnamed import MODEL
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.mlflow_server import serving
from tests.support.registry_workspace import challenge, release

pytestmark = pytest.mark.slow
NOW = Wanted(older_than=0, server=True)


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, Path]]:
    """A checkout whose record is a server's, and where that server keeps its files.

    Version 1 is released, 2 is what nothing needs, 3 is refused by the gate, 4 is in the workspace.
    """
    folder = tmp_path_factory.mktemp("team")
    with serving(folder / "server") as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", started[0])
        root = made.make(folder / "checkout", database=False)
        release(root, seed=1, quality=0.8)
        challenge(root, seed=2, quality=0.9)
        assert release(root, seed=3, quality=0.1).verdict == "rejected"
        challenge(root, seed=4, quality=0.9)
        patch.setattr(module, "SECONDS_OF_AN_UPLOAD", 0.0)
        yield root, folder / "server/store"


@pytest.fixture
def client(team: tuple[Path, Path]) -> Iterator[MlflowClient]:
    with made.ledger_of(team[0]) as ledger:
        yield ledger.store.client


def versions(client: MlflowClient) -> set[str]:
    return {str(one.version) for one in client.search_model_versions("name = 'segops'")}


def of_server(found: Plan) -> list[str]:
    return [one.name for one in found.pieces if one.is_on_server]


def goes(root: Path, version: str, wanted: Wanted = NOW) -> bool:
    """Whether a version would go."""
    return any(f"(segops version {version})" in one for one in of_server(plan(root, wanted)))


def test_without_the_option_a_server_stays(team: tuple[Path, Path]) -> None:
    found = plan(team[0], Wanted(older_than=0))
    assert of_server(found) == []
    assert any("--server" in note for note in found.notes)


def test_a_server_without_the_experiment_or_with_odd_names_is_no_error(
    team: tuple[Path, Path], client: MlflowClient, tmp_path: Path
) -> None:
    client.create_registered_model("it's")
    other = made.make(tmp_path / "other", database=False)
    made.set_params(other, registry={"experiment": "none yet"})
    assert of_server(plan(other, NOW)) == []
    client.delete_registered_model("it's")


def test_an_upload_may_be_under_way_on_another_machine(
    team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SECONDS_OF_AN_UPLOAD", module.DAY)
    assert of_server(plan(team[0], NOW)) == []


def test_runs_of_another_experiment_and_pretrainings_stay(
    team: tuple[Path, Path], client: MlflowClient
) -> None:
    root, _ = team
    before = of_server(plan(root, NOW))
    experiment = client.get_run(client.get_model_version("segops", "1").run_id).info.experiment_id
    theirs = client.create_experiment("another team's")
    for place, name in ((theirs, "segops.x"), (experiment, "segops.encoder_sha256")):
        run = client.create_run(place).info.run_id
        client.set_tag(run, name, "0")
        client.log_text(run, "of use", "notes.txt")
    assert of_server(plan(root, NOW)) == before


def test_what_a_person_has_added_by_other_ways_stays(
    team: tuple[Path, Path], client: MlflowClient
) -> None:
    """A stage of MLflow's older kind, a copy without an alias, a model of another run."""
    root, _ = team
    version = client.get_model_version("segops", "2")
    client.transition_model_version_stage("segops", "2", "Production")
    assert not goes(root, "2")
    client.transition_model_version_stage("segops", "2", "None")
    client.copy_model_version("models:/segops/2", "copies")
    assert not goes(root, "2")
    client.delete_registered_model("copies")
    (model,) = MODEL.findall(version.source)
    other = client.get_model_version("segops", "1").run_id
    client.create_registered_model("elsewhere")
    client.create_model_version("elsewhere", f"models:/{model}", other, model_id=model)
    assert not goes(root, "2")
    client.delete_registered_model("elsewhere")
    theirs = client.create_logged_model(client.get_run(other).info.experiment_id, "x", other)
    assert not any(theirs.model_id in one for one in of_server(plan(root, NOW)))
    client.delete_logged_model(theirs.model_id)
    assert goes(root, "2")


@pytest.mark.parametrize("by", ["alias", "pin", "version"])
def test_what_is_named_after_it_was_found_stays_with_its_files(
    team: tuple[Path, Path], client: MlflowClient, by: str
) -> None:
    root, kept_at = team
    seen = plan(root, NOW)
    (piece,) = (one for one in seen.pieces if "segops version 2" in one.name)
    files = set(kept_at.rglob("*"))
    version = client.get_model_version("segops", "2")
    if by == "alias":
        client.set_registered_model_alias("segops", "shown", "2")
    elif by == "pin":
        client.set_model_version_tag("segops", "2", PIN, "shown to the customer")
    else:
        client.create_registered_model("theirs")
        (model,) = MODEL.findall(version.source)
        client.create_model_version("theirs", f"models:/{model}", version.run_id, model_id=model)
    assert piece.remove() is False
    assert files == set(kept_at.rglob("*"))
    assert "2" in versions(client)
    if by == "alias":
        client.delete_registered_model_alias("segops", "shown")
    elif by == "pin":
        client.delete_model_version_tag("segops", "2", PIN)
    else:
        client.delete_registered_model("theirs")
    assert goes(root, "2")


def test_what_stays_after_all_is_not_told_as_removed(
    team: tuple[Path, Path], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = team
    seen = plan(root, NOW)
    assert of_server(seen)
    monkeypatch.setattr(unnamed._Case, "_is_in_use_now", lambda *_: True)
    assert of_server(clean(root, NOW, seen)) == []
    assert "2" in versions(client)


def test_what_a_copy_or_a_training_needs_stays(
    team: tuple[Path, Path], client: MlflowClient
) -> None:
    root, _ = team
    client.copy_model_version("models:/segops/2", "production")
    client.set_registered_model_alias("production", "live", "1")
    copied = client.get_model_version("segops", "2")
    for needed in (copied.run_id, *MODEL.findall(copied.source)):
        assert not any(needed in one for one in of_server(plan(root, NOW)))
    client.delete_registered_model("production")
    assert goes(root, "2")
    weights = client.get_model_version("segops", "2").tags[tag("weights_sha256")]
    present = client.get_model_version("segops", "4").run_id
    client.set_tag(present, tag(START_FIELD), weights)
    assert not goes(root, "2")
    client.delete_tag(present, tag(START_FIELD))
    assert goes(root, "2")


def test_a_version_that_this_user_may_not_read_keeps_its_run(
    team: tuple[Path, Path], client: MlflowClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, _ = team
    whole = MlflowClient.search_registered_models
    with monkeypatch.context() as cut:
        cut.setattr(
            MlflowClient,
            "search_registered_models",
            lambda *some, **more: type(whole(*some, **more))([], None),
        )
        hidden = of_server(plan(root, NOW))
    assert hidden == []
    assert of_server(plan(root, NOW)) != []


def test_a_server_that_refuses_is_told_in_a_sentence(
    team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise requests.HTTPError("403 Client Error: FORBIDDEN")

    monkeypatch.setattr(MlflowArtifactsRepository, "list_artifacts", refuses)
    with pytest.raises(SegopsError, match=r"MLflow at http://.* refuses: .*FORBIDDEN"):
        plan(team[0], NOW)


def test_files_and_versions_go_and_a_clean_up_that_failed_is_finished(
    team: tuple[Path, Path],
    client: MlflowClient,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    root, kept_at = team
    sizes = {one: one.stat().st_size for one in kept_at.rglob("*") if one.is_file()}
    seen = plan(root, NOW)
    (name,) = (one for one in of_server(seen) if "segops version 2" in one)

    def fails(*_: object) -> None:
        raise MlflowException("no longer")

    with monkeypatch.context() as cut:
        cut.setattr(MlflowClient, "delete_run", fails)
        with pytest.raises(SegopsError, match="no longer"):
            clean(root, NOW, seen)
    told = f"The clean-up ends at record on the server {name}, of which a part may be gone."
    assert told in caplog.text
    assert "2" not in versions(client)
    gone = sum(size for one, size in sizes.items() if not one.is_file())
    assert gone == seen.server_bytes > 10_000
    run = name.removesuffix(" (segops version 2)")
    assert run in of_server(plan(root, NOW))
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["clean", "--server", "--yes", "--older-than", "0h"])
    assert done.exit_code == 0, done.output
    assert of_server(plan(root, NOW)) == []
    assert client.get_run(run.removeprefix("run ")).info.lifecycle_stage == "deleted"
    assert audit(root, "1").names("broken") == []
    with resolved("models:/segops@champion", root) as bundle:
        load_bundle(bundle)


def test_what_the_gate_refused_goes_when_asked_for(
    team: tuple[Path, Path], client: MlflowClient
) -> None:
    root, _ = team
    assert not goes(root, "3")
    wanted = Wanted(older_than=0, rejected=True, server=True)
    assert goes(root, "3", wanted)
    clean(root, wanted, plan(root, wanted))
    assert "3" not in versions(client)
    assert {"1", "4"} <= versions(client)
    assert audit(root, "1").names("broken") == []

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
from segops.operate.leftovers import ON_SERVER
from segops.predict.bundle import load_bundle
from segops.release.audit import audit
from segops.release.resolve import resolved
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.mlflow_server import serving
from tests.support.registry_workspace import challenge, release

pytestmark = pytest.mark.slow
NOW = Wanted(older_than=0)


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
        patch.setattr(module, "UPLOAD", 0.0)
        yield root, folder / "server/store"


def versions(root: Path) -> set[str]:
    with made.ledger_of(root) as ledger:
        client = ledger.store.client
        return {str(one.version) for one in client.search_model_versions("name = 'segops'")}


def of_server(found: Plan) -> list[str]:
    return [one.name for one in found.pieces if one.kind == ON_SERVER]


def test_an_upload_may_be_under_way_on_another_machine(
    team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "UPLOAD", module.DAY)
    assert of_server(plan(team[0], NOW)) == []


def test_what_others_named_or_have_in_another_experiment_stays(team: tuple[Path, Path]) -> None:
    root, _ = team
    seen = plan(root, NOW)
    with made.ledger_of(root) as ledger:
        client = ledger.store.client
        other = client.create_run(client.create_experiment("another team's"))
        client.set_tag(other.info.run_id, "segops.x", "")
        client.log_text(other.info.run_id, "theirs", "notes.txt")
        found = plan(root, NOW)
        assert found == seen
        (piece,) = (one for one in found.pieces if "segops version 2" in one.name)
        client.set_registered_model_alias("segops", "shown", "2")
        piece.remove()
        assert versions(root) == {"1", "2", "3", "4"}
        client.delete_registered_model_alias("segops", "shown")


def test_a_server_that_refuses_is_told_in_a_sentence(
    team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: object) -> None:
        raise requests.HTTPError("403 Client Error: FORBIDDEN")

    monkeypatch.setattr(MlflowArtifactsRepository, "list_artifacts", refuses)
    with pytest.raises(SegopsError, match=r"MLflow at http://.* refuses: .*FORBIDDEN"):
        plan(team[0], NOW)


def test_files_and_versions_go_and_a_clean_up_that_failed_is_finished(
    team: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root, kept_at = team
    sizes = {one: one.stat().st_size for one in kept_at.rglob("*") if one.is_file()}
    seen = plan(root, NOW)
    (name,) = of_server(seen)
    assert name.endswith("(segops version 2)")
    assert seen.refused > 0

    def fails(*_: object) -> None:
        raise MlflowException("no longer")

    with monkeypatch.context() as cut:
        cut.setattr(MlflowClient, "delete_run", fails)
        with pytest.raises(SegopsError, match="no longer"):
            clean(root, NOW, seen)
    assert versions(root) == {"1", "3", "4"}
    gone = sum(size for one, size in sizes.items() if not one.is_file())
    assert gone == seen.server_bytes > 10_000
    run = name.removesuffix(" (segops version 2)")
    assert of_server(plan(root, NOW)) == [run]
    monkeypatch.chdir(root)
    done = CliRunner().invoke(app, ["clean", "--yes", "--older-than", "0h"])
    assert done.exit_code == 0, done.output
    assert of_server(plan(root, NOW)) == []
    with made.ledger_of(root) as ledger:
        client = ledger.store.client
        assert client.get_run(run.removeprefix("run ")).info.lifecycle_stage == "deleted"
    assert audit(root, "1").names("broken") == []
    with resolved("models:/segops@champion", root) as bundle:
        load_bundle(bundle)


def test_what_the_gate_refused_goes_when_asked_for(team: tuple[Path, Path]) -> None:
    root, _ = team
    wanted = Wanted(older_than=0, rejected=True)
    seen = plan(root, wanted)
    assert [one[-18:] for one in of_server(seen) if "version" in one] == ["(segops version 3)"]
    clean(root, wanted, seen)
    assert versions(root) == {"1", "4"}
    assert audit(root, "1").names("broken") == []

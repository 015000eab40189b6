"""`segops compare`, and the champion that is kept for the evaluation page: with a real MLflow."""

from __future__ import annotations

import logging
import os
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from segops import files, paths
from segops.cli import life
from segops.cli.common import Terminal
from segops.cli.compare import compare as command
from segops.data.store import PackedStore
from segops.evaluate import kept_champion as kept
from segops.evaluate.bootstrap import miou_from_counts, true_classes
from segops.evaluate.pictures import image_scores
from segops.params.evaluate import EvaluateParams
from segops.predict.bundle import bundle_digest
from segops.predict.seen import seen_images
from segops.record import artifact
from segops.record.update import EVALUATED_AS
from segops.release import champion_evaluation
from segops.release.compare_models import compare
from segops.release.named_models import open_models
from segops.release.paired_counts import kept_counts
from segops.report.page_inputs import Opponent
from segops.runtime.errors import SegopsError, TransientError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import release


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two releases, the second of which is the workspace's model. Shared: copy it to change it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("released") / "checkout")
        made.set_params(root, evaluate={"bootstrap_samples": 100}, report={"pictures": False})
        release(root, seed=1, quality=0.7)
        assert release(root, seed=2, quality=0.8).verdict == "promoted"
        return root


@pytest.fixture
def root(released: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    return shutil.copytree(released, tmp_path / "checkout")


def run_ids(root: Path) -> dict[str, str]:
    """Version -> id of the run that it is of."""
    return {
        str(one.version): str(one.run_id)
        for one in made.client(root).search_model_versions("name = 'segops'")
    }


class TestNames:
    def test_every_way_to_call_a_model_leads_to_it(self, released: Path, tmp_path: Path) -> None:
        ids = run_ids(released)
        bundle = shutil.copytree(released / paths.SEGMENTER, tmp_path / "bundle")
        name = made.client(released).get_run(ids["1"]).info.run_name
        asked = {
            "workspace": "workspace",
            ids["2"]: made.client(released).get_run(ids["2"]).info.run_name,
            ids["1"][:9]: None,
            str(name): None,
            "models:/segops/1": "version 1 (previous)",
            "models:/segops@champion": "version 2 (champion)",
            str(bundle): str(bundle),
        }
        with open_models(list(asked), released) as found:
            by_asked = dict(zip(asked, found, strict=True))
            newer = bundle_digest(bundle)
            for one in ("workspace", ids["2"], "models:/segops@champion", str(bundle)):
                assert by_asked[one].bundle_digest == newer
            older = by_asked["models:/segops/1"].bundle_digest
            assert older != newer
            assert by_asked[str(name)].bundle_digest == older
            assert by_asked[ids["1"][:9]].bundle_digest == older
            store = PackedStore(released / paths.PACKED)
            trained = frozenset(store.image_sha256(one) for one in store.ids("train"))
            assert {seen_images(one.described) for one in found} == {trained}
            # Two of them are the same run by its own name: what was typed tells them apart.
            assert by_asked[str(name)].name == f"{name} ({name})"
            assert by_asked[ids["1"][:9]].name == f"{name} ({ids['1'][:9]})"
            for one, shown in asked.items():
                assert shown is None or by_asked[one].name == shown

    def test_a_local_bundle_is_found_without_mlflow(
        self, released: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        with open_models(["workspace", str(released / paths.SEGMENTER)], released) as found:
            assert found[0].bundle_digest == found[1].bundle_digest

    def test_no_such_run_lists_the_latest(self, released: Path) -> None:
        with (
            pytest.raises(SegopsError, match="deadbeef: no such run") as error,
            open_models(["workspace", "deadbeef"], released),
        ):
            pass
        for run_id in run_ids(released).values():
            assert run_id[:8] in str(error.value)

    @pytest.mark.parametrize(
        ("asked", "says"),
        [
            ("models:/segops/99", "segops has no version 99"),
            ("models:/segops@nobody", "no such alias"),
            ("models:/segops", "expected models:/NAME@ALIAS"),
            ("no/such/bundle", "no bundle there"),
            ('it\'s "so"', "no such run"),
        ],
    )
    def test_what_leads_nowhere_is_named(self, asked: str, says: str, released: Path) -> None:
        with (
            pytest.raises(SegopsError, match=says) as error,
            open_models(["workspace", asked], released),
        ):
            pass
        assert asked in str(error.value)

    def test_an_artifact_that_was_changed_is_not_run(self, root: Path) -> None:
        run_id, client = run_ids(root)["1"], made.client(root)
        outputs = client.get_run(run_id).outputs
        assert outputs is not None
        logged = outputs.model_outputs[0].model_id
        client.set_logged_model_tags(logged, {artifact.DIGEST: "0" * 64})
        with (
            pytest.raises(SegopsError, match=r"0{12} was logged\. The artifact was changed"),
            open_models(["workspace", run_id], root),
        ):
            pass


class TestComparison:
    @pytest.mark.slow
    def test_models_are_scored_from_their_artifacts_on_this_val(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "segops")
        asked = ["models:/segops@champion", "models:/segops/1"]
        found = compare(asked, root, root / "page.html")
        assert found.names == ("version 2 (champion)", "version 1 (previous)")
        assert caplog.text.count("Scoring version") == 2
        # The evaluations in the runs are made up by the tests; these are of the real networks.
        counts = [
            pd.read_parquet(one / "counts.parquet") for one in (root / paths.COMPARED).iterdir()
        ]
        mious = sorted(miou_from_counts(one, true_classes(one)) for one in counts)
        assert sorted(one["miou"] for one in found.evaluations) == pytest.approx(mious)
        gain = found.evaluations[0]["miou"] - found.evaluations[1]["miou"]
        assert found.opponents[0].miou.difference == pytest.approx(gain)
        assert (found.images, found.excluded) == (8, 0)
        page = (root / "page.html").read_text()
        assert all(name in page for name in found.names)
        assert found.opponents[0].evaluation["boundary"]["iou"] >= 0
        assert [one["name"] for one in found.speeds] == list(found.names)
        assert all(0 < one["milliseconds_p50"] < one["peak_mib"] for one in found.speeds)
        assert "the models in turns" in page

        made.set_params(root, evaluate={"speed": False})

        caplog.clear()
        back = compare(asked[::-1], root, root / "back.html")
        assert "Scoring" not in caplog.text
        assert back.opponents[0].miou.difference == -found.opponents[0].miou.difference
        assert back.evaluations == found.evaluations[::-1]
        assert back.speeds == ()
        assert 'id="speed"' not in (root / "back.html").read_text()

    def test_models_of_other_classes_or_that_saw_all_of_val_are_refused(
        self, root: Path, tmp_path: Path
    ) -> None:
        store = PackedStore(root / paths.PACKED)
        other = shutil.copytree(root / paths.SEGMENTER, tmp_path / "other")
        described = files.read_json(other / "model.json")
        names = described["class_names"]
        files.write_json(other / "model.json", described | {"class_names": [*names[:-1], "stool"]})
        with pytest.raises(SegopsError, match=r"other: it has the classes .*stool"):
            compare(["workspace", str(other)], root, tmp_path / "page.html")
        seen = {one: store.image_sha256(one) for one in store.ids("val")}
        files.write_json(other / "model.json", described | {"training_images": seen})
        with pytest.raises(SegopsError, match=r"other: trained on the 8 image\(s\) of val"):
            compare(["workspace", str(other)], root, tmp_path / "page.html")
        assert not (tmp_path / "page.html").exists()

    @pytest.mark.parametrize("asked", [[], ["workspace"], ["workspace", "workspace"]])
    def test_it_takes_two(self, asked: list[str], released: Path, tmp_path: Path) -> None:
        with pytest.raises(SegopsError, match="expected at least two models"):
            compare(asked, released, tmp_path / "page.html")

    def test_a_page_that_cannot_be_written_is_refused_before_anything_is_scored(
        self, released: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO, "segops")
        (tmp_path / "file").write_text("kept")
        (tmp_path / "nowhere").symlink_to(tmp_path / "missing")
        for page, says in (
            (tmp_path, f"a directory; expected the HTML file .*{tmp_path}/comparison.html"),
            (tmp_path / "file" / "page.html", "Not a directory. Give --output"),
            (tmp_path / "nowhere" / "page.html", "cannot be written: .* Give --output"),
            (Path("/dev/null"), "not a plain file. Give --output"),
            (tmp_path / ("n" * 300), "cannot be written: File name too long"),
        ):
            # No such model: the page is looked at before any model is.
            with pytest.raises(SegopsError, match=says) as error:
                compare(["workspace", "models:/segops/99"], released, page)
            assert str(error.value).startswith(f"{page}: ")
        assert "Scoring" not in caplog.text
        assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "nowhere"]

    def test_a_directory_that_takes_no_files_is_refused(
        self, released: Path, tmp_path: Path
    ) -> None:
        closed = Path("/proc")  # also to root, who may write anywhere else
        if os.geteuid() != 0:
            closed = tmp_path / "closed"
            closed.mkdir(mode=0o500)
        with pytest.raises(SegopsError, match=r"deep/page\.html: cannot be written: .*--output"):
            compare(["workspace", "models:/segops/99"], released, closed / "deep" / "page.html")

    def test_a_run_whose_training_has_not_ended_has_no_model(
        self, root: Path, tmp_path: Path
    ) -> None:
        client = made.client(root)
        experiment = client.get_experiment_by_name("segops")
        assert experiment is not None
        run = client.create_run(experiment.experiment_id, run_name="train-unfinished")
        with pytest.raises(SegopsError, match=r"train-unfinished: run .* holds no segops model"):
            compare(["workspace", "train-unfinished"], root, tmp_path / "page.html")
        client.create_run(experiment.experiment_id, run_name="train-unfinished")
        with pytest.raises(SegopsError, match="several runs match") as error:
            compare(["workspace", "train-unfinished"], root, tmp_path / "page.html")
        assert run.info.run_id[:8] in str(error.value)

    def test_mlflow_out_of_reach_is_said(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises(TransientError, match=r"127\.0\.0\.1:9 does not answer"):
            compare(["workspace", "models:/segops/1"], root, tmp_path / "page.html")

    @pytest.mark.slow
    def test_the_command_leaves_out_what_one_was_trained_on(
        self, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        made.set_params(root, report={"pictures": True})
        store = PackedStore(root / paths.PACKED)
        leaky = shutil.copytree(root / paths.SEGMENTER, tmp_path / "leaky")
        described = files.read_json(leaky / "model.json")
        first = store.ids("val")[0]
        # The same pixels under other bytes, as a PNG of the photograph has them.
        pixels = {first: store.pixel_sha256(first)}
        files.write_json(leaky / "model.json", described | {"training_pixels": pixels})
        monkeypatch.chdir(root)
        monkeypatch.setattr("segops.cli.compare.console", Terminal(width=200))
        app = typer.Typer()
        app.command()(command)
        done = CliRunner().invoke(app, ["workspace", str(leaky)], catch_exceptions=False)
        assert done.exit_code == 0
        assert "7 images of val, without 1 that a model was trained on" in done.output
        assert "+0.000 to +0.000" in done.output  # the same weights
        assert "Speed and memory" in done.output
        assert "peak MiB" in done.output
        assert "reports/comparison.html" in done.output
        page = (root / "reports/comparison.html").read_text()
        assert "leaky" in page
        assert "data:image/" in page
        layer = re.compile(r'"(prediction|other0)": "([^"]+)"')
        drawn = layer.findall(page)
        assert len(drawn) == 2 * 7
        assert {one for name, one in drawn if name == "other0"} == {
            one for name, one in drawn if name == "prediction"
        }
        assert f"prediction of {leaky}" in page
        assert len(page.encode()) < 15_000_000

    @pytest.mark.slow
    def test_the_page_lists_the_images_where_the_first_is_worst(self, root: Path) -> None:
        made.set_params(root, report={"pictures": True}, evaluate={"speed": False})
        asked = ["models:/segops/1", "models:/segops@champion"]
        compare(asked, root, root / "page.html")
        scores = {}
        for one in (root / paths.COMPARED).iterdir():
            digest = files.read_json(one / "about.json")["bundle_digest"]
            scores[digest] = image_scores(pd.read_parquet(one / "counts.parquet"))
        with open_models(asked, root) as models:
            own, other = (scores[one.bundle_digest] for one in models)
        gain = {image_id: value - other[image_id] for image_id, value in own.items()}
        page = (root / "page.html").read_text()
        table = page[page.index('id="image-table"') :]
        listed = re.findall(r'data-column="image" data-value="([^"]+)"', page)
        assert listed == sorted(gain, key=lambda one: (gain[one], one))
        assert len(listed) == 8
        for column, values in (("score", own), ("score1", other), ("difference1", gain)):
            found = re.findall(rf'data-column="{column}" data-value="([^"]+)"', table)
            assert list(map(float, found)) == pytest.approx([values[one] for one in listed], 1e-5)
        assert "Every image, the one with the worst difference first. Score:" in page
        assert 'id="places-data"' in page


class TestReference:
    """The champion that the evaluation page shows beside a model."""

    def test_the_workspaces_own_champion_is_taken_from_its_files(self, root: Path) -> None:
        champion_evaluation.refresh(root)
        found = kept.read(root)
        assert found is not None
        assert (found.model, found.version) == ("segops", "2")
        assert found.evaluation == files.read_json(root / paths.EVALUATION)
        pd.testing.assert_frame_equal(found.counts, pd.read_parquet(root / paths.COUNTS))
        before = (root / paths.KEPT_CHAMPION).stat().st_ino
        champion_evaluation.refresh(root)
        assert (root / paths.KEPT_CHAMPION).stat().st_ino == before  # nothing to do
        assert opponent(root) is None  # itself

    def test_a_new_model_meets_the_champion_of_the_registry(self, root: Path) -> None:
        recorded = files.read_json(root / paths.EVALUATION)
        made.train(root, 3, 0.9)
        champion_evaluation.refresh(root)
        found = kept.read(root)
        assert found is not None
        assert found.version == "2"
        assert found.evaluation == recorded
        assert found.trained_on == frozenset(
            files.read_json(root / paths.SEGMENTER / "model.json")["training_images"].values()
        )
        met = opponent(root)
        assert met is not None
        assert met.name == "champion, version 2"
        gain = files.read_json(root / paths.EVALUATION)["miou"] - recorded["miou"]
        assert met.miou.difference == pytest.approx(gain)
        before = (root / paths.KEPT_CHAMPION).stat().st_ino
        champion_evaluation.refresh(root)
        assert (root / paths.KEPT_CHAMPION).stat().st_ino == before

    @pytest.mark.slow
    def test_the_commands_keep_it_up_to_date(
        self, root: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.chdir(root)
        made.train(root, 3, 0.9)
        life.rollback(reason="test")
        met = opponent(root)
        assert met is not None
        assert met.name == "champion, version 1"
        shutil.rmtree(root / paths.KEPT_CHAMPION)
        life.record(follow=None)
        assert opponent(root) is not None
        life.promote()
        found = kept.read(root)
        assert found is not None
        assert found.version == "3"

    def test_on_other_val_data_there_is_no_champion_until_it_is_scored_on_them(
        self, root: Path
    ) -> None:
        champion = bundle_digest(root / paths.SEGMENTER)
        champion_evaluation.refresh(root)
        made.use_data(root, seed=4)
        champion_evaluation.refresh(root)
        assert kept.read(root) is None
        made.train(root, 3, 0.9)
        val_hash = PackedStore(root / paths.PACKED).split_hash("val")
        # The gate scores the champion anew and keeps the counts here.
        judged = kept_counts(root, champion, val_hash)
        judged.parent.mkdir(parents=True)
        counts = pd.read_parquet(root / paths.COUNTS)
        counts.to_parquet(judged)
        champion_evaluation.refresh(root)
        found = kept.read(root)
        assert found is not None
        assert (found.version, found.val_hash) == ("2", val_hash)
        assert found.evaluation["miou"] == pytest.approx(
            miou_from_counts(counts, true_classes(counts))
        )
        assert "boundary" not in found.evaluation
        assert opponent(root) is not None

    def test_an_evaluation_that_was_altered_in_its_run_is_not_shown(
        self, root: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        made.train(root, 3, 0.9)
        made.client(root).set_tag(run_ids(root)["2"], EVALUATED_AS, "0" * 64)
        champion_evaluation.refresh(root)
        assert kept.read(root) is None
        assert "the evaluation in its run was altered" in caplog.text

    def test_a_registry_that_does_not_answer_changes_nothing(
        self, root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        champion_evaluation.refresh(root)
        monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        caplog.clear()
        caplog.set_level(logging.INFO, "segops")
        champion_evaluation.refresh(root)
        assert [one.getMessage()[:20] for one in caplog.records] == ["The evaluation page "]
        assert kept.read(root) is not None

    def test_before_the_first_record_nothing_is_made(self, tmp_path: Path) -> None:
        root = made.make(tmp_path / "checkout", database=False)
        champion_evaluation.refresh(root)
        assert not (root / "mlflow.db").exists()
        assert not (root / paths.KEPT_CHAMPION).exists()


def opponent(root: Path) -> Opponent | None:
    """The opponent of the workspace's model, as the evaluate stage asks for it."""
    described = files.read_json(root / paths.SEGMENTER / "model.json")
    evaluation = files.read_json(root / paths.EVALUATION)
    return kept.opponent(
        root,
        pd.read_parquet(root / paths.COUNTS),
        evaluation["val_hash"],
        described["class_names"],
        evaluation["bundle_digest"],
        described["training_images"].values(),
        EvaluateParams(bootstrap_samples=100),
    )

"""`segops monitor`: a real registry, real bundles, and images and logs of a known kind."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterable
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from PIL import Image
from prefect.client.schemas.objects import FlowRun
from typer.testing import CliRunner, Result

from flows.cause import started_by
from segops import paths
from segops.cli import app
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.operate import turns
from segops.operate.drift import KEPT, MOST_KEPT, PAGE
from segops.params.file import load_params
from segops.predict.folder import predict_folder
from segops.predict.log import log_files
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.masks import write_mask
from segops.voc.layout import IMAGES, MASKS, Layout, open_layout
from tests.integration.conftest import dvc
from tests.support import registry_workspace as rw
from tests.support.drifting import Pixels, night, ordinary
from tests.support.prefect_server import Serving, serving
from tests.support.streets import street

TRAIN, VAL = 12, 24


def fill(folder: Path, images: Iterable[Pixels]) -> Path:
    """Write images as JPEG files."""
    folder.mkdir(parents=True)
    for number, one in enumerate(images):
        Image.fromarray(one).save(folder / f"{number:02}.jpg", quality=95)
    return folder


def put_data(root: Path, first: int = 0) -> None:
    """Put a data set of ordinary pictures in place, packed and validated."""
    voc = root / "data/voc"
    for target in (voc, root / paths.PACKED):
        shutil.rmtree(target, ignore_errors=True)
    fill(voc / IMAGES, (ordinary(first + seed) for seed in range(TRAIN + VAL)))
    (voc / MASKS).mkdir()
    names = [path.stem for path in sorted((voc / IMAGES).iterdir())]
    for number, name in enumerate(names):
        write_mask(voc / MASKS / f"{name}.png", street(number, 40, 56)[1])
    layout = Layout(voc)
    layout.write_list("train", names[:TRAIN])
    layout.write_list("val", names[TRAIN:])
    pack(open_layout(voc), root / paths.PACKED, VOC_CLASSES)
    rw.pass_validation(root)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a champion; shared, for copies."""
    root = rw.make(tmp_path_factory.mktemp("monitor") / "root")
    put_data(root)
    assert rw.release(root, seed=1, quality=0.8).verdict == "promoted"
    return root


@pytest.fixture
def root(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    target = tmp_path / "root"
    shutil.copytree(made, target, symlinks=True)
    monkeypatch.chdir(target)
    return target


def monitor(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["monitor", *map(str, arguments), "--device", "cpu"])


def test_images_and_logs_are_compared_with_the_champion(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alike = fill(tmp_path / "alike", (ordinary(500 + seed) for seed in range(30)))
    (alike / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 torn")
    (root / KEPT).mkdir()
    for number in range(MOST_KEPT):
        old = root / KEPT / f"old{number}.jsonl"
        old.touch()
        os.utime(old, (number, number))
    done = monitor(alike)
    assert done.exit_code == 0, (done.output, done.exception)
    assert "No drift found in 30 images." in done.output
    assert "1 image could not be read" in done.output
    page = (root / PAGE).read_text()
    assert page.count("data:image/jpeg") == 24
    assert "12 images of train and 24 of val" in page
    assert "version 1 (the champion)" in page
    [kept] = (path for path in (root / KEPT).iterdir() if "old" not in path.name)
    assert len(list((root / KEPT).iterdir())) == MOST_KEPT
    assert not (root / KEPT / "old0.jsonl").exists()
    assert len(kept.read_bytes().splitlines()) == TRAIN + VAL

    # Once the reference is kept, the data need not be here.
    shutil.rmtree(root / "data")
    dark = fill(tmp_path / "dark", (night(ordinary(600 + seed)) for seed in range(30)))
    rw.set_params(root, report={"pictures": False})
    done = monitor(dark, "--json")
    assert done.exit_code == 3
    found = json.loads(done.stdout)
    assert found["drifted"]
    assert "colour and sharpness" in found["sentence"]
    tests = {one["name"]: one for one in found["drift"]["tests"]}
    assert tests["colour and sharpness"]["changes"][0]["p"] <= 0.01
    assert "data:image/jpeg" not in (root / PAGE).read_text()

    bundle = root / paths.SEGMENTER
    for source, status in ((alike, 0), (dark, 3)):
        log = tmp_path / f"log {source.name}"
        predict_folder(source, bundle, tmp_path / f"out {source.name}", observations=log)
        done = monitor(log, "--days", 1)
        assert done.exit_code == status, (done.output, done.exception)
    assert len(log_files(log)) == 1
    assert monitor(log, "--days", 0).exit_code == 1

    # What is predicted waits for the card; a log needs none once the reference is kept.
    asked: list[str] = []
    monkeypatch.setattr(turns, "card", lambda device: nullcontext(asked.append(device)))
    for source in (log, alike):
        CliRunner().invoke(app, ["monitor", str(source), "--days", "0"])
    assert asked == ["cpu", "auto"]


def test_what_cannot_be_compared_is_refused(root: Path, tmp_path: Path) -> None:
    put_data(root, first=5000)
    many = fill(tmp_path / "many", (ordinary(seed) for seed in range(30)))
    said = str(monitor(many, "--model", root / paths.SEGMENTER).exception)
    assert "does not hold the images that the model was trained on" in said
    with pytest.raises(SegopsError, match="DVC"):
        raise monitor(many).exception  # type: ignore[misc]
    put_data(root)
    few = fill(tmp_path / "few", (ordinary(seed) for seed in range(3)))
    done = monitor(few)
    assert isinstance(done.exception, SegopsError)
    assert str(done.exception) == (
        f"{few}: 3 images. A comparison takes at least 20 (monitor.min_images). Gather more."
    )
    assert "no such file" in str(monitor(tmp_path / "none").exception)
    (tmp_path / "other").mkdir()
    assert "0 images. A comparison takes" in str(monitor(tmp_path / "other").exception)
    (tmp_path / "other/notes.txt").write_text("none")
    assert "holds no image" in str(monitor(tmp_path / "other").exception)
    assert not (root / PAGE).exists()


@pytest.mark.slow
def test_a_drift_that_the_flow_finds_starts_the_schedule(root: Path, tmp_path: Path) -> None:
    from flows.monitor import monitor as monitoring
    from flows.retrain import retrain
    from segops.operate import automations, schedules

    fill(root / "arrived", (night(ordinary(600 + seed)) for seed in range(30)))
    rw.set_params(root, monitor={"path": "arrived", "retrain": "weekly"})
    with serving(tmp_path / "prefect") as server, schedules.client() as client:
        settings = load_params(root)
        automations.put_drift(client, settings)  # there is no such schedule yet
        assert server.automations() == []
        scheduled: Any = retrain.to_deployment(name="weekly")
        deployment = scheduled.apply()
        for _ in range(2):
            automations.put_drift(client, settings)
        [automation] = server.automations()
        assert automation["name"] == "segops: retrain segops on drift"
        state: Any = monitoring(return_state=True)
        assert (state.name, state.message) == ("Drift", state.result().sentence)
        assert (root / PAGE).is_file()
        end = time.monotonic() + 60
        while not (runs := _runs_of(server, deployment)) and time.monotonic() < end:
            time.sleep(0.5)
        [run] = runs
        assert started_by(FlowRun.model_validate(run), "weekly") == (
            f"automation {automation['name']} by weekly, prefect flow run {run['id']}"
        )
        [page] = [one["data"] for one in server.read("artifacts") if one["key"] == "drift"]
        assert "| colour and sharpness | **drift** |" in page
        assert "brightness" in page
        rw.set_params(root, monitor={"min_images": 31})
        state = monitoring(return_state=True)
        assert (state.type.value, state.name) == ("COMPLETED", "Too few images")
        assert "30 images. A comparison takes at least 31" in state.message
        rw.set_params(root, monitor={"retrain": None})
        automations.put_drift(client, load_params(root))
        assert server.automations() == []


def _runs_of(server: Serving, deployment: UUID) -> list[dict[str, Any]]:
    return [one for one in server.read("flow_runs") if one["deployment_id"] == str(deployment)]


@pytest.mark.slow
def test_the_data_of_a_version_come_out_of_dvcs_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = rw.make(tmp_path / "root")
    put_data(root)
    (root / "data/voc.dvc").unlink()
    with (root / ".gitignore").open("a") as ignored:
        ignored.write("!/.dvc\n!/data\n!/dvc.lock\n")
    assert dvc(root, "init").returncode == 0
    tracked = dvc(root, "add", "data/voc")
    assert tracked.returncode == 0, tracked.stderr
    assert rw.release(root, seed=1, quality=0.8).verdict == "promoted"
    was = PackedStore(root / paths.PACKED).data_hash
    put_data(root, first=5000)
    alike = fill(tmp_path / "alike", (ordinary(500 + seed) for seed in range(30)))
    monkeypatch.chdir(root)
    done = monitor(alike, "--json")
    assert done.exit_code == 0, (done.output, done.exception)
    assert json.loads(done.stdout)["data_hash"] == was

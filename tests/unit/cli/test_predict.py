"""The command `predict`: what a person asks for and is told, with no checkout around."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from segops.cli import app
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import film, make_bundle, save, shown


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for seed in range(2):
        save(tmp_path / f"photos/{seed}.jpg", seed)
    return tmp_path / "photos"


def predict(photos: Path, bundle: Path, *options: str) -> Result:
    return CliRunner().invoke(app, ["predict", str(photos), "--model", str(bundle), *options])


def test_everything_can_be_asked_for(
    photos: Path, bundle: Path, caplog: pytest.LogCaptureFixture
) -> None:
    options = ("--probabilities", "--explain", "cat", "--no-overlay", "--device", "cpu")
    with caplog.at_level(logging.INFO, "segops"):
        done = predict(photos, bundle, *options)
    assert "0 done before, 2 done now, in predictions; " in done.output
    assert "probabilities: 0.00 GiB in 2 file(s)" in caplog.text
    kinds = (".png", ".explain.jpg", ".probabilities.npy")
    expected = {"predictions.csv", *(f"{seed}{kind}" for seed in range(2) for kind in kinds)}
    assert shown(Path("predictions")) == expected
    for further, said in (((), "2 done before, 0 done now"), (("--overwrite",), "0 done before")):
        again = predict(photos, bundle, *options, *further)
        assert again.exit_code == 0
        assert said in again.output


def test_a_bundle_is_used_without_mlflow(photos: Path, bundle: Path) -> None:
    program = (
        "import sys; from segops.cli import app\n"
        "app(sys.argv[1:], standalone_mode=False); print('mlflow' in sys.modules)"
    )
    arguments = ["predict", str(photos), "--model", str(bundle)]
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=True
    )
    assert "2 done now" in done.stdout
    assert done.stdout.splitlines()[-1] == "False"


def test_what_failed_is_listed_after_the_rest(photos: Path, bundle: Path) -> None:
    (photos / "broken.jpg").write_bytes(b"no image")
    done = predict(photos, bundle, "--output", "out")
    assert "0 done before, 2 done now, in out; " in done.output
    assert isinstance(done.exception, SegopsError)  # which `segops` says, with exit status 1
    assert "1 image(s) could not be done:\n  " in str(done.exception)
    assert "broken.jpg: not decodable" in str(done.exception)
    assert "predictions.csv" in shown(Path("out"))


def test_a_video_and_a_list_can_be_asked_for(photos: Path, bundle: Path) -> None:
    (photos / "two.txt").write_text("0.jpg\n1.jpg\n")
    done = predict(photos / "two.txt", bundle, "--shard-size", "1", "--no-overlay")
    assert "0 done before, 2 done now, in predictions; " in done.output
    assert shown(Path("predictions")) == {"predictions.csv", "0.png", "1.png"}
    film(photos / "clip.mp4")
    done = predict(photos / "clip.mp4", bundle, "--output", "out", "--smooth", "3")
    assert "1 done now, in out; shares and confidence in out/*.frames.csv." in done.output
    assert shown(Path("out")) == {"clip.avi", "clip.overlay.mp4", "clip.frames.csv"}
    assert predict(photos, bundle, "--shard-size", "0").exit_code == 2
    assert predict(photos, bundle, "--smooth", "0").exit_code == 2


def test_mistakes_are_named_before_any_work(photos: Path, bundle: Path) -> None:
    wrong = predict(photos, bundle, "--explain", "tiger")
    assert isinstance(wrong.exception, SegopsError)
    assert "Expected auto or one of background, cat, dog" in str(wrong.exception)
    wrong = predict(photos, bundle, "--device", "tpu")
    assert wrong.exit_code == 2
    assert "'tpu' is not one of 'auto', 'cpu', 'cuda'" in " ".join(
        wrong.output.replace("│", " ").split()
    )
    wrong = predict(photos, photos)
    assert isinstance(wrong.exception, SegopsError)
    assert "no bundle there" in str(wrong.exception)
    assert not Path("predictions").exists()

"""Prediction of a directory goes on where it stopped, however it stopped."""

from __future__ import annotations

import json
import os
import resource
import signal
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segops.predict import folder
from segops.predict.bundle import load_bundle
from segops.predict.folder import predict_folder
from segops.predict.journal import JOURNAL, Journal
from segops.predict.outputs import Options
from segops.runtime.images import decode_consumer_image
from segops.runtime.masks import read_mask
from tests.support.folder_runs import (
    contents,
    finished_image,
    make_bundle,
    save,
    save_photos,
    shown,
    start,
    table,
)

COUNT = 6
EVERYTHING = Options(probabilities=True, explain="auto")


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos", COUNT)


def written(output: Path) -> dict[Path, int]:
    """When every file was written that a person sees, but the table."""
    return {
        path: path.stat().st_mtime_ns
        for path in output.rglob("*.*")
        if path.is_file() and not path.name.startswith("pred")
    }


def test_what_is_done_is_not_done_again(photos: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict_folder(photos, bundle, output, EVERYTHING)
    files, times = contents(output), written(output)
    assert len(times) == 4 * COUNT
    for path in photos.rglob("*.png"):
        os.utime(path, (0, 0))  # as a checkout or a copy does
    moved = photos.rename(tmp_path / "moved")
    outcome = predict_folder(moved, bundle, output, EVERYTHING)
    assert (outcome.now, outcome.before) == (0, COUNT)
    assert written(output) == times
    # What asks for less is done too, and takes nothing away.
    outcome = predict_folder(moved, bundle, output, Options(overlay=False))
    assert (outcome.now, outcome.before) == (0, COUNT)
    assert contents(output) == files
    outcome = predict_folder(moved, bundle, output, EVERYTHING, overwrite=True)
    assert (outcome.now, outcome.before) == (COUNT, 0)
    assert contents(output) == files
    assert not set(written(output).values()) & set(times.values())


def test_a_changed_image_is_done_again_and_nothing_stale_stays(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    output, changed = tmp_path / "out", photos / "0/2.png"
    predict_folder(photos, bundle, output, EVERYTHING)
    before = changed.stat()
    save(changed, 99, height=32)
    os.utime(changed, ns=(before.st_atime_ns, before.st_mtime_ns))
    outcome = predict_folder(photos, bundle, output, Options(overlay=False))
    assert (outcome.now, outcome.before) == (1, COUNT - 1)
    assert {name for name in shown(output) if name.startswith("0/2")} == {"0/2.png"}
    expected = load_bundle(bundle).predict(decode_consumer_image(changed.read_bytes(), "changed"))
    np.testing.assert_array_equal(read_mask(output / "0/2.png"), expected.mask)
    assert table(output)["0/2.png"]["confidence"] == pytest.approx(expected.confidence, rel=5e-6)


def test_another_model_or_way_of_predicting_does_all_again(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    predict_folder(photos, bundle, output)
    for other in (
        make_bundle(tmp_path / "other", seed=1),
        make_bundle(tmp_path / "flipped", seed=1, predict={"flip": True}),
    ):
        before = contents(output)
        assert predict_folder(photos, other, output).now == COUNT
        assert predict_folder(photos, other, output).before == COUNT
        assert contents(output) != before
    predict_folder(photos, bundle, output)
    predict_folder(photos, bundle, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")


def test_more_outputs_are_added(photos: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict_folder(photos, bundle, output, Options(overlay=False))
    for options in (Options(), EVERYTHING, Options(explain="cat", probabilities=True)):
        assert predict_folder(photos, bundle, output, options).now == COUNT
        assert predict_folder(photos, bundle, output, options).now == 0
    assert len(written(output)) == 4 * COUNT


def test_a_file_that_is_not_whole_is_made_again(photos: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict_folder(photos, bundle, output, EVERYTHING)
    before = contents(output)
    (output / "0/0.png").unlink()
    os.truncate(output / "1/1.overlay.jpg", 100)
    os.truncate(output / "0/2.probabilities.npy", 0)
    content = bytearray((output / "1/3.explain.jpg").read_bytes())
    content[-10] ^= 1
    (output / "1/3.explain.jpg").write_bytes(content)
    (output / "predictions.csv").unlink()
    outcome = predict_folder(photos, bundle, output, EVERYTHING)
    assert (outcome.now, outcome.before) == (4, COUNT - 4)
    assert contents(output) == before


def test_what_a_killed_run_leaves_is_cleared(photos: Path, bundle: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    predict_folder(photos, bundle, output)
    before = contents(output)
    lines = (output / JOURNAL).read_bytes().splitlines(keepends=True)
    entry = json.loads(lines[3])
    text = json.dumps(entry | {"pixels": "12"}).encode() + b"\n"
    del entry["format"]
    bare = json.dumps(entry).encode() + b"\n"
    strange = b'{"format": 99}\n', b"no JSON\n", b"[]\n", text, bare
    (output / JOURNAL).write_bytes(b"".join([lines[0], *strange, lines[1], lines[2][:40]]))
    for name in (
        "0/.0.png.abcd_123.png", "1/.1.overlay.jpg.00000000.jpg", ".predictions.csv.abcdefgh.csv",
    ):  # fmt: skip
        (output / name).write_bytes(b"half")
    mine = output / "0/.notes.png"
    mine.write_text("")
    outcome = predict_folder(photos, bundle, output)
    assert (outcome.now, outcome.before) == (COUNT - 2, 2)
    mine.unlink()
    assert contents(output) == before


def test_images_of_another_run_into_the_same_place_stay_done(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    for name in ("0", "1", "0"):
        outcome = predict_folder(photos / name, bundle, output)
        assert len(table(output)) == COUNT // 2
    assert (outcome.now, outcome.before) == (0, COUNT // 2)
    (output / "1.png").unlink()
    predict_folder(photos / "0", bundle, output)
    assert len((output / JOURNAL).read_text().splitlines()) == COUNT - 1


def test_the_number_of_threads_changes_no_byte(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for threads in (1, 8):
        monkeypatch.setattr(folder, "THREADS", threads)
        predict_folder(photos, bundle, tmp_path / str(threads), EVERYTHING)
    assert contents(tmp_path / "1") == contents(tmp_path / "8")


def die_at_a_sync(photos: Path, bundle: Path, output: Path) -> None:
    """Predict, until a signal that nothing can catch comes while files are being written."""
    synced, sync = [], os.fsync

    def dying(fd: Any) -> None:
        synced.append(fd)
        # Not a directory or the journal: then no file might be half-written.
        name = Path(f"/proc/self/fd/{fd}").readlink().name
        if len(synced) > 30 and name.startswith(".") and name.endswith((".png", ".jpg")):
            os.kill(os.getpid(), signal.SIGKILL)
        sync(fd)

    os.fsync = dying
    predict_folder(photos, bundle, output)


def test_a_killed_run_and_its_sequel_end_as_one_that_was_not(
    bundle: Path, tmp_path: Path, one_thread: None
) -> None:
    count, output = 24, tmp_path / "out"
    for seed in range(count):
        save(tmp_path / f"photos/{seed % 3}/{seed}.jpg", seed)
    (tmp_path / "photos/broken.jpg").write_bytes(b"no image")
    child = start(die_at_a_sync, tmp_path / "photos", bundle, output)
    child.join(120)
    assert child.exitcode == -signal.SIGKILL
    left = [path.name for path in output.rglob("*") if path.is_file()]
    assert any(name.startswith(".") and name.endswith((".png", ".jpg")) for name in left)
    assert "predictions.csv" not in left
    done = (output / JOURNAL).read_bytes().count(b"\n")
    assert 0 < done < count
    for path in output.rglob("[!.]*.png"):
        read_mask(path)  # whole, done or not
    outcome = predict_folder(tmp_path / "photos", bundle, output)
    assert (outcome.before, outcome.now, len(outcome.failed)) == (done, count - done, 1)
    predict_folder(tmp_path / "photos", bundle, tmp_path / "whole")
    assert contents(output) == contents(tmp_path / "whole")


def test_an_interrupted_run_ends_its_threads_before_the_journal(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out"

    def interrupted(results: Iterator[bool | str], *_: Any) -> Iterator[bool | str]:
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(folder, "track", interrupted)
    with pytest.raises(KeyboardInterrupt) as raised:
        predict_folder(photos, bundle, output)
    assert raised.tb is not None  # it holds what was not closed
    assert [one.name for one in threading.enumerate() if one.name.startswith("segops")] == []
    masks = {path.relative_to(output).as_posix() for path in output.rglob("[!.]*.png")}
    lines = (output / JOURNAL).read_text().splitlines()
    assert masks == {json.loads(line)["mask"] for line in lines} != set()


def test_a_line_that_the_disk_takes_in_part_is_taken_back(tmp_path: Path) -> None:
    entry = finished_image((2, 1), 0.5, (1, 1))
    other = replace(entry, mask="b.png")
    journal = Journal(tmp_path)
    journal.add(entry)
    path = tmp_path / JOURNAL
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, hard))
    try:
        with pytest.raises(OSError, match="No space left"):
            journal.add(other)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    journal.add(other)
    journal.close()
    again = Journal(tmp_path)
    assert (again.get("a.png"), again.get("b.png")) == (entry, other)
    again.close()

"""A prediction of many images is shared among processes, and a killed one's work is done again."""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from segops.predict import folder, leases, outputs, shards
from segops.predict.folder import predict_folder
from segops.predict.journal import JOURNAL, SHARDS, outputs_in
from segops.predict.outputs import Options
from segops.predict.shards import Round
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import (
    awaited,
    contents,
    leave,
    save,
    start,
    table,
)

COUNT, SIZE = 23, 4
SHARD_COUNT = 6


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images") / "photos"
    for seed in range(COUNT - 1):
        save(folder / f"{seed % 3}/{seed}.png", seed, height=30 + seed)
    (folder / "1/broken.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture(scope="module")
def whole(photos: Path, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What one process writes that nothing disturbs."""
    output = tmp_path_factory.mktemp("whole") / "out"
    outcome = predict_folder(photos, bundle, output)
    assert (outcome.now, outcome.failures) == (COUNT - 1, 1)
    return contents(output)


def share(photos: Path, bundle: Path, output: Path) -> None:
    predict_folder(photos, bundle, output, shard_size=SIZE)


def share_slowly(photos: Path, bundle: Path, output: Path) -> None:
    """Share a prediction, and take so long for each image that others get shards too."""
    write = outputs.write

    def slow(*arguments: object) -> object:
        time.sleep(0.2)
        return write(*arguments)  # type: ignore[arg-type]

    outputs.write = slow  # type: ignore[assignment]
    share(photos, bundle, output)


def die_in_the_end(at: str, photos: Path, bundle: Path, output: Path) -> None:
    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    if at == "journal":
        outputs.remove_temporary = die  # type: ignore[assignment]
    else:
        shards._retire = die
    share(photos, bundle, output)


def test_one_process_writes_the_same_in_shards_of_any_size(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path
) -> None:
    for size in (1, 7, COUNT):
        output = tmp_path / str(size)
        outcome = predict_folder(photos, bundle, output, shard_size=size)
        assert (outcome.now, outcome.before, outcome.failures) == (COUNT - 1, 0, 1)
        assert contents(output) == whole
        # Each shard finds what is done by its part of the journal.
        again = predict_folder(photos, bundle, output, shard_size=size + 1)
        assert (again.now, again.before, again.failures) == (0, COUNT - 1, 1)
        assert contents(output) == whole


def test_two_processes_started_apart_write_what_one_writes(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path, one_thread: None
) -> None:
    output = tmp_path / "out"
    first = start(share_slowly, photos, bundle, output)
    awaited(lambda: any((output / SHARDS).glob("shard-*.lease")))
    outcome = predict_folder(photos, bundle, output, shard_size=SIZE)
    first.join(60)
    assert first.exitcode == 0
    assert 0 < outcome.now < COUNT - 1
    assert contents(output) == whole


def test_a_machine_that_finds_the_images_elsewhere_shares_them(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path, one_thread: None
) -> None:
    elsewhere, others, output = (tmp_path / name for name in ("mounted", "others", "out"))
    shutil.copytree(photos, elsewhere)
    shutil.copytree(photos, others)
    save(others / "0/0.png", seed=99)  # another image of the same name
    first = start(share_slowly, photos, bundle, output)
    awaited(lambda: any((output / SHARDS).glob("shard-*.lease")))
    with pytest.raises(SegopsError, match="a prediction of other images, with other options"):
        predict_folder(others, bundle, output, shard_size=SIZE)
    outcome = predict_folder(elsewhere, bundle, output, shard_size=SIZE)
    first.join(60)
    assert first.exitcode == 0
    assert 0 < outcome.now < COUNT - 1
    assert contents(output) == whole


def test_what_a_killed_process_had_is_done_again(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path, one_thread: None
) -> None:
    output = tmp_path / "out"
    killed = start(share_slowly, photos, bundle, output)
    other = start(share_slowly, photos, bundle, output)
    awaited(lambda: any((output / SHARDS).glob("shard-*.results")))
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    assert not (output / "predictions.csv").exists()
    other.join(60)
    assert other.exitcode == 0
    assert contents(output) == whole


def test_a_run_whose_processes_were_all_killed_goes_on(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path, one_thread: None
) -> None:
    output = tmp_path / "out"
    for results in (1, 3):
        killed = start(share_slowly, photos, bundle, output)
        awaited(lambda count=results: len(list((output / SHARDS).glob("shard-*.results"))) >= count)
        assert killed.pid is not None
        os.kill(killed.pid, signal.SIGKILL)
        killed.join(60)
    # Outputs that are not yet in the directory's journal are known as outputs all the same.
    masks = set(output.rglob("[!.]*.png"))
    assert len(masks & outputs_in(output)) >= 3 * SIZE - 1
    outcome = predict_folder(photos, bundle, output, shard_size=SIZE)
    assert outcome.before >= 3 * SIZE - 1
    assert (outcome.now + outcome.before, outcome.failures) == (COUNT - 1, 1)
    assert contents(output) == whole


def test_a_killed_run_of_other_images_gives_way_and_keeps_what_it_did(
    photos: Path, bundle: Path, tmp_path: Path, one_thread: None
) -> None:
    output = tmp_path / "out"
    killed = start(share_slowly, photos, bundle, output)
    awaited(lambda: any((output / SHARDS).glob("shard-*.results")))
    assert killed.pid is not None
    with pytest.raises(SegopsError, match="a prediction of other images, with other options"):
        predict_folder(photos, bundle, output, Options(overlay=False), shard_size=SIZE)
    os.kill(killed.pid, signal.SIGKILL)
    killed.join(60)
    done = len({one for one in outputs_in(output) if one.name.endswith(".overlay.jpg")})
    outcome = predict_folder(photos, bundle, output, Options(overlay=False))
    assert (outcome.before, outcome.now) == (done, COUNT - 1 - done)
    assert done >= SIZE - 1


def test_the_table_is_made_again_after_a_kill_in_its_making(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path, one_thread: None
) -> None:
    output = tmp_path / "out"
    for at in ("journal", "removal"):
        process = start(die_in_the_end, at, photos, bundle, output)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert (output / SHARDS).is_dir()
    outcome = predict_folder(photos, bundle, output, shard_size=SIZE)
    assert (outcome.now, outcome.before, outcome.failures) == (0, COUNT - 1, 1)
    assert contents(output) == whole


def test_a_shard_whose_lease_is_lost_is_left_to_the_other_process(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    output, taken = tmp_path / "out", list[Path]()
    write = outputs.write

    def overtaken(mask: Path, *arguments: object) -> object:
        if not taken:
            (lease,) = (output / SHARDS).glob("shard-*.lease")
            taken.append(lease)
            lease.unlink()
            leave(lease, "elsewhere")
        return write(mask, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(outputs, "write", overtaken)
    outcome = predict_folder(photos, bundle, output, shard_size=SIZE)
    assert "another process took it over" in caplog.text
    assert (outcome.now + outcome.before, outcome.failures) == (COUNT - 1, 1)
    assert contents(output) == whole


def test_a_run_on_another_machine_is_waited_for_before_it_is_replaced(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.5)
    output = tmp_path / "out"
    with Round(output, {"of": "other images"}, 2):
        pass
    leave(output / SHARDS / "shard-1.lease", "elsewhere")
    began = time.monotonic()
    outcome = predict_folder(photos, bundle, output)
    assert time.monotonic() - began >= 0.5
    assert outcome.now == COUNT - 1


def test_who_wakes_up_replaces_no_table_and_removes_nothing(
    photos: Path, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output, journal = tmp_path / "out", tmp_path / "out" / JOURNAL
    predict_folder(photos, bundle, output)
    half = output / ".predictions.csv.abcdefgh.csv"

    class Paused(Round):
        def results(self, shard: int) -> Iterator[shards.Result]:
            yield from super().results(shard)
            if not half.exists():  # the first call: another process takes over what this one does
                (self._directory / "table.lease").unlink()
                for path in (output / "predictions.csv", journal, half):
                    path.write_bytes(b"of a later run")
                leave(self._directory / "table.lease", "elsewhere")
                self._directory.rename(self._directory.with_name("gone"))

    monkeypatch.setattr(folder, "Round", Paused)
    monkeypatch.setattr(shards, "POLL_SECONDS", 0.01)
    with pytest.raises(SegopsError, match="another prediction began there"):
        predict_folder(photos, bundle, output)
    for path in (output / "predictions.csv", journal, half):
        assert path.read_bytes() == b"of a later run"


def test_a_resumed_run_predicts_what_changed_meanwhile(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos, output = tmp_path / "photos", tmp_path / "out"
    for seed in range(6):
        save(photos / f"{seed}.png", seed)
    (photos / "1.png").write_bytes(b"broken")
    write = outputs.write

    def interrupted(mask: Path, *arguments: object) -> object:
        if mask.name == "4.png":
            raise KeyboardInterrupt
        return write(mask, *arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(outputs, "write", interrupted)
        predict_folder(photos, bundle, output, shard_size=2)
    assert len(list((output / SHARDS).glob("*.results"))) == 2
    save(photos / "0.png", 99)
    save(photos / "1.png", 1)
    (output / "2.png").unlink()
    outcome = predict_folder(photos, bundle, output, shard_size=2)
    assert (outcome.now + outcome.before, outcome.failures) == (6, 0)
    assert 1 <= outcome.before <= 2  # 3.png, and 5.png if it was under way
    predict_folder(photos, bundle, tmp_path / "fresh")
    assert contents(output) == contents(tmp_path / "fresh")


def test_what_was_under_way_before_a_pause_is_not_written(
    photos: Path, bundle: Path, whole: dict[str, str], tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 1)
    output, taken, late = tmp_path / "out", list[Path](), list[Path]()
    predict, write = folder._Run._predict, outputs.write

    def overtaken(self: folder._Run, image: NDArray[np.uint8]) -> object:
        if not taken:
            (lease,) = (output / SHARDS).glob("shard-*.lease")
            taken.append(lease)
            lease.unlink()
            leave(lease, "elsewhere")
        return predict(self, image)

    def spied(mask: Path, *arguments: object) -> object:
        if taken and taken[0].exists() and b"elsewhere" in taken[0].read_bytes():
            late.append(mask)
        return write(mask, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(folder._Run, "_predict", overtaken)
    monkeypatch.setattr(outputs, "write", spied)
    predict_folder(photos, bundle, output)
    assert taken
    assert late == []
    assert contents(output) == whole


def test_the_table_has_the_rows_of_all_shards_in_order(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    predict_folder(photos, bundle, tmp_path / "out", shard_size=5)
    rows = table(tmp_path / "out")
    assert list(rows) == sorted(rows)
    assert len(rows) == COUNT
    assert "broken.jpg" in rows["1/broken.jpg"]["error"]

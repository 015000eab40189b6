"""Videos: mask video, overlay and table by frame, resumed to the byte, and damaged files named."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from PIL import Image

from segops.predict import leases, video, video_file
from segops.predict.bundle import load_bundle
from segops.predict.folder import predict_folder
from segops.predict.journal import SHARDS, VIDEOS
from segops.predict.outputs import Options
from segops.predict.video_file import open_video, writing
from segops.report.overlay import overlay
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import (
    CODECS,
    NAMES,
    contents,
    film,
    make_bundle,
    picture,
    save,
    shown,
    start,
    table,
)

COUNT = 11


def frames(path: Path) -> list[NDArray[np.uint8]]:
    """All frames of a video, RGB."""
    capture = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)
    found = []
    while (read := capture.read())[0]:
        found.append(np.ascontiguousarray(read[1][..., ::-1]))
    return found


def masks(path: Path) -> list[NDArray[np.uint8]]:
    """The masks of a mask video."""
    found = frames(path)
    assert all((one == one[..., :1]).all() for one in found)
    return [one[..., 0] for one in found]


@pytest.mark.parametrize("suffix", CODECS)
def test_a_video_gets_what_its_frames_get(suffix: str, bundle: Path, tmp_path: Path) -> None:
    path = film(tmp_path / f"clip{suffix}")
    outcome = predict_folder(path, bundle, tmp_path / "out")
    assert (outcome.now, outcome.before, outcome.failed) == (1, 0, [])
    assert shown(tmp_path / "out") == {"clip.avi", "clip.overlay.mp4", "clip.frames.csv"}
    predictor, given = load_bundle(bundle), frames(path)
    expected = [predictor.predict(frame) for frame in given]
    found = masks(tmp_path / "out/clip.avi")
    assert len(found) == COUNT
    for mask, prediction in zip(found, expected, strict=True):
        np.testing.assert_array_equal(mask, prediction.mask)
    assert len(np.unique(found)) > 1
    drawn = frames(tmp_path / "out/clip.overlay.mp4")
    assert len(drawn) == COUNT
    for one, frame, prediction in zip(drawn, given, expected, strict=True):
        wanted = overlay(frame, prediction.mask).astype(int)
        assert np.abs(one - wanted).mean() < 12  # MPEG-4 loses some of it
        assert np.abs(one - wanted).mean() < np.abs(one - frame.astype(int)).mean()
    rows = pd.read_csv(tmp_path / "out/clip.frames.csv")
    assert list(rows.columns) == ["frame", "seconds", "confidence", *NAMES]
    assert rows["frame"].tolist() == list(range(COUNT))
    np.testing.assert_allclose(rows["seconds"], np.arange(COUNT) / 25, atol=2e-3)
    np.testing.assert_allclose(rows["confidence"], [one.confidence for one in expected], rtol=1e-5)
    shares = [np.bincount(one.mask.ravel(), minlength=3) / one.mask.size for one in expected]
    np.testing.assert_allclose(rows[list(NAMES)], shares, rtol=1e-5)


def test_what_is_done_is_not_done_again(bundle: Path, tmp_path: Path) -> None:
    path, output = film(tmp_path / "clip.mp4"), tmp_path / "out"
    predict_folder(path, bundle, output)
    before = contents(output)
    assert predict_folder(path, bundle, output).before == 1
    assert predict_folder(path, bundle, output, Options(overlay=False)).before == 1
    assert contents(output) == before
    os.truncate(output / "clip.overlay.mp4", 100)
    assert predict_folder(path, bundle, output).now == 1
    assert contents(output) == before
    film(path, COUNT - 1)
    assert predict_folder(path, bundle, output, Options(overlay=False)).now == 1
    assert shown(output) == {"clip.avi", "clip.frames.csv"}
    assert len(masks(output / "clip.avi")) == COUNT - 1


def test_odd_sizes_get_a_border_of_void(tmp_path: Path) -> None:
    with writing(tmp_path / "odd.avi", "FFV1", 25, (51, 37)) as write:
        write(np.full((37, 51), 7, np.uint8))
    (mask,) = masks(tmp_path / "odd.avi")
    assert mask.shape == (38, 52)
    assert (mask[:37, :51] == 7).all()
    assert (mask[37] == 255).all()
    assert (mask[:, 51] == 255).all()
    assert open_video(tmp_path / "odd.avi", 10_000).frames == 1


def kill_in_segment(path: Path, bundle: Path, output: Path, options: Options, number: int) -> None:
    """Predict until a signal that nothing can catch comes in the writing of a segment."""
    write = video._write_segment

    def dying(target: Path, held: list[video._Predicted]) -> None:
        if target.name == f"{number:08}.npz":
            os.kill(os.getpid(), signal.SIGKILL)
        write(target, held)

    video._write_segment, video.SEGMENT_FRAMES = dying, 3
    predict_folder(path, bundle, output, options)


@pytest.mark.parametrize("smooth", [1, 4])
def test_a_killed_run_and_its_sequels_end_as_one_that_was_not(
    smooth: int, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    path, options = film(tmp_path / "clip.mp4"), Options(smooth=smooth)
    predict_folder(path, bundle, tmp_path / "whole", options)
    output = tmp_path / "out"
    for number in (1, 3):
        process = start(kill_in_segment, path, bundle, output, options, number)
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert len(list((output / VIDEOS).glob("*/*.npz"))) == number
        assert shown(output) == set()
    predicted = list[float]()
    one = video._FramePredictor.one if smooth == 1 else video._Smoothed.one

    def counted(self: video._Smoothed, seconds: float, frame: NDArray[np.uint8]) -> object:
        predicted.append(seconds)
        return one(self, seconds, frame)

    owner = video._FramePredictor if smooth == 1 else video._Smoothed
    monkeypatch.setattr(owner, "one", counted)
    assert predict_folder(path, bundle, output, options).now == 1
    assert len(predicted) == COUNT - 9
    assert contents(output) == contents(tmp_path / "whole")
    assert not (output / VIDEOS).exists()


def test_smoothing_is_the_exponential_mean_of_the_probabilities(
    bundle: Path, tmp_path: Path
) -> None:
    path = film(tmp_path / "clip.mkv")
    predict_folder(path, bundle, tmp_path / "single")
    predict_folder(path, bundle, tmp_path / "smooth", Options(smooth=3))
    predictor, mean, expected = load_bundle(bundle), None, []
    for frame in frames(path):
        found = predictor.predict_probabilities(frame).astype(float)
        mean = found if mean is None else found / 2 + mean / 2
        expected.append(mean.argmax(axis=0))
    smoothed = masks(tmp_path / "smooth/clip.avi")
    assert np.mean(np.array(smoothed) == np.array(expected)) > 0.999
    single = masks(tmp_path / "single/clip.avi")
    changes = [
        np.mean(np.diff(np.array(one).astype(int), axis=0) != 0) for one in (single, smoothed)
    ]
    assert changes[1] < changes[0]
    # Another smoothing is another prediction.
    assert predict_folder(path, bundle, tmp_path / "smooth", Options(smooth=5)).now == 1


def rotate(path: Path) -> None:
    """Say in an MP4's header that the video is seen turned by a quarter to the right."""
    content = bytearray(path.read_bytes())
    place = content.index(b"tkhd") + 4 + 40
    turned = (0, 1 << 16, 0, -(1 << 16), 0, 0, 0, 0, 1 << 30)
    content[place : place + 36] = struct.pack(">9i", *turned)
    path.write_bytes(content)


def test_a_video_is_predicted_as_it_is_seen(bundle: Path, tmp_path: Path) -> None:
    path = film(tmp_path / "clip.mp4")
    (tmp_path / "plain.mp4").write_bytes(path.read_bytes())
    rotate(path)
    predict_folder(path, bundle, tmp_path / "out")
    upright = [np.ascontiguousarray(np.rot90(one, -1)) for one in frames(tmp_path / "plain.mp4")]
    found, predictor = masks(tmp_path / "out/clip.avi"), load_bundle(bundle)
    assert found[0].shape == (50, 38)
    for mask, frame in zip(found, upright, strict=True):
        np.testing.assert_array_equal(mask, predictor.predict(frame).mask)


def test_varying_times_are_said_and_kept_in_the_table(
    bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = film(tmp_path / "clip.mp4", 4)
    with caplog.at_level(logging.WARNING, "segops"):
        predict_folder(path, bundle, tmp_path / "steady")
    assert caplog.messages == []
    path.write_bytes(_with_times(path.read_bytes()))
    with caplog.at_level(logging.WARNING, "segops"):
        predict_folder(path, bundle, tmp_path / "out")
    seconds = pd.read_csv(tmp_path / "out/clip.frames.csv")["seconds"]
    np.testing.assert_allclose(np.diff(seconds), [0.04, 0.04, 0.36], atol=2e-3)
    (told,) = caplog.messages
    assert "its frames follow at varying times" in told
    assert len(masks(tmp_path / "out/clip.avi")) == 4


def _with_times(content: bytes) -> bytes:
    """An MP4 of four frames, of which the last two are shown nine times as long."""
    assert content.index(b"mdat") < content.index(b"moov")  # the frames stay where they are
    place = content.index(b"stts")
    entries, count, step = struct.unpack(">3i", content[place + 8 : place + 20])
    assert (entries, count) == (1, 4)
    times = struct.pack(">5i", 2, 2, step, 2, 9 * step)
    changed = content[: place + 4] + bytes(4) + times + content[place + 20 :]
    for box in (b"moov", b"trak", b"mdia", b"minf", b"stbl", b"stts"):
        at = changed.index(box) - 4
        size = struct.pack(">i", struct.unpack(">i", changed[at : at + 4])[0] + 8)
        changed = changed[:at] + size + changed[at + 4 :]
    return changed.replace(b"edts", b"free")  # it would end the video where it ended before


def test_a_directory_may_hold_images_and_videos(bundle: Path, tmp_path: Path) -> None:
    save(tmp_path / "photos/a.png")
    film(tmp_path / "photos/sub/clip.avi")
    film(tmp_path / "photos/clip.mp4")
    (tmp_path / "photos/broken.mp4").write_bytes(b"no video")
    output = tmp_path / "photos/out"
    outcome = predict_folder(tmp_path / "photos", bundle, output)
    assert (outcome.now, outcome.failures) == (3, 1)
    assert outcome.failed[0].startswith(f"{tmp_path}/photos/broken.mp4: not decodable")
    assert list(table(output)) == ["a.png"]
    assert {"a.png", "clip.avi", "sub/clip.avi", "sub/clip.frames.csv"} <= shown(output)
    # A mask video is no video to predict, here or by a run into another directory.
    again = predict_folder(tmp_path / "photos", bundle, output)
    assert (again.now, again.before) == (0, 3)
    other = predict_folder(tmp_path / "photos", bundle, tmp_path / "other")
    assert other.now == 3
    for shared in ("clip.avi", "clip.overlay.mp4", "clip.frames.csv"):
        assert (output / shared).read_bytes() == (tmp_path / "other" / shared).read_bytes()
    with pytest.raises(SegopsError, match="its mask would replace it"):
        predict_folder(film(tmp_path / "x/clip.avi"), bundle, tmp_path / "x")


def _cut(content: bytes) -> bytes:
    return content[: len(content) * 2 // 5]


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("empty.mp4", b"", "does not begin as a .mp4 file does"),
        ("text.avi", b"no video at all", "does not begin as a .avi file does"),
        ("head.mp4", b"\0\0\0\x18ftypisom\0\0\2\0isomiso2", "it is damaged, or no video"),
        ("head.mkv", b"\x1aE\xdf\xa3" + bytes(100), "it is damaged, or no video"),
        ("playlist.mp4", b"#EXTM3U\nhttp://127.0.0.1/a.ts", "does not begin as a .mp4 file does"),
    ],
)
def test_what_is_no_video_is_one_sentence(
    name: str,
    content: bytes,
    said: str,
    bundle: Path,
    tmp_path: Path,
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = predict_folder(tmp_path / name, bundle, tmp_path / "out")
    assert len(outcome.failed) == 1
    assert outcome.failed[0].startswith(f"{tmp_path / name}: not decodable: ")
    assert said in outcome.failed[0]
    assert shown(tmp_path / "out") == set()


def test_ffmpeg_says_nothing_beside(tmp_path: Path) -> None:
    """In a process of its own, because FFmpeg asks how loud it is once, at its first use."""
    path = tmp_path / "head.mp4"
    path.write_bytes(b"\0\0\0\x18ftypisom\0\0\2\0isomiso2")
    script = (
        "import sys\nfrom pathlib import Path\n"
        "from segops.predict.video_file import open_video\n"
        "try:\n    with open_video(Path(sys.argv[1]), 10**6):\n        pass\n"
        "except Exception as error:\n    print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
    )
    assert (done.stdout.rstrip(), done.stderr) == (
        f"{path}: not decodable: it is damaged, or no video. Replace it.",
        "",
    )


@pytest.mark.parametrize("suffix", [".avi", ".mp4", ".mkv"])
def test_a_video_that_was_cut_off_is_named(suffix: str, bundle: Path, tmp_path: Path) -> None:
    path = film(tmp_path / f"clip{suffix}", 60)
    predict_folder(path, bundle, tmp_path / "out", Options(overlay=False))
    path.write_bytes(_cut(path.read_bytes()))
    outcome = predict_folder(path, bundle, tmp_path / "out", Options(overlay=False))
    assert len(outcome.failed) == 1
    assert "damaged" in outcome.failed[0]
    assert shown(tmp_path / "out") == set()  # the masks of another content are gone


def test_only_the_container_of_the_suffix_is_tried(bundle: Path, tmp_path: Path) -> None:
    film(tmp_path / "clip.avi").rename(tmp_path / "clip.mp4")
    outcome = predict_folder(tmp_path / "clip.mp4", bundle, tmp_path / "out")
    assert "does not begin as a .mp4 file does" in outcome.failed[0]
    assert os.environ.get("OPENCV_FFMPEG_CAPTURE_OPTIONS") is None


def test_ffmpeg_tries_no_other_container(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = film(tmp_path / "clip.mp4")
    names, pattern = video_file._CONTAINERS[".avi"][0], video_file._CONTAINERS[".mp4"][1]
    monkeypatch.setitem(video_file._CONTAINERS, ".mp4", (names, pattern))
    outcome = predict_folder(path, bundle, tmp_path / "out")
    assert "not decodable: it is damaged, or no video" in outcome.failed[0]


def share_slowly(photos: Path, bundle: Path, output: Path) -> None:
    """Predict, and take so long for each segment that another process gets a video too."""
    write = video._write_segment

    def slow(target: Path, held: list[video._Predicted]) -> None:
        time.sleep(0.5)
        write(target, held)

    video._write_segment, video.SEGMENT_FRAMES = slow, 3
    predict_folder(photos, bundle, output)


def test_processes_share_the_videos_of_a_directory(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    photos, output = tmp_path / "photos", tmp_path / "out"
    save(photos / "a.png")
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        film(photos / name)
    predict_folder(photos, bundle, tmp_path / "whole")
    started = [start(share_slowly, photos, bundle, output) for _ in range(2)]
    end = time.monotonic() + 60
    while not any((output / VIDEOS).glob("*/*.npz")):
        assert time.monotonic() < end
        time.sleep(0.01)
    assert started[0].pid is not None
    os.kill(started[0].pid, signal.SIGKILL)
    for process in started:
        process.join(60)
    assert [process.exitcode for process in started] == [-signal.SIGKILL, 0]
    assert contents(output) == contents(tmp_path / "whole")


def test_a_codec_that_is_not_named_is_refused(bundle: Path, tmp_path: Path) -> None:
    path = tmp_path / "clip.avi"
    fourcc = cv2.VideoWriter.fourcc(*"FLV1")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, 25, (64, 48))
    assert writer.isOpened()
    for seed in range(5):
        writer.write(picture(seed, 48, 64))
    writer.release()
    outcome = predict_folder(path, bundle, tmp_path / "out")
    assert f"{path}: its codec 'flv1' is not read; expected H.264" in outcome.failed[0]


def test_more_pixels_than_the_model_allows_are_refused(tmp_path: Path) -> None:
    small = make_bundle(tmp_path / "bundle", predict={"max_pixels": 1000})
    outcome = predict_folder(film(tmp_path / "clip.mp4"), small, tmp_path / "out")
    assert "50 x 38 pixels" in outcome.failed[0]
    assert "predict.max_pixels" in outcome.failed[0]


def test_frames_are_not_held_all_at_once(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "SEGMENT_BYTES", 4 * 38 * 50)
    sizes, write = [], video._write_segment

    def spied(target: Path, held: list[video._Predicted]) -> None:
        sizes.append(len(held))
        write(target, held)

    monkeypatch.setattr(video, "_write_segment", spied)
    predict_folder(film(tmp_path / "clip.mp4"), bundle, tmp_path / "out")
    assert sizes == [4, 4, 3]


def test_a_disk_that_takes_a_part_of_a_video_is_noticed(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, output = film(tmp_path / "clip.mp4"), tmp_path / "out"
    real = video.open_video

    def short(target: Path, most: int) -> object:
        if target.suffix == ".avi":
            os.truncate(target, target.stat().st_size // 2)
        return real(target, most)

    monkeypatch.setattr(video, "open_video", short)
    outcome = predict_folder(path, bundle, output)
    assert "damaged" in outcome.failed[0] or "cannot be written whole" in outcome.failed[0]
    assert shown(output) == set()


@pytest.mark.parametrize("overtaken", [False, True])
def test_a_video_whose_segments_are_gone_replaces_none(
    overtaken: bool, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(video, "SEGMENT_FRAMES", 3)
    monkeypatch.setattr(leases, "EXPIRY_SECONDS", 0.3)
    path, output = film(tmp_path / "clip.mp4"), tmp_path / "out"
    predict_folder(path, bundle, output)
    read, removed = video._read_segments, list[Path]()
    sound = {name: contents(output)[name] for name in shown(output)}

    def gone(directory: Path) -> Iterator[video._Predicted]:
        assert {name: one for name, one in contents(output).items() if name in sound} == sound
        for number, predicted in enumerate(read(directory)):
            if number == 4 and not removed:
                removed.append(directory)
                shutil.rmtree(directory)
                if overtaken:
                    (lease,) = (output / SHARDS).glob("shard-*.lease")
                    content = lease.read_bytes().replace(b'"token": "', b'"token": "x')
                    lease.unlink()
                    lease.write_bytes(content)
            yield predicted

    monkeypatch.setattr(video, "_read_segments", gone)
    outcome = predict_folder(path, bundle, output, overwrite=True)
    assert removed
    if overtaken:
        assert outcome.now == 1  # once nobody else has it, this process takes it anew
    else:
        assert "holds 6 predicted frames of 11" in outcome.failed[0]
    assert {name: contents(output)[name] for name in shown(output)} == sound


def test_a_list_may_name_videos(bundle: Path, tmp_path: Path) -> None:
    film(tmp_path / "videos/clip.mp4")
    (tmp_path / "some.txt").write_text("videos/clip.mp4\n")
    assert predict_folder(tmp_path / "some.txt", bundle, tmp_path / "out").now == 1
    assert "videos/clip.avi" in shown(tmp_path / "out")
    (tmp_path / "some.txt").write_text("s3://bucket/clip.mp4\n")
    with pytest.raises(SegopsError, match="a video is read from a file only"):
        predict_folder(tmp_path / "some.txt", bundle, tmp_path / "out")


def test_an_animated_picture_is_an_image(bundle: Path, tmp_path: Path) -> None:
    first = Image.fromarray(picture())
    first.save(tmp_path / "moving.gif", save_all=True, append_images=[Image.fromarray(picture(1))])
    predict_folder(tmp_path / "moving.gif", bundle, tmp_path / "out", Options(overlay=False))
    assert shown(tmp_path / "out") == {"moving.png", "predictions.csv"}

"""Matroska, which counts no frames, so that a varying rate looks like a file that was cut off."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from segops.predict.video_file import open_video

SEGMENT, CLUSTER = 0x18538067, 0x1F43B675
BLOCKS = (0xA0, 0xA3)
VOID = 0xEC
FRAMES, RATE = 120, 60


def number(content: bytes, place: int, marked: bool) -> tuple[int, int]:
    """A number of variable length, with its mark or without, and how many bytes it takes."""
    length = 9 - content[place].bit_length()
    value = int.from_bytes(content[place : place + length], "big")
    return (value if marked else value & ((1 << 7 * length) - 1)), length


def blocks(content: bytes, place: int, end: int) -> Iterator[int]:
    """Where the frames of a Matroska file lie."""
    while place < end:
        kind, first = number(content, place, marked=True)
        size, second = number(content, place + first, marked=False)
        start = place + first + second
        if kind in (SEGMENT, CLUSTER):
            yield from blocks(content, start, min(end, start + size))
        elif kind in BLOCKS:
            yield place
        place = start + size


def test_a_recorder_may_leave_out_frames(tmp_path: Path) -> None:
    path = tmp_path / "screen.mkv"
    codec = cv2.VideoWriter.fourcc(*"MJPG")
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, codec, RATE, (64, 48))
    for frame in np.random.default_rng(0).integers(0, 256, (FRAMES, 48, 64, 3), np.uint8):
        writer.write(frame)
    writer.release()
    content = bytearray(path.read_bytes())
    places = list(blocks(content, 0, len(content)))
    assert len(places) == FRAMES
    for place in places[40:80]:
        content[place] = VOID
    path.write_bytes(content)
    video = open_video(path, max_pixels=10_000)
    times = [time for time, _ in video.read()]
    assert video.frames == len(times) == FRAMES - 40
    assert max(np.diff(times)) > 40 / RATE

"""Reads and writes video files, frame by frame, with OpenCV's FFmpeg.

A file is opened only if its first bytes are those of the container that its suffix names. FFmpeg is
told which containers, decoders and protocols it may use, so that no content chooses another one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import require_pixels

_MOV = ("mov,mp4,m4a,3gp,3g2,mj2", rb".{4}(ftyp|moov|mdat|free|skip|wide)")
_MATROSKA = ("matroska,webm", rb"\x1aE\xdf\xa3")
_CONTAINERS = {
    ".avi": ("avi", rb"RIFF.{4}AVI "),
    ".mkv": _MATROSKA,
    ".mov": _MOV,
    ".mp4": _MOV,
    ".webm": _MATROSKA,
}
"""By suffix: FFmpeg's names of the container, and a pattern of its first bytes."""

SUFFIXES = tuple(_CONTAINERS)
_CODECS = (
    *("h264", "hevc", "mpeg4", "mpeg2video", "vp8", "vp9", "av1", "libdav1d", "libaom-av1"),
    *("libvpx", "libvpx-vp9", "mjpeg", "png", "ffv1", "huffyuv", "rawvideo", "prores", "dvvideo"),
)
_TAGS = re.compile(
    r"h264|avc[13]|x264|hevc|he[vc]1|hvc1|fmp4|mp4v|xvid|divx|dx50|m4s2|mpg2|mpeg|vp80|vp90|vp09|"
    r"av01|mjpg|jpeg|mpng|png |ffv1|hfyu|raw |ap[co][nhs]|ap4[hx]|dv.."
)
"""Tags of these codecs in a file; FFmpeg names a codec without a tag by the first letters."""
_OPTIONS = "OPENCV_FFMPEG_CAPTURE_OPTIONS"
_USUAL_RATE = 25.0
_LARGEST_RATE = 1000.0
_MISSING_SHARE, _MISSING_FRAMES = 0.05, 2
"""A container without an index only estimates its number of frames."""
_opening = Lock()


@dataclass(frozen=True)
class Video:
    """A video that can be read.

    Attributes:
        path: Its file.
        width: Pixels, as it is seen (its rotation applied).
        height: Pixels.
        rate: Mean frames a second.
        frames: Number of frames that can be decoded.
    """

    path: Path
    width: int
    height: int
    rate: float
    frames: int

    def read(self, start: int = 0) -> Generator[tuple[float, NDArray[np.uint8]], None, None]:
        """Yield time in seconds and pixels, uint8 (H, W, 3) RGB, of all frames from `start` on.

        Raises:
            SegopsError: A frame has another size than the first.
        """
        with _capture(self.path) as capture:
            # Every frame is decoded: a jump lands on another frame in many files.
            for _ in range(start):
                capture.grab()
            for number in range(start, self.frames):
                read, frame = capture.read()
                if not read:
                    raise SegopsError(
                        f"{self.path}: frame {number} can no longer be read. Check the disk, and "
                        "run the same command again."
                    )
                if frame.shape[:2] != (self.height, self.width):
                    raise SegopsError(
                        f"{self.path}: frame {number} has {frame.shape[1]} x {frame.shape[0]} "
                        f"pixels, the first {self.width} x {self.height}; expected one size. "
                        "Convert the video, or cut it where its size changes."
                    )
                yield capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, frame[..., ::-1]


def open_video(path: Path, max_pixels: int) -> Video:
    """Check a video and count its frames, by decoding all.

    Raises:
        SegopsError: The file is no video of its suffix's container, has another codec, too many
            pixels or no frame, or ends before its header says.
    """
    with _capture(path) as capture:
        width, height, said = (
            int(capture.get(key))
            for key in (
                cv2.CAP_PROP_FRAME_WIDTH, cv2.CAP_PROP_FRAME_HEIGHT, cv2.CAP_PROP_FRAME_COUNT,
            )
        )  # fmt: skip
        require_pixels((width, height), str(path), max_pixels)
        rate = capture.get(cv2.CAP_PROP_FPS)
        frames, last = 0, 0.0
        while capture.grab():
            frames += 1
            last = capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
    decoded = frames
    if path.suffix.lower() in (".mkv", ".webm") and rate > 0:
        # Matroska counts no frames: OpenCV says the duration times the rate, and a recorder may
        # have left out frames that show nothing new. What was cut off ends early.
        decoded = max(frames, int(last * rate) + 1)
    if decoded < said * (1 - _MISSING_SHARE) - _MISSING_FRAMES:
        raise SegopsError(
            f"{path}: damaged: {frames} of about {said} frames can be decoded. Copy the file "
            "again, or save what is left of it as a video of its own."
        )
    if not frames or not width or not height:
        raise SegopsError(f"{path}: not decodable: it holds no frame. Replace the file.")
    usable = np.isfinite(rate) and 0 < rate <= _LARGEST_RATE
    return Video(path, width, height, float(rate) if usable else _USUAL_RATE, frames)


@contextmanager
def writing(path: Path, codec: str, rate: float, size: tuple[int, int]) -> Iterator[Any]:
    """Yield a function that writes a frame: uint8 (H, W) grey, or (H, W, 3) RGB.

    OpenCV writes even sizes only. A frame of odd width or height gets a further column or row: of
    void in grey, of its last pixels in colour.

    Args:
        path: The file; its suffix says the container.
        codec: ``FFV1``, which is grey and without loss, or ``mp4v``, which is in colour.
        rate: Frames a second.
        size: Width and height of the frames.

    Raises:
        SegopsError: This build of OpenCV has no such encoder.
    """
    colour = codec != "FFV1"
    wide, high = size[0] % 2, size[1] % 2
    fourcc = cv2.VideoWriter.fourcc(*codec)
    padded = (size[0] + wide, size[1] + high)
    with _quiet():
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, rate, padded, colour)
    if not writer.isOpened():
        raise SegopsError(
            f"{path}: OpenCV cannot write {codec} here; expected a build with FFmpeg, as "
            "opencv-python-headless is."
        )

    def write(frame: NDArray[np.uint8]) -> None:
        if wide or high:
            kind = cv2.BORDER_REPLICATE if colour else cv2.BORDER_CONSTANT
            frame = np.asarray(
                cv2.copyMakeBorder(frame, 0, high, 0, wide, kind, value=VOID), np.uint8
            )
        writer.write(np.ascontiguousarray(frame[..., ::-1] if colour else frame))

    try:
        yield write
    finally:
        writer.release()


@contextmanager
def _capture(path: Path) -> Iterator[Any]:
    """Yield OpenCV's reader of a file, after its first bytes and before its first frame."""
    names, pattern = _CONTAINERS[path.suffix.lower()]
    try:
        with path.open("rb") as file:
            start = file.read(16)
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such file.") from None
    except OSError as error:
        raise SegopsError(f"{path}: not readable: {error.strerror or error}.") from None
    if not re.match(pattern, start, re.DOTALL):
        raise SegopsError(
            f"{path}: not decodable: it does not begin as a {path.suffix.lower()} file does. Give "
            "it the suffix of its format, or replace it."
        )
    allowed = {
        "format_whitelist": names,
        "codec_whitelist": ",".join(_CODECS),
        "protocol_whitelist": "file",
    }
    with _opening:
        before = os.environ.get(_OPTIONS)
        os.environ[_OPTIONS] = "|".join(f"{key};{value}" for key, value in allowed.items())
        try:
            # An absolute path: FFmpeg takes what stands before a colon for a protocol.
            with _quiet():
                capture = cv2.VideoCapture(str(path.resolve()), cv2.CAP_FFMPEG)
        finally:
            if before is None:
                del os.environ[_OPTIONS]
            else:
                os.environ[_OPTIONS] = before
    try:
        if not capture.isOpened():
            raise SegopsError(f"{path}: not decodable: it is damaged, or no video. Replace it.")
        tag = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        if not _TAGS.fullmatch(tag.lower()):
            raise SegopsError(
                f"{path}: its codec {tag!r} is not read; expected H.264, HEVC, MPEG-4, VP8, VP9, "
                "AV1, Motion JPEG, PNG, FFV1, HuffYUV, ProRes, DV or raw video. Convert it."
            )
        yield capture
    finally:
        capture.release()


@contextmanager
def _quiet() -> Iterator[None]:
    """Let neither OpenCV nor FFmpeg write to standard error, because segops says what is wrong."""
    os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # read once, at the first use
    level = cv2.utils.logging.getLogLevel()
    cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)
    try:
        yield
    finally:
        cv2.utils.logging.setLogLevel(level)

"""Predicts a video: masks and an overlay as videos, and a table with a row for each frame.

    NAME.avi            grey, without loss (FFV1): a pixel's value is its class id
    NAME.overlay.mp4    the masks over the frames (MPEG-4)
    NAME.frames.csv     time, confidence and class shares of each frame

Frames pass one at a time. The prediction is kept in segments of some hundred frames, each written
whole, until the videos are written from them from beginning to end: a killed run goes on after its
last segment, and its videos have the bytes of a run that was not killed. (Matroska would not do: it
holds random numbers.)

Smoothing over N frames is an exponential mean of the probabilities of every pixel: each frame
counts with the weight 2 / (N + 1), the mean before it with the rest.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from segops import files
from segops.progress import Progress
from segops.runtime.bands import RGB
from segops.runtime.errors import SegopsError
from segops.threads import pipelined

from . import outputs
from .bundle import BundledPredictor
from .image_list import Source
from .journal import FORMAT, VIDEOS, FinishedImage, Journal
from .leases import Lease
from .outputs import Options, draw_overlay, path_of
from .table import Frame, write_frames
from .video_file import Video, open_video, writing

SEGMENT_BYTES = 64 << 20
SEGMENT_FRAMES = 256
"""A segment ends with the first of the two: masks take a byte a pixel in memory."""

LARGEST_STATE = 1 << 30
"""Bytes of the probabilities of a frame that smoothing keeps."""

log = logging.getLogger("segops")


class _Predicted(NamedTuple):
    """A frame's time, mask, uint8 (H, W), confidence, and what the next frame needs of it."""

    seconds: float
    mask: NDArray[np.uint8]
    confidence: float
    mean: NDArray[np.float32] | None = None


@dataclass(frozen=True)
class VideoJob:
    """The prediction of a video.

    Args:
        source: The video; its mask's path is that of the mask video.
        predictor: As the next ones those of the run.
        model: Digest of its bundle.
        device: Kind of its device.
        journal: Gets the entry of the video.
        options: Whether to draw an overlay, and how to smooth.
        predicting: The one thread that predicts.
        lease: Asked for before the outputs are replaced.
    """

    source: Source
    predictor: BundledPredictor
    model: str
    device: str
    journal: Journal
    options: Options
    predicting: ThreadPoolExecutor
    lease: Lease

    def run(self, overwrite: bool) -> bool:
        """Predict the video; false if an earlier run did.

        Raises:
            SegopsError: The file cannot be read as a video, or the model takes other images.
            OSError: A file cannot be written.
            LostLeaseError: Another process has the lease.
        """
        if self.predictor.channels != RGB:
            raise SegopsError(
                f"{self.source.path}: a video has three channels, this model takes "
                f"{self.predictor.channels}. Give it images with all of them."
            )
        if not self.source.path.is_file():
            raise SegopsError(f"{self.source.path}: is no file.")
        content = files.sha256_file(self.source.path)
        mask, kinds = self.source.mask_path, self.options.video_kinds()
        earlier = self.journal.get(self.source.mask)
        if earlier and (earlier.image, earlier.model) != (content, self.model):
            self.lease.require()
            outputs.remove(mask, earlier.outputs, {})
        elif (
            earlier
            and not overwrite
            and earlier.device == self.device
            and outputs.are_whole(mask, earlier.outputs, kinds)
        ):
            return False
        if self.options.probabilities or self.options.explain is not None:
            log.warning("%s: a video gets no probabilities and no explanation.", self.source.path)
        video = open_video(self.source.path, self.predictor.max_pixels)
        segments = self._segments(content)
        self._predict(video, segments)
        entry = self._write(video, segments, content, kinds)
        if earlier is not None:
            outputs.remove(mask, earlier.outputs, entry.outputs)
        self.journal.add(entry)
        shutil.rmtree(segments, ignore_errors=True)
        return True

    def _segments(self, content: str) -> Path:
        """The directory of the segments, one for all that decides what is in them."""
        key = [self.source.mask, content, self.model, self.device, self.options.smooth]
        name = files.sha256_bytes(json.dumps(key).encode())[:16]
        return self.source.output / VIDEOS / name

    def _predict(self, video: Video, directory: Path) -> None:
        """Write the segments that are not there yet."""
        in_segment = max(1, min(SEGMENT_FRAMES, SEGMENT_BYTES // (video.width * video.height)))
        # A segment that is there has all its frames, so their number says where it ends.
        number = 0
        while _segment(directory, number).is_file():
            number += 1
        start = min(number * in_segment, video.frames)
        predict = self._frame_predictor(video, _state(directory, number - 1) if number else None)

        def one(frame: tuple[float, NDArray[np.uint8]]) -> _Predicted:
            return self.predicting.submit(predict.one, *frame).result()

        with (
            Progress(f"predict {self.source.name}", video.frames, done=start) as progress,
            closing(video.read(start)) as frames,
        ):
            held: list[_Predicted] = []
            # The next frames are decoded while one is predicted.
            for done, predicted in enumerate(pipelined(frames, one, 1, 2), start + 1):
                # Each mean is an array of its own: by now the next frame may be predicted.
                held.append(predicted._replace(mean=None))
                if len(held) == in_segment or done == video.frames:
                    if predicted.mean is not None:
                        _write_state(_state(directory, number), predicted.mean)
                    _write_segment(_segment(directory, number), held)
                    _state(directory, number - 1).unlink(missing_ok=True)
                    held, number = [], number + 1
                progress.reach(done)

    def _write(
        self, video: Video, directory: Path, content: str, kinds: list[str]
    ) -> FinishedImage:
        """Write the outputs from the segments, each whole or not at all; their entry."""
        written = _Written(len(self.predictor.class_names), video)
        with ExitStack() as stack:
            paths = {
                kind: stack.enter_context(files.atomic_path(path_of(self.source.mask_path, kind)))
                for kind in kinds
            }
            by_kind = {kind.partition(" ")[0]: path for kind, path in paths.items()}
            with closing(self._frames(video, directory, by_kind, written)) as frames:
                write_frames(by_kind.pop("frames"), self.predictor.class_names, frames)
            if written.frames != video.frames:
                # A process that went on with the video ended it, and removed the segments.
                self.lease.require()
                raise SegopsError(
                    f"{directory}: holds {written.frames} predicted frames of {video.frames}: a "
                    "file was removed. Run the same command again."
                )
            for kind, path in by_kind.items():
                # OpenCV does not say that the disk is full.
                if open_video(path, video.width * video.height * 2).frames != written.frames:
                    raise SegopsError(
                        f"{path_of(self.source.mask_path, kind)}: cannot be written whole. Check "
                        "the free space, and run the same command again."
                    )
            hashes: dict[str, str | None] = {
                kind: files.sha256_file(path) for kind, path in paths.items()
            }
            self.lease.require()
        if written.varies:
            log.warning(
                "%s: its frames follow at varying times; the videos written show %.6g a second. "
                "%s has the time of each frame.",
                self.source.path, video.rate, path_of(self.source.mask_path, "frames"),
            )  # fmt: skip
        return FinishedImage(
            format=FORMAT,
            mask=self.source.mask,
            image=content,
            model=self.model,
            device=self.device,
            width=video.width,
            height=video.height,
            confidence=written.confidence / written.frames,
            pixels=written.pixels.tolist(),
            outputs=hashes,
        )

    def _frames(
        self, video: Video, directory: Path, paths: Mapping[str, Path], written: _Written
    ) -> Generator[Frame, None, None]:
        """Write the frames of the videos at `paths`, and yield their rows."""
        size, classes = (video.width, video.height), self.predictor.classes
        with ExitStack() as stack:
            masks = stack.enter_context(writing(paths["video"], "FFV1", video.rate, size))
            overlay = None
            if place := paths.get("video-overlay"):
                overlay = stack.enter_context(writing(place, "mp4v", video.rate, size))
                frames = stack.enter_context(closing(video.read()))
            for predicted in _read_segments(directory):
                masks(predicted.mask)
                if overlay is not None:
                    picture = np.ascontiguousarray(next(frames)[1])
                    overlay(draw_overlay(picture, predicted.mask, classes))
                yield written.add(predicted)

    def _frame_predictor(self, video: Video, state: Path | None) -> _FramePredictor:
        if self.options.smooth == 1:
            return _FramePredictor(self.predictor)
        size = 4 * len(self.predictor.class_names) * video.width * video.height
        if size > LARGEST_STATE:
            raise SegopsError(
                f"{video.path}: smoothing would keep {size / 2**30:.1f} GiB of probabilities; at "
                f"most {LARGEST_STATE / 2**30:.1f} GiB. Leave --smooth out, or make it smaller."
            )
        return _Smoothed(self.predictor, 2 / (self.options.smooth + 1), state)


class _Written:
    """Sums over the frames that were written.

    Attributes:
        frames: Their number.
        pixels: Pixels of each class, int64 (C,).
        confidence: Sum of their confidence.
        varies: Whether a frame came half a frame's time too early or too late.
    """

    def __init__(self, classes: int, video: Video) -> None:
        self.frames, self.confidence, self.varies = 0, 0.0, False
        self.pixels = np.zeros(classes, np.int64)
        self._usual, self._last = 1 / video.rate, 0.0

    def add(self, predicted: _Predicted) -> Frame:
        """Count a frame; its row."""
        own = np.bincount(predicted.mask.ravel(), minlength=len(self.pixels))
        self.pixels += own
        self.confidence += predicted.confidence
        step, self._last = predicted.seconds - self._last, predicted.seconds
        if self.frames and abs(step - self._usual) > 0.5 * self._usual:
            self.varies = True
        self.frames += 1
        shares = (own / predicted.mask.size).tolist()
        return Frame(predicted.seconds, predicted.confidence, shares)


class _FramePredictor:
    """Predicts each frame alone."""

    def __init__(self, predictor: BundledPredictor) -> None:
        self._predictor = predictor

    def one(self, seconds: float, frame: NDArray[np.uint8]) -> _Predicted:
        """Predict a frame, uint8 (H, W, 3)."""
        prediction = self._predictor.predict(np.ascontiguousarray(frame))
        return _Predicted(seconds, prediction.mask, prediction.confidence)


class _Smoothed(_FramePredictor):
    """Predicts from the exponential mean of the probabilities.

    Args:
        predictor: As of the base class.
        weight: Of the newest frame.
        state: File of the mean after the frame before; None at the start.
    """

    def __init__(self, predictor: BundledPredictor, weight: float, state: Path | None) -> None:
        super().__init__(predictor)
        self._weight = np.float32(weight)
        self._mean: NDArray[np.float32] | None = None
        if state is not None:
            self._mean = np.load(state, allow_pickle=False)

    def one(self, seconds: float, frame: NDArray[np.uint8]) -> _Predicted:
        """As of the base class; frames come in their order."""
        found = self._predictor.predict_probabilities(np.ascontiguousarray(frame))
        mean = found if self._mean is None else self._mean + self._weight * (found - self._mean)
        self._mean = mean
        confidence = float(mean.max(axis=0).mean(dtype=np.float64))
        return _Predicted(seconds, mean.argmax(axis=0).astype(np.uint8), confidence, mean)


def _segment(directory: Path, number: int) -> Path:
    return directory / f"{number:08}.npz"


def _state(directory: Path, number: int) -> Path:
    return directory / f"{number:08}.npy"


def _write_state(path: Path, mean: NDArray[np.float32]) -> None:
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.save(file, mean)


def _write_segment(path: Path, held: list[_Predicted]) -> None:
    with files.atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file,
            masks=np.stack([one.mask for one in held]),
            seconds=np.array([one.seconds for one in held]),
            confidence=np.array([one.confidence for one in held]),
        )


def _read_segments(directory: Path) -> Iterator[_Predicted]:
    number = 0
    while (path := _segment(directory, number)).is_file():
        with np.load(path, allow_pickle=False) as found:
            rows = zip(found["seconds"], found["masks"], found["confidence"], strict=True)
            for seconds, mask, confidence in rows:
                yield _Predicted(float(seconds), mask, float(confidence))
        number += 1

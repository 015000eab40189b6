"""Masks, overlays and a table for an image or a directory of images."""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, nullcontext
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segops import files
from segops.progress import track
from segops.runtime import opener
from segops.runtime.bands import RGB, extent, false_colour
from segops.runtime.errors import SegopsError
from segops.threads import cores, pipelined

from . import bucket, outputs
from .bundle import BundledPredictor, open_read, read_bundle
from .explain import explanation, require_class
from .image_files import File, decode_files, read_files
from .image_list import Source
from .journal import FORMAT, LOCK, FinishedImage, Journal
from .leases import Lease
from .log import PredictionLog
from .memory import named_shortage
from .observe import Observation, Observe, observing
from .outputs import Options, PredictedImage
from .shards import Result, Round
from .sources import find_sources
from .video import VideoJob
from .work import FolderResult, Work

IMAGES_AT_ONCE = 32
BYTES_AT_ONCE = 512 << 20
"""Memory of the images that are read, predicted or written at a time; a larger image is alone."""

BYTES_A_PIXEL = 16
"""Memory of an image while it is decoded (the file's pixels, turned pixels, RGB) or drawn."""

LARGEST_PROBABILITIES = 1 << 30
"""Bytes of the file; the predictor holds twice as much, in float32."""

THREADS = max(4, min(16, 2 * cores()))
"""Threads that read and write images; one further thread predicts."""

SHARD_SIZE = 1000
"""Images of a shard: processes share a run shard by shard."""

log = logging.getLogger("segops")


def predict_folder(
    source: Path | str,
    bundle: Path,
    output: Path,
    options: Options | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
    observations: Path | None = None,
    log_names: bool = False,
    shard_size: int = SHARD_SIZE,
) -> FolderResult:
    """Write a palette PNG ``NAME.png`` and what `options` ask for of every image, and a table.

    An image is skipped if its outputs are complete and come from the same image content, the same
    model and the same kind of device. If an image cannot be predicted, its outputs of another
    content or model are removed. The table, ``predictions.csv``, is written at the end; see
    :func:`segops.predict.table.write_table`. A killed run leaves whole files only, and the next
    run ends with the same bytes as a run that was not killed.

    More than `shard_size` images are shared among all processes that are started with the same
    arguments, wherever each of them finds the images; see :mod:`segops.predict.shards`. Fewer are
    done by one process, and a second one is refused. A video is predicted as
    :mod:`segops.predict.video` says.

    A model of further directories of bands (`data.bands`) takes them from files beside an image's;
    see :func:`segops.predict.image_files.read_files`.

    Args:
        source: An image, a video, a directory, a list or an address in a bucket; see
            :func:`segops.predict.sources.find_sources`.
        bundle: A model bundle's directory.
        output: Directory of the outputs. Outputs of earlier runs may be replaced.
        options: The files beside the mask; None: an overlay.
        device: A torch device, or `auto`.
        overwrite: Predict finished images again.
        observations: Directory of the prediction log that gets a line for every image predicted;
            see :mod:`segops.predict.log`.
        log_names: Whether these lines name the images.
        shard_size: Images of a shard, at least 1.

    Raises:
        SegopsError: The source, the output, the class to explain or the bundle is not usable, a
            file cannot be written, or another prediction is writing there.
    """
    options = options or Options()
    held = read_bundle(bundle)
    require_class(options.explain, held.model)
    found = find_sources(source, output, held.model.get(opener.BANDS, ()))
    predictor = open_read(held, device)
    del held  # its weights are in the network now
    work = Work(found, shard_size, output, predictor.class_names)
    plan = {
        "images": found.images.digest(),
        "videos": found.videos.digest(),
        "shard_size": shard_size,
        "options": asdict(options),
        "overwrite": overwrite,
        "model": predictor.digest,
        "device": torch.device(predictor.device).type,
    }
    alone = files.exclusive(output / LOCK, "a prediction") if len(work) == 1 else nullcontext()
    with _named_write_errors(output), alone, ExitStack() as stack:
        shared = stack.enter_context(Round(output, plan, len(work)))
        journal = stack.enter_context(closing(Journal(output)))
        predicting = stack.enter_context(ThreadPoolExecutor(1, "predict"))
        scratch = stack.enter_context(files.scratch())
        run = _Run(predictor, predictor.digest, journal, options, overwrite, predicting, scratch)
        if observations is not None:
            run.observed = PredictionLog(observations, predictor.bundle_digest, names=log_names)
            run.observe = stack.enter_context(observing(predictor))
        return work.do(shared, journal, run)


@dataclass
class _Run:
    """Reads and writes images in threads while one thread predicts."""

    predictor: BundledPredictor
    model: str
    journal: Journal
    options: Options
    overwrite: bool
    predicting: ThreadPoolExecutor
    scratch: Path
    observed: PredictionLog | None = None
    observe: Observe | None = None

    def __post_init__(self) -> None:
        self.device = str(torch.device(self.predictor.device).type)
        self.classes = len(self.predictor.class_names)

    def images(
        self, sources: list[Source], label: str, lease: Lease
    ) -> Generator[tuple[bool | str, Result], None, None]:
        """As :meth:`segops.predict.work.Predicts.images`."""
        with closing(self._results(sources, lease)) as made:
            for source, done in zip(sources, track(made, label, len(sources)), strict=True):
                yield done, source.portable(done) if isinstance(done, str) else self._entry(source)

    def video(self, source: Source, lease: Lease) -> tuple[bool | str, Result]:
        """As :meth:`segops.predict.work.Predicts.video`."""
        job = VideoJob(
            source, self.predictor, self.model, self.device, self.journal, self.options,
            self.predicting, lease,
        )  # fmt: skip
        try:
            with named_shortage(source.place):
                done = job.run(self.overwrite)
        except SegopsError as error:
            message = _message(source, error)
            return message, source.portable(message)
        return done, self._entry(source)

    def _results(self, sources: list[Source], lease: Lease) -> Generator[bool | str, None, None]:
        """For each image: True once predicted, False if an earlier run did, else what is wrong."""
        remote = any(source.url for source in sources)
        if self.options.probabilities and not remote:
            size = sum(self._probabilities_size(*self._extent(source)) for source in sources)
            log.info("probabilities: %.2f GiB in %d file(s)", size / 2**30, len(sources))
        fetched = bucket.fetched(sources, self.scratch)
        with closing(fetched) if remote else nullcontext(sources) as items:
            do = partial(self._do, lease)
            yield from pipelined(
                items, do, THREADS, IMAGES_AT_ONCE - 1, size=self._size, limit=BYTES_AT_ONCE
            )

    def _entry(self, source: Source) -> FinishedImage:
        """The journal's entry of an image that is finished."""
        entry = self.journal.get(source.mask)
        assert entry is not None, source.name
        return entry

    def _size(self, source: Source) -> int:
        """Bytes of memory that an image takes at most while it is read, predicted or written."""
        width, height = self._extent(source)
        bytes_a_pixel = BYTES_A_PIXEL * max(RGB, self.predictor.channels) // RGB
        return width * height * bytes_a_pixel + self._probabilities_size(width, height)

    def _extent(self, source: Source) -> tuple[int, int]:
        """Width and height by the file's header; 0 where reading it will raise an error."""
        width, height = (extent(source.path) if source.path.is_file() else None) or (0, 0)
        return (width, height) if width * height <= self.predictor.max_pixels else (0, 0)

    def _probabilities_size(self, width: int, height: int) -> int:
        """Bytes of an image's probabilities; 0 where the options do not ask for them."""
        return 2 * self.classes * width * height if self.options.probabilities else 0

    def _do(self, lease: Lease, source: Source) -> bool | str:
        """Read, predict and write an image; see :meth:`_results`. Runs in a thread."""
        sha256: str | None = None
        try:
            with named_shortage(source.place):
                held = self._files(source)
                sha256 = files.sha256_bytes(held[0][1])
                if len(held) > 1:
                    hashes = [files.sha256_bytes(content) for _, content in held]
                    sha256 = files.sha256_lines(hashes)
                if not self.overwrite and self._is_done(source, sha256):
                    return False
                # The registered model decodes images the same way, so both give the same mask.
                pixels = decode_files(held, self.predictor)
                predicted, observation = self.predicting.submit(self._predict, pixels).result()
        except SegopsError as error:
            lease.require()
            self._remove_outdated(source, sha256)
            return _message(source, error)
        lease.require()
        self._write(source, sha256, predicted)
        if self.observed is not None and observation is not None:
            with _named_write_errors(source.path):
                self.observed.add(observation, source.name)
        return True

    def _files(self, source: Source) -> list[File]:
        """The files of an image whose name and kind are usable."""
        if source.path.exists() and not source.path.is_file():
            raise SegopsError(f"{source.path}: is no file.")
        try:
            return self._read(source)
        finally:
            if source.url is not None:
                source.path.unlink(missing_ok=True)

    def _read(self, source: Source) -> list[File]:
        if len(os.fsencode(Path(source.mask).stem)) > outputs.LONGEST_STEM:
            raise SegopsError(
                f"{source.path}: its name is too long for the names of its outputs; expected at "
                f"most {outputs.LONGEST_STEM} bytes before the suffix. Rename it."
            )
        return read_files(source.path, self.predictor.bands)

    def _is_done(self, source: Source, sha256: str) -> bool:
        entry = self.journal.get(source.mask)
        return (
            entry is not None
            and (entry.image, entry.model, entry.device) == (sha256, self.model, self.device)
            and outputs.are_whole(source.mask_path, entry.outputs, self.options.kinds())
        )

    def _predict(self, image: NDArray[np.uint8]) -> tuple[PredictedImage, Observation | None]:
        height, width = image.shape[:2]
        size = self._probabilities_size(width, height)
        if size > LARGEST_PROBABILITIES:
            raise SegopsError(
                f"its probabilities would take {size / 2**30:.1f} GiB ({self.classes} classes, "
                f"{width} x {height} pixels, 2 bytes each); at most "
                f"{LARGEST_PROBABILITIES / 2**30:.1f} GiB are written. Leave --probabilities out, "
                "or cut the image into parts."
            )
        observation = None
        if self.observe is None:
            prediction = self.predictor.predict(image)
        else:
            prediction, observation = self.observe(image)
        probabilities = activation = None
        if self.options.probabilities:
            # The mask is not made from these: rounded, they can tie where the scores do not.
            probabilities = self.predictor.predict_probabilities(image).astype(np.float16)
        if self.options.explain is not None:
            name = self.options.explain
            activation = explanation(self.predictor, image, prediction.mask, name)
        predicted = PredictedImage(
            false_colour(image),
            prediction.mask,
            prediction.confidence,
            probabilities,
            activation,
            self.predictor.classes,
        )
        return predicted, observation

    def _write(self, source: Source, sha256: str, predicted: PredictedImage) -> None:
        """Write an image's outputs, then its entry in the journal."""
        earlier = self.journal.get(source.mask)
        with _named_write_errors(source.mask_path):
            written = outputs.write(source.mask_path, predicted, self.options.kinds())
            if earlier is not None:
                outputs.remove(source.mask_path, earlier.outputs, written)
            height, width = predicted.mask.shape
            entry = FinishedImage(
                format=FORMAT,
                mask=source.mask,
                image=sha256,
                model=self.model,
                device=self.device,
                width=width,
                height=height,
                confidence=predicted.confidence,
                pixels=np.bincount(predicted.mask.ravel(), minlength=self.classes).tolist(),
                outputs=written,
            )
            self.journal.add(entry)

    def _remove_outdated(self, source: Source, sha256: str | None) -> None:
        """Remove the outputs of another content of the image or of another model.

        Outputs of the same content and model stay, for example after a run that was short of
        memory; so do all outputs of an image that cannot be read.
        """
        earlier = self.journal.get(source.mask)
        if sha256 and earlier and (earlier.image, earlier.model) != (sha256, self.model):
            with _named_write_errors(source.mask_path):
                outputs.remove(source.mask_path, earlier.outputs, {})


@contextmanager
def _named_write_errors(path: Path) -> Iterator[None]:
    """Raise a SegopsError that names the file in place of an OSError."""
    try:
        yield
    except OSError as error:
        raise SegopsError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}. Correct this "
            "and run the same command again: it continues where it stopped."
        ) from None


def _message(source: Source, error: SegopsError) -> str:
    text = str(error)
    if source.url is not None:
        text = text.replace(str(source.path), source.url)
    return text if source.place in text else f"{source.place}: {text}"

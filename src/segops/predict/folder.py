"""Masks, overlays and a table for an image or a directory of images."""

from __future__ import annotations

import logging
import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from segops import files
from segops.predict.limits import Room
from segops.predict.table import TABLE, write_table
from segops.progress import track
from segops.runtime.errors import SegopsError
from segops.runtime.images import decode_consumer_image, image_size, read_content
from segops.runtime.settings import PredictSettings
from segops.threads import cores

from . import activation, outputs
from .bundle import BundledPredictor, bundle_digest, load_bundle, read_model
from .journal import JOURNAL, LOCK, Entry, Journal
from .outputs import Finding, Options
from .sources import Source, find

IMAGES_AT_ONCE = 32
BYTES_AT_ONCE = 512 << 20
"""Of pictures read ahead, being predicted and being written; a larger one goes through alone."""

BYTES_A_PIXEL = 16
"""What a picture takes while it is decoded (the file's pixels, turned ones, RGB) or drawn."""

LARGEST_PROBABILITIES = 1 << 30
"""Bytes; the predictor holds twice as much, in float32."""

THREADS = max(2, min(8, cores()))

log = logging.getLogger("segops")


@dataclass(frozen=True)
class FolderResult:
    """What a run did.

    Attributes:
        now: Images predicted in this run.
        before: Images that earlier runs had done.
        failed: A message for each image that could not be done.
        table: The table of all images.
    """

    now: int
    before: int
    failed: list[str]
    table: Path


def predict_folder(
    source: Path,
    bundle: Path,
    output: Path,
    options: Options | None = None,
    *,
    device: str = "cpu",
    overwrite: bool = False,
) -> FolderResult:
    """Write a palette PNG ``NAME.png`` for every image, what `options` ask for, and a table.

    What is there already and whole is not done again: the same image (by its content), predicted by
    the same model on the same kind of device. Of an image that cannot be done, outputs of another
    content or model, which an earlier run wrote, are removed. The table, ``predictions.csv``, is
    written at the end; see :func:`segops.predict.table.write_table`. A run that was killed leaves
    whole files alone, and the next one ends with the same bytes as one that was not.

    Args:
        source: An image, or a directory; see :func:`segops.predict.sources.find`.
        bundle: A model bundle's directory.
        output: Directory of the outputs. What earlier runs wrote there may be replaced.
        options: What is written beside the mask; None: an overlay.
        device: A torch device, or `auto`.
        overwrite: Do again what is done.

    Returns:
        What was done and what could not be.

    Raises:
        SegopsError: The source, the output, the class to explain or the bundle is not usable, a
            file cannot be written, or another prediction is writing there.
    """
    options = options or Options()
    activation.require_class(options.explain, read_model(bundle).get("class_names", ()))
    sources = find(source, output)
    digest = bundle_digest(bundle)
    predictor = load_bundle(bundle, device, digest)
    with _putting(output), files.exclusive(output / LOCK, "a prediction"):
        folders = {(one.output / one.mask).parent for one in sources}
        outputs.sweep({output, (output / JOURNAL).parent, *folders})
        journal = Journal(output)
        work = _Work(predictor, digest, journal, options, overwrite)
        finished = False
        try:
            work.say_size(sources)
            for _ in track(work.run(sources), "predict", len(sources)):
                pass
            rows = ((one.name, work.row(one)) for one in sources)
            write_table(output / TABLE, predictor.class_names, rows)
            finished = True
        finally:
            journal.close(compact=finished)
    failed = [work.failed[one.name] for one in sources if one.name in work.failed]
    done = len(sources) - len(failed)
    return FolderResult(done - work.before, work.before, failed, output / TABLE)


@dataclass(frozen=True)
class _Picture:
    """A decoded image and the SHA-256 of its file's content."""

    pixels: NDArray[np.uint8]
    sha256: str


class _Work:
    """Reads ahead in threads, predicts in this one, writes in threads."""

    def __init__(
        self,
        predictor: BundledPredictor,
        digest: str,
        journal: Journal,
        options: Options,
        overwrite: bool,
    ) -> None:
        self._predictor = predictor
        self._key = (digest, str(torch.device(predictor.device).type))
        self._journal = journal
        self._options = options
        self._overwrite = overwrite
        # Of the settings this alone: the rest is read by the bundle's own code, of any version.
        own = predictor.model.get("predict", {})
        self._max_pixels = int(own.get("max_pixels", PredictSettings().max_pixels))
        self._room = Room(IMAGES_AT_ONCE, BYTES_AT_ONCE)
        self._writing: deque[Future[None]] = deque()
        self.failed: dict[str, str] = {}
        self.before = 0

    def run(self, sources: list[Source]) -> Iterator[None]:
        """Do all images; yields when one is predicted, or needs not be or cannot be."""
        readers = ThreadPoolExecutor(THREADS, "read")
        writers = ThreadPoolExecutor(THREADS, "write")
        reading: deque[tuple[Source, int, Future[_Picture | Entry]]] = deque()
        try:
            for source in sources:
                size = self._size(source)
                while not self._room.enter(size, wait=not reading):
                    self._finish(*reading.popleft(), writers)
                    yield
                reading.append((source, size, readers.submit(self._read, source)))
            while reading:
                self._finish(*reading.popleft(), writers)
                yield
            writers.shutdown()
            self._raise_failed_writes()
        finally:
            readers.shutdown(cancel_futures=True)
            writers.shutdown()

    def say_size(self, sources: list[Source]) -> None:
        """Say how much the probabilities take, where they are asked for: it can be a lot."""
        if self._options.probabilities:
            size = sum(self._probabilities_size(*self._extent(source)) for source in sources)
            log.info("probabilities: %.2f GiB in %d file(s)", size / 2**30, len(sources))

    def row(self, source: Source) -> Entry | str:
        """What the table says of an image."""
        if source.name in self.failed:
            return self.failed[source.name]
        entry = self._journal.get(source.mask)
        assert entry is not None, source.name
        return entry

    def _size(self, source: Source) -> int:
        """Bytes that an image takes at most while it is under way."""
        width, height = self._extent(source)
        return width * height * BYTES_A_PIXEL + self._probabilities_size(width, height)

    def _extent(self, source: Source) -> tuple[int, int]:
        """Width and height by the file's header, 0 where reading it will say what is wrong."""
        if not source.path.is_file():
            return 0, 0
        try:
            width, height = image_size(source.path)
        except SegopsError:
            return 0, 0
        return (width, height) if width * height <= self._max_pixels else (0, 0)

    def _probabilities_size(self, width: int, height: int) -> int:
        """Bytes of an image's probabilities, 0 where nobody asked for them."""
        classes = len(self._predictor.class_names)
        return 2 * classes * width * height if self._options.probabilities else 0

    def _read(self, source: Source) -> _Picture | Entry:
        """The decoded image, or what is known of it if it is done. Runs in a thread."""
        if source.path.exists() and not source.path.is_file():
            raise SegopsError(f"{source.path}: is no file.")
        name = Path(source.mask).stem
        if len(os.fsencode(name)) > outputs.LONGEST_STEM:
            raise SegopsError(
                f"{source.path}: its name is too long for the names of its outputs; expected at "
                f"most {outputs.LONGEST_STEM} bytes before the ending. Rename it."
            )
        content = read_content(source.path)
        sha256 = files.sha256_bytes(content)
        entry = None if self._overwrite else self._journal.get(source.mask)
        if entry is not None and (entry.image, entry.model, entry.device) == (sha256, *self._key):
            kinds = self._options.kinds()
            if outputs.whole(source.output / source.mask, entry.outputs, kinds):
                return entry
        # As the registered model decodes it, so that both give the same mask.
        pixels = decode_consumer_image(content, str(source.path), self._max_pixels)
        self._require_probabilities_fit(source, pixels)
        return _Picture(pixels, sha256)

    def _require_probabilities_fit(self, source: Source, pixels: NDArray[np.uint8]) -> None:
        height, width = pixels.shape[:2]
        size = self._probabilities_size(width, height)
        if size > LARGEST_PROBABILITIES:
            raise SegopsError(
                f"{source.path}: its probabilities would take {size / 2**30:.1f} GiB "
                f"({len(self._predictor.class_names)} classes, {width} x {height} pixels, 2 bytes "
                f"each); at most {LARGEST_PROBABILITIES / 2**30:.1f} GiB are written. Leave "
                "--probabilities out, or cut the image into parts."
            )

    def _finish(
        self,
        source: Source,
        size: int,
        future: Future[_Picture | Entry],
        writers: ThreadPoolExecutor,
    ) -> None:
        """Predict an image that was read, and have the outputs written."""
        self._raise_failed_writes()
        try:
            picture = future.result()
            if isinstance(picture, Entry):
                self.before += 1
                self._room.leave(size)
                return
            finding = self._predict(picture.pixels)
        except (SegopsError, RuntimeError, MemoryError) as error:
            if isinstance(error, RuntimeError) and not _is_out_of_memory(error):
                raise
            self.failed[source.name] = _message(source, error)
            self._forget(source)
            self._room.leave(size)
            return
        written = writers.submit(self._write, source, picture.sha256, finding)
        written.add_done_callback(lambda _: self._room.leave(size))
        self._writing.append(written)

    def _forget(self, source: Source) -> None:
        """Remove what an earlier run wrote for another content of the image, or by another model.

        What tells of this very image stays, as after a run that was short of memory.
        """
        mask = source.output / source.mask
        earlier = self._journal.get(source.mask)
        if earlier is None:
            return
        try:
            sha256 = files.sha256_bytes(read_content(source.path))
        except SegopsError:  # nobody knows what it holds
            return
        if (earlier.image, earlier.model) != (sha256, self._key[0]):
            with _putting(mask):
                outputs.remove(mask, earlier.outputs, {})

    def _predict(self, image: NDArray[np.uint8]) -> Finding:
        found = self._predictor.predict(image)
        probabilities = None
        if self._options.probabilities:
            # The mask does not come from these: rounded, they can tie where scores do not.
            probabilities = self._predictor.predict_probabilities(image).astype(np.float16)
        heat = None
        if self._options.explain is not None:
            heat = activation.view(self._predictor, image, found.mask, self._options.explain)
        return Finding(image, found.mask, found.confidence, probabilities, heat)

    def _write(self, source: Source, sha256: str, finding: Finding) -> None:
        """Write an image's outputs, then say so in the journal. Runs in a thread."""
        mask = source.output / source.mask
        earlier = self._journal.get(source.mask)
        with _putting(mask):
            written = outputs.write(mask, finding, self._options.kinds())
            if earlier is not None:
                outputs.remove(mask, earlier.outputs, written)
            counts = np.bincount(finding.mask.ravel(), minlength=len(self._predictor.class_names))
            model, device = self._key
            entry = Entry(
                image=sha256,
                model=model,
                device=device,
                width=finding.mask.shape[1],
                height=finding.mask.shape[0],
                confidence=finding.confidence,
                pixels=tuple(counts.tolist()),
                outputs=written,
            )
            self._journal.add(source.mask, entry)

    def _raise_failed_writes(self) -> None:
        while self._writing and self._writing[0].done():
            self._writing.popleft().result()


@contextmanager
def _putting(path: Path) -> Iterator[None]:
    """Say what could not be written."""
    try:
        yield
    except OSError as error:
        raise SegopsError(
            f"{error.filename or path}: cannot be written: {error.strerror or error}. Once that is "
            "put right, the same command goes on where it stopped."
        ) from None


def _is_out_of_memory(error: RuntimeError) -> bool:
    """Whether torch found too little memory, which on the CPU has no class of its own."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _message(source: Source, error: BaseException) -> str:
    if isinstance(error, SegopsError):
        text = str(error)
        return text if str(source.path) in text else f"{source.path}: {text}"
    return (
        f"{source.path}: does not fit into memory. Predict it by windows: set predict.mode to auto "
        "or window and package the model anew, or use another --device."
    )

"""The facts of an image and its mask, read from their files, also by processes of their own.

Much of the work is short calls that hold Python's lock; two threads wait for it a third of their
time.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any

import cv2
import numpy as np
from PIL import Image

from segops.children import apart, reply, to_parent
from segops.files import read_json, sha256_bytes
from segops.quality.borders import count_pixels
from segops.quality.duplicates import halved, perceptual_hash
from segops.runtime.bands import false_colour
from segops.runtime.classes import VOID
from segops.runtime.errors import SegopsError
from segops.runtime.images import load_mask, load_photograph, read_file
from segops.runtime.masks import ids_of
from segops.runtime.rgb import orientation
from segops.voc.bands import read_bands
from segops.voc.decoding import pixels_of
from segops.voc.layout import Layout
from segops.voc.pixels import four_bytes
from segops.voc.reading import Reading
from segops.words import counted

SPARSE = 4
GREY = "grey"
"""Hash of an image in grey, which tells images that may have equal pixels."""
MISSING = "no such file"
"""The error of a listed file that does not exist."""


def read_facts(layout: Layout, image_id: str) -> dict[str, Any]:
    """Read and fully decode an image and its mask.

    Returns:
        Columns of the facts table, without ids and pixel hashes, and `GREY`; of a file that cannot
        be decoded its path, its error, and what is known of it.
    """
    return _of_image(layout, image_id) | _of_mask(layout, image_id)


def read_together(
    layout: Layout, image_ids: Sequence[str], processes: int, limit: int
) -> Iterator[tuple[str, dict[str, Any] | None]]:
    """Yield each image with its :func:`read_facts`, read by this process and by others beside it.

    The others read from the first image on, while this process reads from the last one backwards:
    it is at work while they start, and what they have not reached in the end it reads too.

    Args:
        layout: The data set.
        image_ids: Its images, each once.
        processes: Number of other processes, at least 1.
        limit: Most pixels that are decoded at a time; a process decodes one image at a time. None
            is yielded for an image with more than a process's share of it.

    Raises:
        SegopsError: A process ended early; the message names the image that it was to read.
    """
    share = limit // (processes + 1)
    request = {
        "root": str(layout.root.absolute()),
        "reading": asdict(layout.reading),
        "limit": share,
    }
    done: set[str] = set()
    read: SimpleQueue[tuple[str, dict[str, Any] | None]] = SimpleQueue()

    def listen(process: subprocess.Popen[str], words: IO[bytes], own: Sequence[str]) -> None:
        for image_id in own:
            if image_id in done:
                process.kill()  # the rest is read
                return
            read.put((image_id, reply(process, words, image_id)["facts"]))
            done.add(image_id)  # only now do others take it for read

    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(1)
        pool = stack.enter_context(ThreadPoolExecutor(processes))
        listeners: list[Future[None]] = []
        for first in range(processes):
            own = image_ids[first::processes]
            started = stack.enter_context(apart(__name__, request | {"images": own}))
            listeners.append(pool.submit(listen, *started, own))
        yielded: set[str] = set()
        for image_id in reversed(image_ids):
            if image_id not in done:
                read.put((image_id, _read_within(layout, image_id, share)))
                done.add(image_id)
            for one in listeners:
                if one.done():
                    one.result()
            while not read.empty():
                found = read.get()
                if found[0] not in yielded:  # two may have read it at the same time
                    yielded.add(found[0])
                    yield found


def _read_within(layout: Layout, image_id: str, limit: int) -> dict[str, Any] | None:
    """Return the facts of an image; None where it has more pixels than the limit."""
    return None if pixels_of(layout, image_id) > limit else read_facts(layout, image_id)


def _of_image(layout: Layout, image_id: str) -> dict[str, Any]:
    if not layout.reading.bands.is_rgb:
        return _of_all_bands(layout, image_id)

    def decode(content: bytes, name: str) -> dict[str, Any]:
        image = load_photograph(content, name, layout.reading.photographs)
        return {
            "width": image.width,
            "height": image.height,
            "channels": len(image.getbands()),
            "mode": image.mode,
            "orientation": orientation(image),
            **_bands(image),
            **_look(image),
        }

    return _of_file("image", layout.root, layout.image_path(image_id), decode)


def _of_all_bands(layout: Layout, image_id: str) -> dict[str, Any]:
    """The facts of an image that is not RGB, from all its files."""
    path = layout.image_path(image_id)
    facts: dict[str, Any] = {"image_path": path.relative_to(layout.root).as_posix()}
    if not path.exists():
        return facts | {"image_error": MISSING}
    try:
        image = read_bands(layout, image_id)
    except SegopsError as error:
        words = str(error).replace(f"{layout.root}{os.sep}", "")
        return facts | {"image_error": words.removeprefix(f"{facts['image_path']}: ")}
    height, width, channels = image.pixels.shape
    sparse = image.pixels[::SPARSE, ::SPARSE].reshape(-1, channels)
    return facts | {
        "image_bytes": image.size,
        "image_sha256": image.sha256,
        "width": width,
        "height": height,
        "channels": channels,
        "mode": counted(channels, "band"),
        "orientation": image.orientation,
        "band_means": sparse.mean(axis=0).tolist(),
        "band_deviations": sparse.std(axis=0).tolist(),
        **_look(Image.fromarray(false_colour(image.pixels))),
    }


def _of_mask(layout: Layout, image_id: str) -> dict[str, Any]:
    mask_ids = layout.reading.mask_ids

    def decode(content: bytes, name: str) -> dict[str, Any]:
        image = load_mask(content, name, layout.reading.photographs)
        mask = ids_of(image, content, name)
        pixels = count_pixels(mask_ids.labels(mask), mask_ids.number)
        held = np.flatnonzero(pixels.all)
        return {
            "mask_width": mask.shape[1],
            "mask_height": mask.shape[0],
            "mask_mode": image.mode,
            "label_ids": held,
            "label_border": pixels.border[held],
            "label_loose": pixels.loose[held],
            "label_pixels": pixels.all[held],
            "void_fraction": pixels.all[VOID] / mask.size,
        }

    return _of_file("mask", layout.root, layout.mask_path(image_id), decode)


def _bands(image: Image.Image) -> dict[str, Any]:
    """Mean and deviation of the bands; none of a palette's indices or of more than 8 bits."""
    if image.mode not in ("L", "RGB", "RGBA"):
        return {}
    size = (max(1, image.width // SPARSE), max(1, image.height // SPARSE))
    sparse = image.resize(size, Image.Resampling.NEAREST)
    pixels = four_bytes(sparse) if image.mode == "RGB" else np.asarray(sparse)
    means, deviations = cv2.meanStdDev(pixels)
    number = len(image.getbands())
    return {"band_means": means[:number, 0], "band_deviations": deviations[:number, 0]}


def _look(image: Image.Image) -> dict[str, Any]:
    grey = halved(image)
    return {"perceptual_hash": perceptual_hash(grey), GREY: sha256_bytes(grey.tobytes())}


def _of_file(
    kind: str, root: Path, path: Path, decode: Callable[[bytes, str], dict[str, Any]]
) -> dict[str, Any]:
    """Return the facts of a file; `decode` raises if the content is unusable."""
    name = path.relative_to(root).as_posix()
    facts: dict[str, Any] = {f"{kind}_path": name}
    try:
        content = read_file(path)
        facts |= {f"{kind}_bytes": len(content), f"{kind}_sha256": sha256_bytes(content)}
        facts |= decode(content, name)
    except FileNotFoundError:
        facts[f"{kind}_error"] = MISSING
    except OSError as error:
        facts[f"{kind}_error"] = f"cannot be read: {error.strerror or error}"
    except SegopsError as error:
        facts[f"{kind}_error"] = str(error).removeprefix(f"{name}: ")
    return facts


def main() -> None:
    """Read the images of a request, and print a line of JSON for each."""
    request = read_json(Path(sys.argv[1]))
    layout = Layout(Path(request["root"]), Reading.from_json(request["reading"]))
    cv2.setNumThreads(1)
    with to_parent() as channel:
        for image_id in request["images"]:
            facts = _read_within(layout, image_id, request["limit"])
            # NumPy's arrays and numbers become lists and numbers.
            line = json.dumps({"facts": facts}, default=lambda one: one.tolist())
            print(line, file=channel, flush=True)


if __name__ == "__main__":
    main()

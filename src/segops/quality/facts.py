"""The facts table: properties of every image and mask of a data set, read from the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from segops.files import atomic_path
from segops.progress import track
from segops.quality.file_facts import GREY, read_facts, read_together
from segops.runtime.errors import SegopsError
from segops.runtime.images import PIXELS_AT_ONCE, load_photograph, read_content
from segops.threads import cores, pipelined
from segops.voc.bands import read_bands
from segops.voc.decoding import pixels_of
from segops.voc.hashes import HashRow, dataset_hash, pixel_hash
from segops.voc.layout import SPLITS, Layout
from segops.voc.pixels import rgb_strips
from segops.voc.reading import READ_AS_SHIPPED, Reading

MAX_WORKERS = 8
MANY = 300
"""Images from which on other processes read too: to start one takes as long as to read 200."""

SCHEMA = pa.schema(
    [
        ("image_id", pa.string()),
        ("split", pa.string()),
        ("image_path", pa.string()),
        ("mask_path", pa.string()),
        ("width", pa.int32()),
        ("height", pa.int32()),
        ("channels", pa.int8()),
        ("mode", pa.string()),
        ("orientation", pa.int8()),
        ("mask_width", pa.int32()),
        ("mask_height", pa.int32()),
        ("mask_mode", pa.string()),
        ("label_ids", pa.list_(pa.int16())),
        ("label_pixels", pa.list_(pa.int64())),
        ("label_border", pa.list_(pa.int64())),
        ("label_loose", pa.list_(pa.int64())),
        ("void_fraction", pa.float64()),
        ("band_means", pa.list_(pa.float32())),
        ("band_deviations", pa.list_(pa.float32())),
        ("image_bytes", pa.int64()),
        ("mask_bytes", pa.int64()),
        ("image_sha256", pa.string()),
        ("mask_sha256", pa.string()),
        ("image_pixels", pa.string()),
        ("perceptual_hash", pa.string()),
        ("image_error", pa.string()),
        ("mask_error", pa.string()),
    ]
)
"""Columns of the table. Lengths are pixels; `label_pixels[i]` counts the pixels of `label_ids[i]`
(void included), which are classes as :meth:`segops.voc.mask_ids.MaskIds.labels` gives them,
`label_border[i]` and `label_loose[i]` those of :class:`segops.quality.borders.MaskPixels`;
`void_fraction` is in [0, 1]; `band_means` and `band_deviations` are mean and standard deviation of
each 8-bit band, 0..255, by every `SPARSE`-th pixel of every `SPARSE`-th row; `perceptual_hash` is
that of :mod:`segops.quality.duplicates`, `image_pixels` the :func:`segops.voc.hashes.pixel_hash` of
images whose size and look in grey are those of another too (the pixels of others are no
other's); an unknown fact is null, and the error column says why."""

_DTYPES = {
    pa.int8(): pd.Int8Dtype(),
    pa.int32(): pd.Int32Dtype(),
    pa.int64(): pd.Int64Dtype(),
}


def scan(layout: Layout, workers: int | None = None) -> pd.DataFrame:
    """Read and fully decode every listed image and mask, in parallel.

    A file that is missing or cannot be decoded raises nothing; its row has an error. `workers` is
    the number of decoding threads, or of processes, this one included, from `MANY` images on; None
    or 0: one per core, at most 8. They decode `PIXELS_AT_ONCE` pixels at a time at most.

    Returns:
        A row per listed (image id, split), in the lists' order; columns as in `SCHEMA`.
    """
    listed = [(image_id, split) for split, ids in layout.splits().items() for image_id in ids]
    unique = list(dict.fromkeys(image_id for image_id, _ in listed))

    threads = workers or min(MAX_WORKERS, cores())
    pipeline = partial(
        pipelined,
        threads=threads,
        waiting=4 * threads,
        size=partial(pixels_of, layout),
        limit=PIXELS_AT_ONCE,
    )
    facts: dict[str, dict[str, Any]] = {}
    by_threads = unique
    if threads > 1 and len(unique) >= MANY:
        read = read_together(layout, unique, threads - 1, PIXELS_AT_ONCE)
        found = dict(track(read, "Scanning images", len(unique)))
        facts = {image_id: one for image_id, one in found.items() if one is not None}
        by_threads = [image_id for image_id, one in found.items() if one is None]
    results = track(
        pipeline(by_threads, partial(read_facts, layout)), "Scanning images", len(by_threads)
    )
    facts |= zip(by_threads, results, strict=True)
    _add_pixel_hashes(layout, facts, pipeline)
    rows = [{"image_id": name, "split": split, **facts[name]} for name, split in listed]
    return _to_frame(pa.Table.from_pylist(rows, schema=SCHEMA))


def empty_facts() -> pd.DataFrame:
    """Return a facts table without rows."""
    return _to_frame(SCHEMA.empty_table())


def write_facts(path: Path, facts: pd.DataFrame) -> None:
    """Write the table as Parquet, whole or not at all; the same facts give the same bytes."""
    table = pa.Table.from_pandas(facts, schema=SCHEMA, preserve_index=False)
    with atomic_path(path) as temporary:
        pq.write_table(table.replace_schema_metadata(None), temporary, compression="zstd")


def data_hash(
    facts: pd.DataFrame, class_names: Sequence[str], reading: Reading = READ_AS_SHIPPED
) -> str:
    """Return the :func:`segops.voc.hashes.dataset_hash` over train and val."""
    return _hash(facts[facts["split"].isin(SPLITS)], class_names, reading)


def split_hash(
    facts: pd.DataFrame, split: str, class_names: Sequence[str], reading: Reading = READ_AS_SHIPPED
) -> str:
    """Return the hash of a single split; see :func:`segops.voc.hashes.dataset_hash`."""
    return _hash(facts[facts["split"] == split], class_names, reading)


def _hash(facts: pd.DataFrame, class_names: Sequence[str], reading: Reading) -> str:
    columns = ["split", "image_id", "image_sha256", "mask_sha256"]
    rows = facts[columns].fillna("missing").itertuples(index=False, name=None)
    return dataset_hash(cast("Iterable[HashRow]", rows), class_names, reading.lines)


def _to_frame(table: pa.Table) -> pd.DataFrame:
    frame: pd.DataFrame = table.to_pandas(types_mapper=_DTYPES.get)
    return frame


def _add_pixel_hashes(
    layout: Layout, facts: dict[str, dict[str, Any]], pipeline: Callable[..., Iterator[Any]]
) -> None:
    """Add the pixel hash of every image that may have the pixels of another."""
    looks = {
        image_id: (one.pop(GREY), one["width"], one["height"])
        for image_id, one in facts.items()
        if GREY in one
    }
    times = Counter(looks.values())
    alike = [image_id for image_id, look in looks.items() if times[look] > 1]

    def read(image_id: str) -> dict[str, str]:
        path, reading = layout.image_path(image_id), layout.reading
        try:
            if not reading.bands.is_rgb:
                pixels = read_bands(layout, image_id).pixels
                return {"image_pixels": pixel_hash([pixels], pixels.shape[1], pixels.shape[0])}
            image = load_photograph(read_content(path), str(path), reading.photographs)
        except SegopsError:  # changed since it was decoded
            return {}
        return {"image_pixels": pixel_hash(rgb_strips(image), *image.size)}

    hashes = track(pipeline(alike, read), "Comparing images", len(alike))
    for image_id, added in zip(alike, hashes, strict=True):
        facts[image_id] |= added

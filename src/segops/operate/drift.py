"""Compares images or a prediction log with the champion's data, and writes the page."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops import paths
from segops.data.store import PackedStore
from segops.monitor import reference as references
from segops.monitor import sample as samples
from segops.monitor.drift import Drift, Test, Unusual, compare
from segops.monitor.page import sentence, value_of, write_drift_page
from segops.monitor.reference import Images, Reference
from segops.operate import turns
from segops.operate.data_version import cached_data
from segops.params.file import Params, load_params
from segops.predict.bundle import BundledPredictor, bundle_digest, load_bundle
from segops.predict.log import is_log
from segops.predict.seen import IMAGES
from segops.record.lineage import tag
from segops.release.resolve import resolved_version
from segops.release.versions import Version
from segops.runtime import opener
from segops.runtime.bands import false_colour
from segops.runtime.errors import SegopsError
from segops.voc.bands import read_pixels
from segops.voc.cached import linked
from segops.voc.decoding import decoded_size
from segops.voc.layout import SPLITS, TRAIN, open_layout
from segops.words import counted

KEPT = paths.STATE / "drift"
MOST_KEPT = 10
"""Models of which the observations of their data are kept; those of others are made again."""
PAGE = Path("reports/drift.html")
log = logging.getLogger("segops")


class TooFewError(SegopsError):
    """There are fewer images than `monitor.min_images`."""


@dataclass(frozen=True)
class Monitored:
    """The outcome of a comparison.

    Attributes:
        drift: What was found.
        model: What the model is called.
        registered: Name of the workspace's registered model.
        bundle_digest: SHA-256 of its bundle.
        data_hash: Hash of its data.
        source: What was compared.
        notes: Sentences on what was left out.
        page: The page.
    """

    drift: Drift
    model: str
    registered: str
    bundle_digest: str
    data_hash: str
    source: Path
    notes: tuple[str, ...]
    page: Path

    @property
    def sentence(self) -> str:
        """What was found, in a sentence."""
        return sentence(self.drift)

    def changes(self, test: Test, most: int) -> list[str]:
        """What changed by a test, in words: at most so many statistics."""
        return [
            f"{one.name} {value_of(one.name, one.sample[1], test.name)} instead of "
            f"{value_of(one.name, one.reference[1], test.name)}"
            for one in test.changes
            if test.drifted and one.p <= self.drift.alpha
        ][:most]

    def to_json(self) -> dict[str, Any]:
        """All of it, with the most unusual images only."""
        tree = asdict(self) | {"source": str(self.source), "page": str(self.page)}
        tree["drift"]["unusual"] = tree["drift"]["unusual"][:24]
        return {"drifted": self.drift.drifted, "sentence": self.sentence, **tree}


def monitor(
    root: Path,
    source: Path,
    page: Path,
    *,
    model: str | None = None,
    device: str = "auto",
    days: float | None = None,
) -> Monitored:
    """Compare images or a prediction log with the data of a model, and write a page.

    The observations of the model's data are kept in the main checkout, in ``.segops/drift``.

    Args:
        root: The workspace.
        source: A directory of images, or a prediction log.
        page: The HTML file to write.
        model: As of :func:`segops.release.resolve.resolved`; None: the champion.
        device: Where images are predicted; the turn of a graphics card is waited for.
        days: Compare only what came within so many days; None: as `monitor.days` says.

    Raises:
        TooFewError: There are too few images.
        SegopsError: There is no such model or source, or the model's data are not to be had.
        TransientError: MLflow does not answer.
    """
    settings = load_params(root)
    days = settings.monitor.days if days is None else days
    if not source.exists():
        raise SegopsError(
            f"{source}: no such file or directory. Expected a directory of images, or a log that "
            "`segops predict --log` wrote."
        )
    with resolved_version(model, root) as (bundle, version), ExitStack() as turn:
        digest = bundle_digest(bundle)
        directory = paths.state_home(root) / KEPT
        kept = _kept(directory, digest, version)
        if kept is not None and is_log(source):
            device = "cpu"  # nothing is predicted
        turn.enter_context(turns.card(device))
        predictor = load_bundle(bundle, device, digest)
        name = model or "the champion"
        if version is not None:
            name = f"version {version.number} ({model or 'the champion'})"
        data_hash, reference = kept or _made(root, settings, directory, predictor, digest, version)
        if is_log(source):
            sample = samples.of_log(predictor, digest, source, days)
        else:
            sample = samples.of_folder(predictor, source, days)
        least = settings.monitor.min_images
        if len(sample.images) < least:
            raise TooFewError(_too_few(source, sample, least, days))
        drift = compare(
            reference, sample.images, predictor.class_names, predictor.channels,
            settings.monitor.alpha, least,
        )  # fmt: skip
        notes = tuple(_notes(sample))
        for failure in sample.failed:
            log.warning("%s", failure)

        def picture(one: Unusual) -> NDArray[np.uint8] | None:
            if not settings.report.pictures or one.name not in sample.paths:
                return None
            image = samples.read_image(predictor, sample.paths[one.name])
            shown: NDArray[np.uint8] = false_colour(image)
            return shown

        write_drift_page(
            page,
            drift,
            model=name,
            source=str(source),
            reference=f"{len(reference.train)} images of train and {len(reference.val)} of val",
            notes=notes,
            picture=picture,
        )
    return Monitored(drift, name, settings.registry.model, digest, data_hash, source, notes, page)


def monitor_watched(root: Path) -> Monitored:
    """Compare what `monitor.path` names with the data of the champion.

    Raises:
        SegopsError: It names nothing; or as :func:`monitor`.
        TransientError: MLflow does not answer.
    """
    path = load_params(root).monitor.require_path()
    return monitor(root, root / path, root / PAGE)


def _too_few(source: Path, sample: samples.Sample, least: int, days: float | None) -> str:
    within = "" if days is None else f" of the last {days:g} days"
    others = "" if not sample.others else f" ({sample.others} lines are of other models)"
    repeated = "" if not sample.repeated else f" without {sample.repeated} repeated ones"
    failed = (
        ""
        if not sample.failed
        else (f"; {len(sample.failed)} cannot be read, the first: {sample.failed[0].rstrip('.')}")
    )
    return (
        f"{source}: {counted(len(sample.images), 'image')}{within}{repeated}{others}{failed}. "
        f"A comparison takes at least {least} (monitor.min_images). Gather more."
    )


def _notes(sample: samples.Sample) -> Iterator[str]:
    present = sample.total - sample.repeated
    if len(sample.images) + len(sample.failed) < present:
        yield f"{len(sample.images)} of {present} images were chosen by their hash."
    if sample.repeated:
        yield f"{counted(sample.repeated, 'repeated image')}: each image counts once."
    if sample.failed:
        yield f"{counted(len(sample.failed), 'image')} could not be read and are left out."
    if sample.others:
        yield f"{counted(sample.others, 'line')} of other models are left out."
    seen = sum(one.is_seen for one in sample.images)
    if seen:
        yield (
            f"The model was trained on {seen} of the images; its predictions of these are not "
            "compared."
        )


def _kept(directory: Path, digest: str, version: Version | None) -> tuple[str, Reference] | None:
    """Return the hash of a version's data, and their observations where these are kept."""
    data_hash = None if version is None else version.tags.get(tag("data_hash"))
    if data_hash is None:
        return None
    kept = references.read_kept(references.kept_path(directory, digest, data_hash), digest)
    return None if kept is None else (data_hash, kept)


def _made(
    root: Path,
    settings: Params,
    directory: Path,
    predictor: BundledPredictor,
    digest: str,
    version: Version | None,
) -> tuple[str, Reference]:
    """Return the hash of the model's data, and the observations of these."""
    data_hash = None if version is None else version.tags.get(tag("data_hash"))
    with _images(root, settings, predictor, version, data_hash) as (found_hash, images):
        path = references.kept_path(directory, digest, found_hash)
        kept = references.read_kept(path, digest)
        made = kept or references.measure(predictor, images, path, digest)
    others = [one for one in directory.glob("*.jsonl") if one != path]
    for old in sorted(others, key=lambda one: one.stat().st_mtime)[: -(MOST_KEPT - 1)]:
        old.unlink(missing_ok=True)
    return found_hash, made


@contextmanager
def _images(
    root: Path,
    settings: Params,
    predictor: BundledPredictor,
    version: Version | None,
    data_hash: str | None,
) -> Iterator[tuple[str, Images]]:
    """Yield the hash and the images of a model's data: packed here, else out of DVC's cache."""
    if (root / paths.PACKED).is_dir():
        store = PackedStore(root / paths.PACKED)
        if _is_of(store, predictor, data_hash):
            predictor.require_channels(store.channels, "The model")
            ids = {split: store.ids(split) for split in SPLITS}
            yield store.data_hash, Images(ids, store.image, store.size)
            return
    if version is None or data_hash is None:
        raise SegopsError(
            f"{paths.PACKED}: does not hold the images that the model was trained on. "
            "`dvc repro prepare` packs them; or name a registered version, whose data DVC keeps."
        )
    md5 = version.tags.get(tag("data_md5"), "")
    if not md5:
        raise SegopsError(
            f"Version {version.number}: its tags name no data, and {paths.PACKED} holds others. "
            "Check out its commit and its data, then `dvc repro prepare`."
        )
    data = Path(settings.data.path)
    with linked(cached_data(root, data, md5, f"of version {version.number}")) as held:
        reading = settings.data.reading
        depth = predictor.model.get(opener.BIT_DEPTH)
        reading = replace(
            reading,
            bands=predictor.bands,
            photographs=replace(reading.photographs, bit_depth=depth),
        )
        layout = open_layout(held, reading)
        ids = {split: layout.ids(split) for split in SPLITS}
        yield (
            data_hash,
            Images(
                ids,
                lambda one: read_pixels(layout, one),
                lambda one: decoded_size(layout, layout.image_path(one)),
            ),
        )


def _is_of(store: PackedStore, predictor: BundledPredictor, data_hash: str | None) -> bool:
    """Whether a store holds the data of a model."""
    if data_hash is not None:
        return store.data_hash == data_hash
    trained = set(predictor.model[IMAGES].values())
    own = {store.image_sha256(one) for one in store.ids(TRAIN)}
    return bool(trained) and own <= trained

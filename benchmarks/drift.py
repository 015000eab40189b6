"""How often `segops monitor` raises a false alarm, and how often it finds planted drifts.

    python -m benchmarks.drift [--epochs 30] [--images 800] [--null 200] [--repeats 100]
                               [--bundle DIRECTORY]

A small network is trained on generated images. Each repetition draws 80 new images as val and 50 or
200 others as the sample, and compares them as the command does; `same` is the rate of false alarms,
all others are found drifts, each with its 95 % interval (Clopper and Pearson). The last lines say
how often the features of new images raise a false alarm against those of the images that the
network was trained on, which it may know better, and against those of others.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from io import BytesIO
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from scipy.stats import binomtest

from benchmarks.common import generated_store, job_of, settings_of
from segops.data.store import PackedStore
from segops.monitor.drift import TESTS, Drift, Watched, compare
from segops.monitor.reference import Reference
from segops.monitor.statistics import mmd_test
from segops.params.hardware import HardwareParams
from segops.predict.bundle import BundledPredictor, load_bundle
from segops.predict.observe import Observation, observe, observing
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.progress import track
from segops.runtime.classes import VOC_CLASSES
from segops.train.loop import train
from tools.sample import JPEG_QUALITY, scene

Pixels = NDArray[np.uint8]
ALPHA, LEAST = 0.01, 20
VAL, SIZES = 80, (50, 200)
MODEL = {
    "architecture": "unet",
    "encoder": "tu-test_resnet",
    "options": {"decoder_channels": [32, 16, 16, 8, 8]},
}
"""A network that learns the generated images in minutes on two cores."""
KINDS = 8
"""Kinds of objects; every scene's first object is of the kind of its number."""
SHOWN = 4
"""The kind of the first object of every scene after the shift of labels."""


def photograph(image: Pixels, quality: int = JPEG_QUALITY) -> Pixels:
    """An image as a JPEG gives it."""
    stream = BytesIO()
    Image.fromarray(image).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream))


def new_image(number: int) -> Pixels:
    """A photograph of the kind that the network is trained on, and that it has not seen."""
    return photograph(scene(seed=77, split=1, index=number).image)


def night(image: Pixels) -> Pixels:
    """Darker, with the noise of a sensor."""
    dark = 255 * (image / 255) ** 1.5 * 0.4
    return photograph(_noisy(dark, 5, image))


def blur(image: Pixels) -> Pixels:
    """Out of focus."""
    return photograph(np.asarray(cv2.GaussianBlur(image, (0, 0), 1.5), np.uint8))


def other_camera(image: Pixels) -> Pixels:
    """Warmer, more contrast, more noise and stronger compression."""
    warmer = (image.astype(float) - 110) * 1.15 + 110 + np.array([8.0, 2.0, -8.0])
    return photograph(_noisy(warmer, 6, image), 60)


def new_class(image: Pixels) -> Pixels:
    """An object of a kind that no training image holds covers about a fifth of the image."""
    height, width = image.shape[:2]
    random = np.random.default_rng(int(image.sum()))
    drawn = image.copy()
    centre = int(random.integers(width // 3, 2 * width // 3)), height // 2
    colour = [int(value) for value in random.integers(40, 216, 3)]
    cv2.circle(drawn, centre, height // 4, colour, -1, cv2.LINE_AA)
    for radius in range(4, height // 4, 7):
        cv2.circle(drawn, centre, radius, [value // 2 for value in colour], 2, cv2.LINE_AA)
    return photograph(drawn)


def _noisy(values: NDArray[np.float64], deviation: float, image: Pixels) -> Pixels:
    random = np.random.default_rng(int(image.sum()))
    noise = random.normal(0, deviation, values.shape)
    return np.asarray((values + noise).clip(0, 255), np.uint8)


DRIFTS: Mapping[str, Callable[[Pixels], Pixels]] = {
    "night": night,
    "blur": blur,
    "other camera": other_camera,
    "new class": new_class,
}


def trained(directory: Path, store: PackedStore, epochs: int) -> Path:
    """A bundle of a network that is trained on a store."""
    settings = settings_of(epochs=epochs, device="cpu", precision="fp32")
    model = type(settings.model).model_validate(settings.model.model_dump() | MODEL)
    hardware = HardwareParams(workers=0, threads=1)
    settings = settings.model_copy(update={"model": model, "hardware": hardware})
    job = job_of(settings, store, directory)
    network = train(job).network
    ids = store.ids("train")
    images = {one: store.image_sha256(one) for one in ids}
    write_trained(directory / "bundle", network, job.spec, VOC_CLASSES, images, {})
    package(directory / "bundle", directory / "bundle")
    return directory / "bundle"


def observed(predictor: BundledPredictor, images: Sequence[Pixels], name: str) -> list[Observation]:
    """What the monitor keeps of predicted images."""
    with observing(predictor) as predict:
        return [predict(one)[1] for one in track(images, name)]


def rate(hits: int, count: int) -> str:
    """A share with its interval."""
    low, high = binomtest(hits, count).proportion_ci()
    return f"{hits / count:6.1%} ({low:.1%} to {high:.1%})"


def repeated(draw: Callable[[np.random.Generator], Drift], repeats: int, name: str) -> list[Drift]:
    """The outcome of several repetitions."""
    return [draw(np.random.default_rng(number)) for number in track(range(repeats), name)]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--images", type=int, default=800)
    parser.add_argument("--null", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--bundle", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        store = generated_store(Path(name), 240)
        bundle = given.bundle or trained(Path(name), store, given.epochs)
        predictor = load_bundle(bundle)
        torch.set_num_threads(1)
        known = [np.array(store.image(one)) for one in store.ids("train")]
        reference = [observe(one) for one in known]
        embedded = observed(predictor, known, "train")
    images = [new_image(number) for number in range(given.images)]
    pool = np.array(observed(predictor, images, "new images"), object)
    few = images[: 3 * max(SIZES) // 2]
    others = {
        kind: np.array(observed(predictor, list(map(change, few)), kind), object)
        for kind, change in DRIFTS.items()
    }
    shifted = [KINDS * (1000 + number) + SHOWN for number in range(len(few))]
    others["label shift"] = np.array(
        observed(predictor, list(map(new_image, shifted)), "label shift"), object
    )

    def draw(random: np.random.Generator, size: int, changed: NDArray[np.object_] | None) -> Drift:
        order = random.permutation(len(pool))
        val, sample = pool[order[:VAL]], pool[order[VAL : VAL + size]]
        if changed is not None:
            # No changed image of val itself: it would look like val.
            free = np.setdiff1d(np.arange(len(changed)), order[:VAL])
            sample = changed[random.choice(free, size, replace=False)]
        watched = [Watched(str(number), one) for number, one in enumerate(sample)]
        given = Reference(tuple(reference), tuple(val))
        return compare(given, watched, predictor.class_names, 3, ALPHA, LEAST)

    print(
        f"{'images':8} {'drift':14} {'alarm':24} " + " ".join(f"{one:>20}" for one in TESTS),
        flush=True,
    )
    for size in SIZES:
        for kind, changed in {"same": None, **others}.items():
            repeats = given.null if changed is None else given.repeats
            once = partial(draw, size=size, changed=changed)
            found = repeated(once, repeats, f"{kind}, {size}")
            alarms = rate(sum(one.drifted for one in found), repeats)
            each = [
                sum(any(test.name == name and test.drifted for test in one.tests) for one in found)
                for name in TESTS
            ]
            shares = " ".join(f"{hits / repeats:20.1%}" for hits in each)
            print(f"{size:8} {kind:14} {alarms:24} {shares}", flush=True)
    points = [
        np.array([one.predicted.embedding for one in some if one.predicted], np.float64)
        for some in (embedded, pool)
    ]
    for against in ("train", "val"):
        hits = 0
        for number in range(given.null):
            order = np.random.default_rng(number).permutation(len(pool))
            one = points[0] if against == "train" else points[1][order[200 : 200 + len(points[0])]]
            hits += mmd_test(one, points[1][order[:50]]).p <= ALPHA
        print(f"features of 50 new images against {against}: alarm {rate(hits, given.null)}")


if __name__ == "__main__":
    main()

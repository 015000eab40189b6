"""How many planted label errors the audit finds, against cleanlab's score and against chance.

    python -m benchmarks.label_audit [--images 240] [--planted 24] [--epochs 20]
                                     [--cleanlab PYTHON]

Objects in masks of generated images get another class, are dropped, or are shifted; then
`segops data labels` judges all images in folds. Printed is the precision at n: the share of planted
images among the first n of a ranking, n being the number of planted ones. By segments an image has
the rank of its surest one. PYTHON is the interpreter of an environment that holds
cleanlab. cleanlab does not take void (255), so void is made background for it.
"""

from __future__ import annotations

import argparse
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import yaml
from numpy.typing import NDArray

from benchmarks.common import REPOSITORY
from segops import files, paths
from segops.augment.policy import build_policy
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.label_check.audit import KEPT, LabelAudit, audit_labels
from segops.label_check.folds import BUNDLE, divide
from segops.params.file import load_params
from segops.predict.bundle import load_bundle
from segops.runtime.classes import VOC_CLASSES, VOID
from segops.runtime.masks import read_mask, write_mask
from segops.voc.layout import TRAIN, Layout, open_layout
from tools.sample import CLASS_IDS, generate

Mask = NDArray[np.uint8]
CLEANLAB = """
import sys
import numpy as np
from cleanlab.segmentation.rank import get_label_quality_scores
names, scores = [], []
for path in sys.argv[1:]:
    with np.load(path) as one:
        score, _ = get_label_quality_scores(one["label"][None], one["probabilities"][None],
                                            verbose=False)
    print(score[0])
"""


@dataclass(frozen=True)
class Figures:
    """Share of planted images among the first n, by how images are ranked."""

    planted: int
    images: int
    precision: Mapping[str, float]


def swapped(mask: Mask, inside: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """The object gets another class."""
    own = int(mask[inside][0])
    mask[inside] = rng.choice([one for one in CLASS_IDS if one != own])
    return mask


def dropped(mask: Mask, inside: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """The object becomes background."""
    mask[inside] = 0
    return mask


def shifted(mask: Mask, inside: NDArray[np.bool_], rng: np.random.Generator) -> Mask:
    """The whole mask lies a fifth of the image's width too far right."""
    del inside, rng
    return np.roll(mask, mask.shape[1] // 5, axis=1)


KINDS: tuple[Callable[[Mask, NDArray[np.bool_], np.random.Generator], Mask], ...] = (
    swapped, dropped, shifted,
)  # fmt: skip


def plant(layout: Layout, count: int, seed: int = 0) -> dict[str, str]:
    """Put an error into the masks of `count` images of train; returns the kind by image id.

    The kinds take turns. The object is the largest of the mask.
    """
    rng = np.random.default_rng(seed)
    chosen = rng.choice(sorted(layout.ids(TRAIN)), count, replace=False)
    planted = {}
    for number, image_id in enumerate(map(str, chosen)):
        path, kind = layout.mask_path(image_id), KINDS[number % len(KINDS)]
        mask = read_mask(path).copy()
        objects = ((mask != 0) & (mask != VOID)).astype(np.uint8)
        _, components, stats, _ = cv2.connectedComponentsWithStats(objects)
        inside = components == 1 + int(np.argmax(stats[1:, cv2.CC_STAT_AREA]))
        write_mask(path, kind(mask, inside, rng))
        planted[image_id] = kind.__name__
    return planted


def workspace(
    root: Path, images: int, size: tuple[int, int], changes: Mapping[str, object]
) -> Path:
    """A workspace with generated data, prepared for training but for :func:`prepare`."""
    root.mkdir(parents=True, exist_ok=True)
    generate(root / "voc", train=images, val=8, seed=5, size=size)
    tree = yaml.safe_load((REPOSITORY / "params.yaml").read_text())
    for key, value in {"data.path": "voc", **changes}.items():
        section, name = key.split(".")
        tree[section][name] = value
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    (root / "dvc.yaml").write_text("stages: {}\n")
    return root


def prepare(root: Path) -> None:
    """Pack the data, as the stages do."""
    pack(open_layout(root / "voc"), root / paths.PACKED, VOC_CLASSES)
    files.write_json(root / paths.POLICY, build_policy(load_params(root).augment).to_json())


def ranked_by_segments(audit: LabelAudit) -> list[str]:
    """Images by their surest segment, then by their score."""
    surest = {row.image_id: max((one.score for one in row.segments), default=0.0)
              for row in audit.rows}  # fmt: skip
    return sorted(surest, key=lambda image_id: -surest[image_id])


def by_cleanlab(root: Path, python: str, folds: int) -> list[str]:
    """Images by the score that cleanlab gives them, from the same models."""
    store = PackedStore(root / paths.PACKED)
    scores: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as directory:
        written = {}
        for number, fold in enumerate(divide(store, (TRAIN,), folds)):
            predictor = load_bundle(root / KEPT / str(number) / BUNDLE)
            for image_id in fold.judged:
                label = np.array(store.mask(image_id))
                label[label == VOID] = 0
                written[image_id] = Path(directory) / f"{image_id}.npz"
                probabilities = predictor.predict_probabilities(store.image(image_id))
                np.savez(written[image_id], label=label, probabilities=probabilities)
        done = subprocess.run(
            [python, "-c", CLEANLAB, *map(str, written.values())],
            capture_output=True, text=True, check=True,
        )  # fmt: skip
        scores = dict(zip(written, map(float, done.stdout.split()), strict=True))
    return sorted(scores, key=lambda image_id: scores[image_id])


def measure(
    root: Path, planted: Mapping[str, str], audit: LabelAudit, rankings: Mapping[str, Sequence[str]]
) -> Figures:
    """Precision at n of the audit's own rankings and of others."""
    every = {
        "softmin": [row.image_id for row in audit.rows],
        "segments": ranked_by_segments(audit),
        **rankings,
    }
    n = len(planted)
    precision = {name: sum(one in planted for one in ids[:n]) / n for name, ids in every.items()}
    return Figures(n, len(audit.rows), precision | {"chance": n / len(audit.rows)})


def main() -> None:
    """Plant, audit, print."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--images", type=int, default=240)
    asked.add_argument("--planted", type=int, default=24)
    asked.add_argument("--epochs", type=int, default=20)
    asked.add_argument("--folds", type=int, default=3)
    asked.add_argument("--cleanlab", metavar="PYTHON")
    options = asked.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = workspace(Path(directory) / "checkout", options.images, (160, 128), {})
        planted = plant(open_layout(root / "voc"), options.planted)
        prepare(root)
        audit = audit_labels(
            root, load_params(root), (TRAIN,), root / "reports",
            folds=options.folds, epochs=options.epochs, most=options.planted,
        )  # fmt: skip
        others = {}
        if options.cleanlab:
            others["cleanlab, void as background"] = by_cleanlab(
                root, options.cleanlab, options.folds
            )
        found = measure(root, planted, audit, others)
        print(f"{found.planted} of {found.images} masks with a planted error")
        for name, value in found.precision.items():
            print(f"precision at {found.planted}, {name}: {value:.3f}")
        first = {row.image_id for row in audit.rows[: found.planted]}
        segments = set(ranked_by_segments(audit)[: found.planted])
        for kind in dict.fromkeys(planted.values()):
            ids = {one for one, what in planted.items() if what == kind}
            print(
                f"{kind}: {len(ids & first)} of {len(ids)} by softmin, {len(ids & segments)} by "
                "segments"
            )


if __name__ == "__main__":
    main()

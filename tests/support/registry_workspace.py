"""Small workspaces for the tests of the record: real data, real bundles, scores of one's choice.

Training is left out: a test says how good a model is, and the counts on the real val masks are made
to fit. What the tests are about, MLflow, is real.
"""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import yaml
from mlflow import MlflowClient

from segops import files, paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import kept_masks
from segops.evaluate.bootstrap import COLUMNS, miou_from_counts, true_classes
from segops.metrics.catalogue import compute_metrics
from segops.metrics.confusion import confusion_matrix
from segops.metrics.counts import SplitCounts
from segops.metrics.iou import class_pixels
from segops.params.file import load_params
from segops.predict.bundle import bundle_digest, load_bundle
from segops.predict.machine import describe
from segops.predict.trained import write_trained
from segops.record.tracking import session
from segops.record.update import record
from segops.release import promotion
from segops.release.gate import Decision
from segops.release.ledger import Ledger
from segops.release.register import Registered, register
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.networks.zoo import ModelSpec, build
from segops.stages import package
from segops.voc.layout import open_layout
from tests.support.bundles import weights_sha256
from tools.sample import generate

SPEC = ModelSpec("plain_cnn", "", 21, {"width": 4})
EPOCHS = 3
PARAMS: dict[str, Any] = {
    "model": {"architecture": "plain_cnn"},
    "train": {"epochs": EPOCHS},
    "validate": {"required_classes": ["background"]},
    "gate": {"min_miou": 0.2, "margin": 0.02, "bootstrap_samples": 200},
    "hardware": {"workers": 0, "threads": 1},
}


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@cache
def _empty_database() -> Path:
    """A database as MLflow creates it, with no experiment of ours; creating one takes seconds."""
    path = Path(tempfile.mkdtemp()) / "mlflow.db"
    atexit.register(shutil.rmtree, path.parent)
    uri = f"sqlite:///{path}"
    MlflowClient(tracking_uri=uri, registry_uri=uri).search_experiments()
    return path


def make(root: Path, commit: bool = True, database: bool = True) -> Path:
    """A checkout with packed data and a validation that passed; no model yet.

    Args:
        root: Where.
        commit: Whether its code is committed.
        database: Whether MLflow's database is there, empty.
    """
    for name, content in {
        "dvc.yaml": "stages: {}\n",
        "pyproject.toml": "",
        "constraints.txt": "",
        "src/code.py": "CODE = 1\n",
        "flows/retrain.py": "",
        "params.yaml": yaml.safe_dump(PARAMS),
        "dvc.lock": "schema: '2.0'\n",
        "data/voc.dvc": "outs:\n- md5: 0123.dir\n  path: voc\n",
        ".gitignore": "/*\n!/src\n!/flows\n!/dvc.yaml\n!/pyproject.toml\n!/constraints.txt\n",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(content, encoding="utf-8")
    git(root, "init", "-q", "-b", "main")
    if commit:
        git(root, "add", ".")
        git(root, "commit", "-q", "-m", "first")
    use_data(root, seed=3)
    if database:
        put_database(root)
    return root


def put_database(root: Path) -> None:
    """Put an empty MLflow database in place."""
    shutil.copy(_empty_database(), root / "mlflow.db")


@cache
def _data(seed: int) -> Path:
    """Generated data, packed: directories `voc` and `packed`. Shared: copy them."""
    place = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, place)
    generate(place / "voc", train=4, val=8, seed=seed, size=(80, 64))
    pack(open_layout(place / "voc"), place / "packed", VOC_CLASSES)
    return place


def use_data(root: Path, seed: int) -> None:
    """Put generated data in place, packed, and let validation pass."""
    for name, target in (("voc", root / "data/voc"), ("packed", root / paths.PACKED)):
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(_data(seed) / name, target)
    pass_validation(root)


def pass_validation(root: Path) -> None:
    """Leave what a validation of the packed data leaves that passed."""
    store = PackedStore(root / paths.PACKED)
    files.write_json(
        root / paths.VERDICT,
        {
            "passed": True,
            "data_hash": store.data_hash,
            "train_hash": store.split_hash("train"),
            "val_hash": store.split_hash("val"),
            "classes": list(VOC_CLASSES),
            "images": {split: len(store.ids(split)) for split in ("train", "val")},
        },
    )


def train(root: Path, seed: int, quality: float | None = 0.8) -> str:
    """Leave what a training and an evaluation leave.

    Args:
        root: The workspace.
        seed: Of the weights: another seed is another model.
        quality: Share of every class's pixels that the model gets right on every image; None: not
            evaluated.

    Returns:
        The fingerprint of the training.
    """
    store = PackedStore(root / paths.PACKED)
    torch.manual_seed(seed)
    images = {one: store.image_sha256(one) for one in store.ids("train")}
    network = build(SPEC)
    torch.nn.init.normal_(network.network.get_parameter("score.weight"))
    pixels = store.pixel_hashes(images)
    write_trained(root / paths.TRAINED, network, SPEC, VOC_CLASSES, images, {}, pixels)
    package.run(root)
    fingerprint = files.sha256_bytes(str(seed).encode())
    training = {
        "fingerprint": fingerprint,
        "weights_sha256": weights_sha256(root / paths.SEGMENTER),
        "data_hash": store.data_hash,
        "train_hash": store.split_hash("train"),
        "epochs_run": EPOCHS,
        "best_epoch": 2,
        "selection_miou": 0.5,
        "final_train_loss": 0.25,
        "optimizer_steps": 30,
        "seed": seed,
        "device": "cpu",
        "precision": "fp32",
        "threads": 1,
        "images_per_second": 12.5,
        "code_hash": "c" * 64,
    }
    files.write_json(root / paths.TRAINING, training)
    rows = curves(seed)
    table = pd.DataFrame(rows).drop(columns="seconds")
    files.write_text(root / paths.LEARNING_CURVES, table.to_csv(index=False))
    files.write_json(root / paths.POLICY, {"transforms": []})
    files.write_bytes(root / paths.AUGMENTATION_SHEET, b"png")
    if quality is not None:
        evaluate(root, quality)
    return fingerprint


def curves(seed: int) -> list[dict[str, float]]:
    """What a training with this seed and a mean teacher writes for every epoch."""
    return [
        {
            "epoch": epoch,
            "step": 10 * epoch,
            "lr": 0.01 / epoch,
            "train_loss": (1 + seed / 10) / epoch,
            "pseudo_label_loss": 0.5 / epoch,
            "selection_miou": 0.1 * epoch,
            "seconds": 1.0,
        }
        for epoch in range(1, EPOCHS + 1)
    ]


def evaluate(root: Path, quality: float, wobble: float = 0.01) -> None:
    """Leave what the evaluate stage leaves, for a model of a given quality.

    Args:
        root: The workspace.
        quality: Share of every class's pixels that the model gets right.
        wobble: How much better and worse it is on every other image.
    """
    store = PackedStore(root / paths.PACKED)
    total = np.zeros((21, 21), dtype=np.int64)
    rows = []
    for number, image_id in enumerate(store.ids("val")):
        truth = store.mask(image_id)
        prediction = np.where(truth == 255, 0, truth)
        # Every class loses the same share of its pixels to the next id.
        here = min(1.0, max(0.0, quality + wobble * (1 - 2 * (number % 2))))
        for class_id in np.unique(prediction):
            y, x = np.nonzero(truth == class_id)
            right = round(len(y) * here)
            prediction[y[right:], x[right:]] = (class_id + 1) % 21
        confusion = confusion_matrix(truth, prediction.astype(np.uint8), 21)
        total += confusion
        predicted, true = confusion.sum(axis=0), confusion.sum(axis=1)
        image = image_id, store.image_sha256(image_id)
        rows += [
            (*image, one, confusion[one, one], predicted[one], t)
            for one, t in enumerate(true)
            if t or predicted[one]
        ]
    counts = pd.DataFrame(rows, columns=list(COLUMNS))
    (root / paths.COUNTS).parent.mkdir(exist_ok=True)
    counts.to_parquet(root / paths.COUNTS, index=False)
    figures = compute_metrics(SplitCounts(class_pixels(total)), VOC_CLASSES)
    miou = miou_from_counts(counts, true_classes(counts))
    evaluation = {
        "split": "val",
        "images": 8,
        **figures,
        "miou_low": miou - 0.1,
        "miou_high": miou + 0.1,
        "confidence": 0.95,
        "data_hash": store.data_hash,
        "val_hash": store.split_hash("val"),
        "weights_sha256": weights_sha256(root / paths.SEGMENTER),
        "bundle_digest": bundle_digest(root / paths.SEGMENTER),
    }
    files.write_json(root / paths.EVALUATION, evaluation)
    files.write_text(root / paths.EVALUATION_PAGE, f"<p>mIoU {miou}</p>")
    files.write_text(root / paths.CONFUSION_PLOT, "actual,predicted,pixels\n")
    files.write_text(root / paths.CLASS_PLOT, "class,iou\n")


def keep_masks(root: Path, wrong: int = 0, **machine: Any) -> None:
    """Leave the masks that the evaluate stage keeps, as the workspace's model predicts them.

    Args:
        root: The workspace.
        wrong: So many pixels of the first mask get another class.
        machine: What differs from this machine.
    """
    store = PackedStore(root / paths.PACKED)
    torch.set_num_threads(1)
    predictor = load_bundle(root / paths.SEGMENTER)
    masks: list[kept_masks.KeptMask] = []
    for image_id in kept_masks.chosen(store, store.ids("val")):
        mask = predictor.predict_mask(store.image(image_id))
        if not masks:
            mask.flat[:wrong] = (mask.flat[:wrong] + 1) % 21
        masks.append(kept_masks.KeptMask(image_id, store.image_sha256(image_id), mask))
    kept = kept_masks.KeptMasks(
        bundle_digest(root / paths.SEGMENTER), describe("cpu", 1) | machine, tuple(masks)
    )
    kept_masks.write(root / paths.KEPT_MASKS, kept)


def set_params(root: Path, **sections: dict[str, Any]) -> None:
    path = root / "params.yaml"
    tree = yaml.safe_load(path.read_text())
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    path.write_text(yaml.safe_dump(tree))


def client(root: Path) -> MlflowClient:
    """A client of the database that MLFLOW_TRACKING_URI names, else of the embedded one."""
    named = os.environ.get("MLFLOW_TRACKING_URI", "")
    uri = named if named.startswith("sqlite:") else f"sqlite:///{root / 'mlflow.db'}"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


def snapshot(root: Path) -> dict[str, Any]:
    """All that MLflow holds: runs with their histories, artifacts by content, models, versions."""
    mlflow = client(root)
    experiments = mlflow.search_experiments(view_type=3)
    runs = mlflow.search_runs([one.experiment_id for one in experiments], run_view_type=3)
    models = mlflow.search_logged_models([one.experiment_id for one in experiments])
    artifacts = {
        path.relative_to(root).as_posix(): files.sha256_file(path)
        for path in sorted((root / "mlartifacts").rglob("*"))
        if path.is_file()
    }
    return {
        "experiments": [one.name for one in experiments],
        "runs": {
            run.info.run_id: {
                "status": run.info.status,
                "end": run.info.end_time,
                "stage": run.info.lifecycle_stage,
                "params": run.data.params,
                "tags": run.data.tags,
                "metrics": {
                    name: sorted(
                        (one.step, one.value, one.timestamp)
                        for one in mlflow.get_metric_history(run.info.run_id, name)
                    )
                    for name in run.data.metrics
                },
                "outputs": [
                    one.model_id for one in (run.outputs.model_outputs if run.outputs else [])
                ],
            }
            for run in runs
        },
        "models": {one.model_id: (str(one.status), one.tags, one.params) for one in models},
        "versions": {
            one.version: dict(one.tags) for one in mlflow.search_model_versions("name = 'segops'")
        },
        "aliases": {one.name: one.aliases for one in mlflow.search_registered_models()},
        "artifacts": artifacts,
    }


def lines(root: Path) -> list[dict[str, Any]]:
    """The entries of the ledger."""
    with ledger_of(root) as ledger:
        return [entry.model_dump(mode="json") for entry in ledger.entries()]


@contextmanager
def ledger_of(root: Path) -> Iterator[Ledger]:
    """The ledger of a workspace's model, open."""
    settings = load_params(root).registry
    with session(root, settings) as store:
        yield Ledger(store, root, settings.model)


def challenge(root: Path, seed: int, quality: float) -> Registered:
    """Train, record and register a model."""
    train(root, seed, quality)
    return register(root, record(root))


def release(root: Path, seed: int, quality: float) -> Decision:
    """The whole way to the gate's decision, carried out."""
    challenge(root, seed, quality)
    decision = promotion.gate(root)
    return promotion.promote(root, decision)


def aliases(root: Path) -> dict[str, str]:
    found = snapshot(root)["aliases"].get("segops", {})
    return {alias: str(number) for alias, number in found.items()}


def kinds(root: Path) -> list[tuple[str, str, str]]:
    return [(one["kind"], one["verdict"], one["version"]) for one in lines(root)]


def failed(decision: Decision) -> list[str]:
    return [check.name for check in decision.checks if not check.passed]

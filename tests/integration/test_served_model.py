"""The champion in an environment that holds the model's own requirements and nothing of ours."""

from __future__ import annotations

import importlib.metadata as metadata
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from packaging.requirements import Requirement

from segops import paths
from segops.data.store import PackedStore
from segops.metrics.confusion import confusion_matrix
from segops.predict.bundle import load_bundle
from segops.record.update import record
from segops.release import promotion
from segops.release.register import register
from segops.runtime.masks import decode_mask
from segops.stages import evaluate
from tests.support import registry_workspace as made

pytestmark = pytest.mark.slow
FOREIGN = ("segops", "dvc", "prefect", "albumentations", "great_expectations", "lightning_fabric")

CONSUMER = """
import importlib.util, json, pickle, _pickle, sys
from pathlib import Path
import mlflow, pandas, torch, segmentation_models_pytorch

def refuse(*_, **__):
    raise AssertionError("something was unpickled")

for module in (pickle, _pickle):
    for name in ("load", "loads", "Unpickler"):
        setattr(module, name, refuse)
torch.load = refuse

pictures, output, foreign = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
model = mlflow.pyfunc.load_model("models:/segops@champion")
paths = sorted(pictures.glob("*.jpg"))
frame = pandas.DataFrame({"image": [path.read_bytes() for path in paths]})
found = model.predict(frame)
for path, mask in zip(paths, found["mask"], strict=True):
    (output / f"{path.stem}.png").write_bytes(mask)
print(json.dumps({
    "importable": [name for name in foreign if importlib.util.find_spec(name)],
    "loaded": [name for name in foreign if name in sys.modules],
    "columns": list(found.columns),
    "confidence": [float(one) for one in found["confidence"]],
    "inputs": model.metadata.signature.inputs.to_dict(),
    "outputs": model.metadata.signature.outputs.to_dict(),
}))
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def closure(requirements: list[str]) -> set[str]:
    """Normalised names of the distributions that these requirements pull in, extras honoured."""
    done: set[tuple[str, str]] = set()
    waiting = [(Requirement(line), "") for line in requirements]
    while waiting:
        requirement, parent_extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({"extra": parent_extra}):
            continue
        name = normal(requirement.name)
        version = metadata.version(name)
        assert requirement.specifier.contains(version, prereleases=True), (requirement, version)
        for extra in ("", *requirement.extras):
            if (name, extra) not in done:
                done.add((name, extra))
                waiting += [(Requirement(one), extra) for one in metadata.requires(name) or []]
    return {name for name, _ in done}


def link_distributions(names: set[str], target: Path) -> None:
    """Put these installed distributions, and no other, into a site-packages directory.

    A directory is linked as one where all that lies in it belongs to them; where others share it,
    as with namespace packages, what is theirs is linked one level deeper.
    """
    owned: dict[tuple[str, ...], set[bool]] = defaultdict(set)
    sources: dict[tuple[str, ...], Path] = {}
    for distribution in metadata.distributions():
        ours = normal(distribution.metadata["Name"]) in names
        for file in distribution.files or []:
            if file.parts[0] == ".." or file.suffix == ".pth":
                continue
            for depth in range(1, len(file.parts) + 1):
                owned[file.parts[:depth]].add(ours)
            if ours:
                sources[file.parts] = Path(str(distribution.locate_file("")))
    for parts, base in sources.items():
        for depth in range(1, len(parts) + 1):
            if owned[parts[:depth]] == {True}:
                link = target.joinpath(*parts[:depth])
                if not link.is_symlink():
                    link.parent.mkdir(parents=True, exist_ok=True)
                    link.symlink_to(base.joinpath(*parts[:depth]))
                break


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, dict[str, Any]]:
    """A promoted model, the masks that a consumer got of the val images, and what it said.

    The bundle is moved away before: what is served must not lean on the workspace.
    """
    folder = tmp_path_factory.mktemp("served")
    root = made.make(folder / "checkout")
    made.train(root, seed=1, quality=None)
    evaluate.run(root)
    made.set_params(root, gate={"min_miou": 0.0})
    register(root, record(root))
    decision = promotion.gate(root)
    assert decision.verdict == "promoted", decision.reason
    promotion.promote(root, decision)

    environment = folder / "environment"
    venv.create(environment, with_pip=False, symlinks=True)
    requirements = (root / paths.SEGMENTER / "requirements.txt").read_text().splitlines()
    (packages,) = environment.glob("lib/python*/site-packages")
    link_distributions(closure(requirements), packages)

    (root / "models").rename(folder / "moved")
    pictures, output = folder / "pictures", folder / "masks"
    pictures.mkdir()
    output.mkdir()
    for image_id in PackedStore(root / paths.PACKED).ids("val"):
        shutil.copy(root / "data/voc/JPEGImages" / f"{image_id}.jpg", pictures)
    clean = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("PYTHON", "MLFLOW", "VIRTUAL_ENV"))
    }
    done = subprocess.run(
        [environment / "bin" / "python", "-c", CONSUMER, pictures, output, *FOREIGN],
        cwd=pictures,
        env={
            **clean,
            "MLFLOW_TRACKING_URI": f"sqlite:///{root / 'mlflow.db'}",
            "OMP_NUM_THREADS": "1",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (folder / "moved").rename(root / "models")
    return root, output, json.loads(done.stdout.splitlines()[-1])


def test_nothing_of_segops_is_there(served: tuple[Path, Path, dict[str, Any]]) -> None:
    _, _, said = served
    assert said["importable"] == []
    assert said["loaded"] == []


def test_the_signature_is_bytes_in_mask_and_confidence_out(
    served: tuple[Path, Path, dict[str, Any]],
) -> None:
    _, _, said = served
    assert said["inputs"] == [{"type": "binary", "name": "image", "required": True}]
    assert [(one["name"], one["type"]) for one in said["outputs"]] == [
        ("mask", "binary"),
        ("confidence", "double"),
    ]
    assert said["columns"] == ["mask", "confidence"]
    assert all(1 / 21 <= one <= 1 for one in said["confidence"])


def test_served_masks_are_those_of_the_bundle(
    served: tuple[Path, Path, dict[str, Any]],
) -> None:
    root, output, said = served
    store = PackedStore(root / paths.PACKED)
    predictor = load_bundle(root / paths.SEGMENTER, "cpu")
    for number, image_id in enumerate(sorted(store.ids("val"))):
        expected = predictor.predict(store.image(image_id))
        mask = decode_mask((output / f"{image_id}.png").read_bytes(), image_id)
        assert mask.shape == store.mask(image_id).shape
        assert np.array_equal(mask, expected.mask)
        assert said["confidence"][number] == pytest.approx(expected.confidence, abs=1e-6)


def test_served_masks_are_the_evaluated_ones(
    served: tuple[Path, Path, dict[str, Any]],
) -> None:
    """The counts that the gate looked at follow from the masks that a consumer gets."""
    root, output, _ = served
    store = PackedStore(root / paths.PACKED)
    counts = pd.read_parquet(root / paths.COUNTS)
    assert counts["predicted"].gt(0).groupby(counts["image_id"]).sum().max() > 1
    for image_id in store.ids("val"):
        mask = decode_mask((output / f"{image_id}.png").read_bytes(), image_id)
        confusion = confusion_matrix(store.mask(image_id), mask, 21)
        rows = counts[counts["image_id"] == image_id].set_index("class_id")
        predicted, truth = confusion.sum(axis=0), confusion.sum(axis=1)
        assert set(rows.index) == set(np.flatnonzero(predicted + truth))
        for class_id, row in rows.iterrows():
            assert isinstance(class_id, int)
            assert row["intersection"] == confusion[class_id, class_id]
            assert (row["predicted"], row["truth"]) == (predicted[class_id], truth[class_id])


def test_the_environment_would_notice_a_pickle() -> None:
    """The refusal in the consumer's script bites: this process, patched alike, cannot unpickle."""
    refusal = CONSUMER[CONSUMER.index("def refuse") : CONSUMER.index("torch.load")]
    code = f"import pickle, _pickle\ntext = pickle.dumps(1)\n{refusal}\npickle.loads(text)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "something was unpickled" in done.stderr

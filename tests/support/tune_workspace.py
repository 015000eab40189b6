"""A workspace that is prepared for training, made without DVC."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from segops import files, paths
from segops.augment.policy import build_policy
from segops.data.packing import pack
from segops.params.file import load_params
from segops.runtime.classes import VOC_CLASSES
from segops.voc.layout import open_layout

SMALL: dict[str, dict[str, Any]] = {
    "data": {"path": "voc"},
    "augment": {"crop": [64, 64]},
    "model": {"architecture": "plain_cnn"},
    "train": {
        "epochs": 3, "batch_size": 3, "warmup_epochs": 0, "selection_share": 0.2, "device": "cpu",
        "lr": 0.003,
    },
    "hardware": {"workers": 0, "threads": 1},
}  # fmt: skip


def prepare(root: Path, **sections: dict[str, Any]) -> Path:
    """Make a workspace of `root`, which holds the data set ``voc``."""
    tree = {name: dict(values) for name, values in SMALL.items()}
    for name, values in sections.items():
        tree.setdefault(name, {}).update(values)
    (root / "params.yaml").write_text(yaml.safe_dump(tree))
    (root / "dvc.yaml").write_text("stages: {}\n")
    settings = load_params(root)
    pack(open_layout(root / "voc"), root / paths.PACKED, VOC_CLASSES)
    files.write_json(root / paths.POLICY, build_policy(settings.augment).to_json())
    return root


def tree_of(root: Path) -> dict[str, bytes]:
    """Every file below `root` and its content."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }

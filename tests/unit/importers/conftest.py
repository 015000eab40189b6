"""A workspace to import into."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from numpy.typing import NDArray
from PIL import Image

from segops.importers.command import Options, run
from segops.importers.write import Imported

ROOT = Path(__file__).parents[3]
Run = Callable[..., Imported]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "checkout"
    root.mkdir()
    shutil.copy(ROOT / "params.yaml", root)
    return root


@pytest.fixture
def source(tmp_path: Path) -> Path:
    source = tmp_path / "source"
    source.mkdir()
    return source


@pytest.fixture
def run_import(root: Path) -> Run:
    """Import to data/voc of the workspace; keywords are those of the options."""

    def run_import(form: str, path: Path, **options: Any) -> Imported:
        return run(form, path, root, root / "data/voc", Options(**options))[0]

    return run_import


def photograph(path: Path, width: int = 40, height: int = 30, shade: int = 90) -> Path:
    """Write a photograph; another shade is another photograph."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height), (shade, 200 - shade // 2, 40)).save(path)
    return path


def classes_in_params(root: Path) -> Any:
    return yaml.safe_load((root / "params.yaml").read_text())["data"]["classes"]


def greyscale(path: Path, values: NDArray[np.uint8]) -> Path:
    """Write a greyscale PNG."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def pictures(folder: Path, *names: str, width: int = 40, height: int = 30) -> None:
    """Write photographs, each another one."""
    for number, name in enumerate(names):
        photograph(folder / name, width, height, shade=30 * number)


def write_json(path: Path, tree: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(tree))
    return path


def small_coco(*names: str, segmentation: Any = None) -> dict[str, Any]:
    """COCO's tree of photographs with a triangle each."""
    outline = [[1.0, 1.0, 10.0, 1.0, 10.0, 8.0]]
    return {
        "images": [{"id": n, "file_name": name} for n, name in enumerate(names)],
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [
            {"id": n, "image_id": n, "category_id": 1, "segmentation": segmentation or outline}
            for n in range(len(names))
        ],
    }

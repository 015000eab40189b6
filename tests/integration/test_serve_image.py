"""`segops serve` with the libraries of the serving image alone: docker/serve.requirements.txt.

Nothing is installed: an import of any other library that is here fails, as it does in the image.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from segops.export import make
from segops.predict.bundle import load_bundle
from tests.support.prediction_server import picture, serving, write_model

pytestmark = pytest.mark.slow
REQUIREMENTS = Path(__file__).parents[2] / "docker" / "serve.requirements.txt"
LEFT_OUT = {"torch", "mlflow", "dvc", "prefect", "pandas", "scipy", "segmentation_models_pytorch"}
REFUSE = """
import sys

REFUSED = frozenset({names})


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in REFUSED:
            raise ModuleNotFoundError(f"No module named {{name!r}}: the image lacks it", name=name)


sys.meta_path.insert(0, Refuse())
"""


def needed(name: str, seen: set[str]) -> Iterator[str]:
    """A distribution and all that it requires."""
    if (name := canonicalize_name(name)) in seen:
        return
    seen.add(name)
    yield name
    try:
        lines = requires(name) or []
    except PackageNotFoundError:  # for another system
        return
    for requirement in map(Requirement, lines):
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield from needed(requirement.name, seen)


def refused() -> list[str]:
    """The modules of all distributions here that the image has not."""
    lines = REQUIREMENTS.read_text().splitlines()
    seen: set[str] = set()
    image = {
        one for line in lines if line and not line.startswith("#") for one in needed(line, seen)
    }
    return [
        module
        for module, owners in packages_distributions().items()
        if not {canonicalize_name(one) for one in owners} & (image | {"segops"})
        and re.fullmatch(r"\w+", module)
    ]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    """PYTHONPATH with a ``sitecustomize`` that refuses what the image lacks."""
    folder = tmp_path_factory.mktemp("image")
    names = refused()
    assert set(names) >= LEFT_OUT
    (folder / "sitecustomize.py").write_text(REFUSE.format(names=json.dumps(names)))
    found = os.pathsep.join([str(folder), os.environ.get("PYTHONPATH", "")]).rstrip(os.pathsep)
    command = [sys.executable, "-c", "import torch"]
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": found}, capture_output=True, text=True
    )
    assert "the image lacks it" in done.stderr
    return found


def test_an_export_is_served_with_the_libraries_of_the_image(path: str, tmp_path: Path) -> None:
    write_model(tmp_path / "segmenter", seed=1)
    exported = tmp_path / "exported"
    make.export(tmp_path / "segmenter", {"onnx": exported})
    content = picture(seed=3, form="JPEG")
    mask, confidence = load_bundle(exported, threads=1).predict_bytes(content)
    options = ("--model", str(exported), "--workers", "1", "--record", str(tmp_path / "marks"))
    with serving(tmp_path / "server", *options, PYTHONPATH=path) as server:
        answer = server.client.post("/predict", content=content)
        assert answer.status_code == 200, answer.text
        assert answer.content == mask
        assert float(answer.headers["segops-confidence"]) == pytest.approx(confidence, abs=1e-6)
        query = {"polygons": True, "confidence_map": True, "mask": True}
        told = server.client.post(
            "/predict", content=content, params=query, headers={"Accept": "application/json"}
        )
        assert {"polygons", "confidence_map", "mask"} <= set(told.json()["results"][0])
        for form in ("image/jpeg", "application/x-npy"):
            answer = server.client.post("/predict", content=content, headers={"Accept": form})
            assert answer.headers["content-type"] == form
        explained = server.client.post(
            "/predict", content=content, params={"explain": "cat"},
            headers={"Accept": "application/json"},
        )  # fmt: skip
        assert explained.status_code == 501
        mark = {"note": "", "class": "cat", "polygon": [[1, 1], [9, 1], [9, 9]]}
        marked = server.client.post(
            "/marks", files={"image": ("a.jpg", content)}, data={"mark": json.dumps(mark)}
        )
        assert marked.status_code == 201, marked.text
        for page in ("/", "/page/style.css", "/metrics", "/model", "/openapi.json"):
            assert server.client.get(page).status_code == 200, page

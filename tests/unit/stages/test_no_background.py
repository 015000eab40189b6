"""Eleven classes without background, from the masks to pages, bundle and predictions."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops import paths
from segops.data.store import PackedStore
from segops.params.base import Sections
from segops.params.colors import default_colors
from segops.params.data import DataParams
from segops.predict.bundle import load_bundle, read_model
from segops.predict.folder import predict_folder
from segops.predict.outputs import Options
from segops.predict.package import package
from segops.predict.trained import write_trained
from segops.runtime.classes import VOC, Classes, palette
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec
from segops.stages import augment, evaluate, prepare, validate
from segops.stages import package as package_stage
from tests.support.streets import CLASSES, PARAMS, write_streets
from tests.unit.evaluate.test_score import lively

pytestmark = pytest.mark.slow

OWN = default_colors(CLASSES, None)
SETTINGS = (
    f"data: {PARAMS}\nhardware: {{threads: 1}}\naugment: {{crop: [32, 32], "
    "copy_paste: {p: 0.5}}\nevaluate: {speed: false}\n"
)


class Read(Sections):
    data: DataParams = DataParams()


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("streets")
    write_streets(root / "data/voc")
    (root / "params.yaml").write_text(SETTINGS)
    for stage in (validate, prepare, augment):
        stage.run(root)
    spec = ModelSpec("plain_cnn", "", len(CLASSES), {"width": 8})
    network = lively(PackedStore(root / paths.PACKED), spec)
    write_trained(root / paths.TRAINED, network, spec, CLASSES, {}, {})
    package_stage.run(root)
    evaluate.run(root)
    return root


def css(color: tuple[int, int, int]) -> str:
    return f"#{bytes(color).hex()}"


def test_every_wrong_pixel_is_of_a_class(root: Path) -> None:
    found = json.loads((root / paths.EVALUATION).read_text())
    assert found["background"] is None
    assert found["errors"]["missed"] == found["errors"]["false alarm"] == 0
    assert found["errors"]["confusion"] > 0
    sky = PackedStore(root / paths.PACKED).mask("street06") == 0
    objects = sum(one["objects"] for one in found["slices"] if one["group"] == "object size")
    assert sky.any()
    assert objects >= 4 * len(CLASSES)


def test_pages_draw_the_own_colours_and_speak_of_no_background(root: Path) -> None:
    for path in (paths.EVALUATION_PAGE, paths.VALIDATION_PAGE):
        page = (root / path).read_text()
        assert all(f"background:{css(color)}" in page for color in OWN)
        assert not any(f'background:{css(color)}"' in page for color in voc_colors())
    page = (root / paths.EVALUATION_PAGE).read_text()
    assert "false alarm" not in page
    assert "missed<" not in page  # the kind of error, not the word
    page = (root / paths.VALIDATION_PAGE).read_text()
    assert "largest class.</p>" in page
    assert "street00" in page


def voc_colors() -> list[tuple[int, int, int]]:
    return [(int(r), int(g), int(b)) for r, g, b in palette()[1 : len(CLASSES)]]


def test_the_contact_sheet_has_them_too(root: Path) -> None:
    with Image.open(root / paths.AUGMENTATION_SHEET) as sheet:
        held = {one for _, one in sheet.convert("RGB").getcolors(1 << 24)}
    assert OWN[0] in held
    assert OWN[3] in held
    assert json.loads((root / paths.POLICY).read_text())["background"] is None


def test_the_bundle_and_its_predictions_have_them(root: Path, tmp_path: Path) -> None:
    model = read_model(root / paths.SEGMENTER)
    assert Classes.of_model(model) == Read.read(root).data.drawn == Classes(CLASSES, None, OWN)
    photograph = root / "data/voc/JPEGImages/street06.png"
    out = tmp_path / "out"
    predict_folder(photograph, root / paths.SEGMENTER, out, Options(explain="auto"))
    with Image.open(out / "street06.png") as mask:
        assert mask.getpalette()[: 3 * len(CLASSES)] == np.ravel(OWN).tolist()
        ids = np.asarray(mask)
    with Image.open(photograph) as image:
        expected = load_bundle(root / paths.SEGMENTER).predict(np.asarray(image))
    assert (ids == expected.mask).all()
    assert (out / "street06.explain.jpg").is_file()
    served = load_bundle(root / paths.SEGMENTER).predict_bytes(photograph.read_bytes())[0]
    assert served == (out / "street06.png").read_bytes()


def test_other_colours_take_another_bundle_and_no_training(root: Path, tmp_path: Path) -> None:
    data = {"classes": list(CLASSES), "background": "road", "colors": {"car": "#0a0b0c"}}
    classes = DataParams.model_validate(data).drawn
    package(root / paths.TRAINED, tmp_path / "bundle", classes=classes)
    opened = load_bundle(tmp_path / "bundle")
    assert opened.classes.background == 3
    assert opened.classes.colors[8] == (10, 11, 12)
    assert opened.classes.colors[3] == (0, 0, 0)
    weights = [(place / "weights.safetensors").read_bytes() for place in
               (tmp_path / "bundle", root / paths.SEGMENTER)]  # fmt: skip
    assert weights[0] == weights[1]
    with pytest.raises(SegopsError, match=r"trained with other classes than data\.classes"):
        package(root / paths.TRAINED, tmp_path / "other", classes=VOC)

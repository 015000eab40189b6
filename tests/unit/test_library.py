"""``import segops`` as a library: it loads nothing by itself, and each name does what it says."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

import segops
from segops import code
from segops.runtime.classes import VOC_CLASSES
from tools.sample import generate

BUNDLES = Path(__file__).parents[1] / "bundles"
PICTURE = BUNDLES / "picture.png"


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("data") / "voc"
    generate(root, train=4, val=2, seed=3, size=(80, 64))
    return root


def test_importing_it_loads_no_library() -> None:
    program = (
        "import sys; before = set(sys.modules); import segops; dir(segops);"
        "print(*sorted({n.partition('.')[0] for n in set(sys.modules) - before}))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    loaded = set(done.stdout.split())
    assert loaded - set(sys.stdlib_module_names) == {"segops"}


@pytest.mark.slow
def test_every_name_stays_itself_once_all_modules_are_imported() -> None:
    """A module of the same name would take the place of a lazy attribute."""
    modules = [
        ".".join(path.relative_to(code.ROOT.parent).with_suffix("").parts)
        for path in sorted(code.ROOT.rglob("*.py"))
        if path.stem not in ("__init__", "__main__", "pyfunc_model", "worker", "probe")
    ]
    program = (
        f"import importlib, types, segops, segops.library\nfor name in {modules!r}:\n"
        "    importlib.import_module(name)\n"
        "for name in segops.__all__:\n"
        "    for _ in range(2):\n"
        "        assert not isinstance(getattr(segops, name), types.ModuleType), name\n"
        "        assert getattr(segops, name) is getattr(segops.library, name), name\n"
        "print(len(segops.__all__))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == str(len(segops.__all__)), done.stderr
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        segops.nothing  # noqa: B018
    assert set(segops.__all__) <= set(dir(segops))


def test_a_model_predicts_from_a_path_bytes_pillow_and_an_array() -> None:
    model = segops.load(BUNDLES / "format1")
    expected = np.array(Image.open(BUNDLES / "format1_mask.png"))
    picture = Image.open(PICTURE)
    for image in (str(PICTURE), PICTURE, PICTURE.read_bytes(), picture, np.array(picture)):
        found = model.predict(image)
        np.testing.assert_array_equal(found.mask, expected)
        assert found.confidence == pytest.approx(0.9076, abs=1e-3)
        assert found.class_names == model.class_names == VOC_CLASSES
    with pytest.raises(segops.SegopsError, match=r"absent\.png: no such file"):
        model.predict("absent.png")
    for image in (None, [1], bytearray(b"x")):
        with pytest.raises(ValueError, match=f"image is {type(image).__name__}; expected a path"):
            model.predict(image)  # type: ignore[arg-type]


def test_a_pillow_image_gives_the_pixels_of_its_file(tmp_path: Path) -> None:
    model = segops.load(BUNDLES / "format1")
    grey = np.arange(40 * 50, dtype=np.uint16).reshape(40, 50) * 32
    Image.fromarray(grey).save(tmp_path / "grey.png")
    by_path = model.predict(tmp_path / "grey.png")
    assert model.predict(Image.open(tmp_path / "grey.png")).confidence == by_path.confidence
    with pytest.raises(segops.SegopsError, match="image of mode F, floating point"):
        model.predict(Image.new("F", (4, 4)))


def test_the_limit_of_pixels_holds_for_every_kind_of_image(tmp_path: Path) -> None:
    other = shutil.copytree(BUNDLES / "format1", tmp_path / "other")
    model = json.loads((other / "model.json").read_text())
    model["predict"]["max_pixels"] = 11
    (other / "model.json").write_text(json.dumps(model))
    limited, picture = segops.load(other), Image.new("RGB", (4, 3))
    for image in (picture, np.array(picture)):
        with pytest.raises(segops.SegopsError, match=r"4 x 3 pixels.*predict\.max_pixels"):
            limited.predict(image)


def test_an_image_is_turned_as_its_exif_data_say(tmp_path: Path) -> None:
    model = segops.load(BUNDLES / "format1")
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.open(PICTURE).save(tmp_path / "turned.png", exif=exif)
    height, width = np.array(Image.open(PICTURE)).shape[:2]
    for image in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert model.predict(image).mask.shape == (width, height)


def test_a_bundle_of_another_version_may_know_other_settings(tmp_path: Path) -> None:
    other = shutil.copytree(BUNDLES / "format1", tmp_path / "other")
    settings = other / "runtime/predict/settings.py"
    settings.write_text(
        settings.read_text()
        .replace("    max_pixels: int =", "    later: int = 0\n    max_pixels: int =")
        .replace(
            '    "predict.max_pixels":',
            '    "predict.later": (_is_count, "a count"),\n    "predict.max_pixels":',
        )
    )
    model = json.loads((other / "model.json").read_text())
    model["predict"]["later"] = 3
    (other / "model.json").write_text(json.dumps(model))
    assert segops.load(other).predict(PICTURE).mask.any()


def test_a_model_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(segops.SegopsError, match=r"no bundle there"):
        segops.load(tmp_path)
    with pytest.raises(segops.SegopsError, match=r"device 'tpu': expected auto, cpu, cuda"):
        segops.load(BUNDLES / "format1", device="tpu")
    with pytest.raises(segops.SegopsError, match=r"no dvc\.yaml"):
        segops.load("models:/segops@champion", workspace=tmp_path)


def test_a_data_set_yields_images_and_masks(data: Path) -> None:
    train, val = segops.open_dataset(data, split="train"), segops.open_dataset(str(data))
    assert (len(train), len(val)) == (4, 2)
    for image_id, image, mask in val:
        assert image_id in val.ids
        assert image.shape == (*mask.shape, 3)
        assert set(np.unique(mask)) <= {*range(21), 255}
    with pytest.raises(segops.SegopsError, match="no such directory"):
        segops.open_dataset(data / "nothing")
    with pytest.raises(segops.SegopsError, match="split is 'trainval'; expected train or val"):
        segops.open_dataset(data, "trainval")


def test_a_mask_of_another_size_is_named(data: Path, tmp_path: Path) -> None:
    other = shutil.copytree(data, tmp_path / "voc")
    first = segops.open_dataset(other).ids[0]
    Image.new("L", (3, 5)).save(other / "SegmentationClass" / f"{first}.png")
    with pytest.raises(segops.SegopsError, match=rf"{first}: .*its mask 3 x 5"):
        list(segops.open_dataset(other))


def test_miou_by_hand() -> None:
    truth = np.array([[0, 0, 1, 255]], np.uint8)
    prediction = np.array([[0, 1, 1, 2]], np.uint8)
    assert segops.miou(truth, prediction, classes=3) == pytest.approx((1 / 2 + 1 / 2) / 2)
    both = segops.miou([truth, truth], [prediction, truth.clip(max=2)], classes=["a", "b", "c"])
    assert both == pytest.approx((3 / 4 + 2 / 3) / 2)
    for classes in ("voc", -1, 256):
        with pytest.raises(ValueError, match=r"classes is .*expected"):
            segops.miou(truth, prediction, classes=classes)
    with pytest.raises(ValueError, match="2 masks of truth, 1 predictions"):
        segops.miou([truth, truth], [prediction], classes=3)


def test_score_counts_what_the_model_predicts(data: Path) -> None:
    model, dataset = segops.load(BUNDLES / "format1"), segops.open_dataset(data)
    found = segops.score(model, dataset)
    truths = [sample.mask for sample in dataset]
    predictions = [model.predict(sample.image).mask for sample in dataset]
    assert found["miou"] == segops.miou(truths, predictions)
    assert set(found["classes"]) == set(VOC_CLASSES)


def test_params_are_read_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text("train: {lr: 0.01}\n")
    assert segops.read_params(path).train.lr == segops.read_params(tmp_path).train.lr == 0.01
    path.write_text("train: {lrr: 0.01}\n")
    with pytest.raises(segops.SegopsError, match=r"train\.lrr"):
        segops.read_params(path)


@pytest.mark.slow
def test_fit_trains_a_model_that_predicts(data: Path, tmp_path: Path) -> None:
    params = {
        "model": {"architecture": "plain_cnn", "options": {"width": 4}},
        "train": {"epochs": 2, "batch_size": 2, "selection_share": 0, "warmup_epochs": 0},
        "augment": {"crop": [32, 32]},
        "hardware": {"workers": 0, "threads": 1},
        "validate": {"min_train_images": 1, "min_val_images": 1, "required_classes": []},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    model = segops.fit(tmp_path / "params.yaml", data, tmp_path / "model")
    assert set(segops.score(model, segops.open_dataset(data))["classes"]) == set(VOC_CLASSES)
    held = json.loads((tmp_path / "model/models/segmenter/model.json").read_text())
    assert set(held["training_images"]) <= set(segops.open_dataset(data, "train").ids)
    longer = {
        **params,
        "model": {**params["model"], "start_from": str(tmp_path / "model/models/segmenter")},
    }
    again = segops.fit(longer, data, tmp_path / "again")
    assert again.class_names == VOC_CLASSES
    assert (tmp_path / "again/plots/learning.csv").is_file()
    impossible = {**params, "validate": {"required_classes": ["bus"]}}
    with pytest.raises(
        segops.SegopsError, match=rf"(?s){tmp_path}/other: .*no mask holds bus"
    ) as told:
        segops.fit(impossible, data, tmp_path / "other")
    assert (tmp_path / "other/reports/validation.html").is_file(), told
    again = segops.fit(params, tmp_path / "model/data/voc", tmp_path / "model")
    assert again.class_names == VOC_CLASSES
    assert (tmp_path / "model/data/voc").resolve() == data.resolve()
    (tmp_path / "taken/data/voc").mkdir(parents=True)
    with pytest.raises(segops.SegopsError, match=r"data/voc: holds another data set"):
        segops.fit(params, data, tmp_path / "taken")
    for place in (data, data / "inside"):
        with pytest.raises(segops.SegopsError, match="lies in the data set"):
            segops.fit(params, data, place)
    with pytest.raises(segops.SegopsError, match="holds the parameters that were given"):
        segops.fit(tmp_path / "params.yaml", data, tmp_path)
    with pytest.raises(segops.SegopsError, match="expected a mapping"):
        segops.fit([1], data, tmp_path / "list")  # type: ignore[arg-type]
    several = {**params, "train": {**params["train"], "devices": 2}}
    with pytest.raises(segops.SegopsError, match=r"train\.devices is 2.*on one device"):
        segops.fit(several, data, tmp_path / "several")
    assert not (tmp_path / "several").exists()
    with pytest.raises(segops.SegopsError, match="a checkout, where `dvc repro` trains"):
        segops.fit(params, data, code.ROOT.parents[1])


def test_a_data_set_reads_masks_as_the_parameters_say(data: Path, tmp_path: Path) -> None:
    params = tmp_path / "params.yaml"
    objects = {"name": "object", "ids": [*range(2, 21)]}
    given = {"classes": [objects, {"name": "other", "ids": [0]}], "ignore": [1]}
    params.write_text(json.dumps({"data": given}))
    table = np.array([1, 255, *[0] * 19, *[255] * 235], np.uint8)
    read = list(segops.open_dataset(data, params=params))
    for sample, stored in zip(read, segops.open_dataset(data), strict=True):
        assert (sample.mask == table[stored.mask]).all()
    given["ignore"] = []
    params.write_text(json.dumps({"data": given}))
    with pytest.raises(segops.SegopsError, match=r"\.png: ids 1 are in neither data\.classes nor"):
        [*segops.open_dataset(data, "train", params), *segops.open_dataset(data, "val", params)]

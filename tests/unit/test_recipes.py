"""The recipes hold the published protocol and build the networks that its figures belong to."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import yaml
from safetensors.torch import save_file

from segops import recipes
from segops.models import licences
from segops.models.pretrained import load_encoder_weights
from segops.params.file import Params, load_params
from segops.recipes import Recipe
from segops.runtime.errors import SegopsError
from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.training import Jobs
from tests.unit.train.test_engine import batch, engine_of

ROOT = Path(__file__).parents[2]
NAMES = ("fcn", "unet", "pspnet", "deeplabv3", "deeplabv3plus")
TAKEN = {
    *("optimizer", "lr", "encoder_lr_factor", "layer_decay", "weight_decay", "gradient_clip"),
    *("loss", "momentum"),
}
"""Parameters that decide a step."""

DILATED = ("fcn", "pspnet", "deeplabv3", "deeplabv3plus")

# Of open-mmlab/mmsegmentation: configs/_base_/datasets/pascal_voc12_aug.py, schedule_20k.py, and
# the auxiliary head of configs/_base_/models/*_r50-d8.py.
PROTOCOL: dict[str, Any] = {
    "augment.crop": [512, 512],
    "augment.cat_max_ratio": 0.75,
    "augment.scale.range": [0.5, 2.0],
    "augment.scale.p": 1.0,
    "augment.flip.p": 0.5,
    "augment.photometric.brightness": 32,
    "augment.photometric.contrast": [0.5, 1.5],
    "augment.photometric.saturation": [0.5, 1.5],
    "augment.photometric.hue": 36,
    "augment.photometric.p": 1.0,
    "augment.rotate.p": 0.0,
    "augment.shift.p": 0.0,
    "augment.shear.p": 0.0,
    "augment.color_jitter.p": 0.0,
    "augment.blur.p": 0.0,
    "augment.noise.p": 0.0,
    "augment.copy_paste.p": 0.0,
    "model.encoder_weights": "imagenet",
    "model.start_from": None,
    "model.auxiliary_weight": 0.4,
    "model.options": {},
    "train.iterations": 20000,
    "train.batch_size": 16,
    "train.accumulate": 1,
    "train.sampling": "uniform",
    "train.optimizer": "sgd",
    "train.lr": 0.01,
    "train.encoder_lr_factor": 1.0,
    "train.freeze_encoder_epochs": 0,
    "train.freeze_batch_norm": False,
    "train.momentum": 0.9,
    "train.weight_decay": 5e-4,
    "train.l1": 0.0,
    "train.gradient_clip": None,
    "train.ema_decay": None,
    "train.loss": "cross_entropy",
    "train.teacher": None,
    "train.mean_teacher.weight": 0.0,
    "train.adversarial.weight": 0.0,
    "train.pruning": None,
    "train.class_weights": None,
    "train.schedule": "poly",
    "train.warmup_epochs": 0,
    "train.min_lr": 1e-4,
    "train.poly_power": 0.9,
    "train.selection_share": 0.0,
    "train.early_stopping_patience": None,
    "predict.mode": "whole",
    "predict.flip": False,
    "predict.scales": [1.0],
    "predict.crf.iterations": 0,
}

# mIoU in per cent, parameters of the network, parameters of the auxiliary head. The parameters
# follow from the published layers: a convolution of i to o channels with batch norm has
# i * o * k * k / groups + 2 * o, ResNetV1c-50 has 23,527,264, a classifier 21 * (c + 1).
FIGURES: dict[str, tuple[float | None, int, int]] = {
    "fcn": (67.1, 47_134_069, 2_365_205),
    "pspnet": (76.8, 46_611_829, 2_365_205),
    "deeplabv3": (76.2, 65_749_365, 2_365_205),
    "deeplabv3plus": (75.9, 41_226_213, 2_365_205),
    "unet": (None, 32_524_005, 2_365_205),
}

# mIoU in per cent, parameters of the encoder and of the head. ViT-S/14 has 22,056,192 and ViT-B/14
# 86,579,712 with position embeddings of 37 x 37 patches and one of the class token. A linear head
# has 2 * d + 21 * (d + 1), the MLP head 4 * 256 * (d + 1) + 256 * 1024 + 2 * 256 + 21 * 257.
DINOV2: dict[str, tuple[float | None, int, int]] = {
    "voc2012-dinov2-s-linear": (81.1, 22_056_192, 8_853),
    "voc2012-dinov2-b-linear": (82.5, 86_579_712, 17_685),
    "voc2012-dinov2-b-finetune": (None, 86_579_712, 1_055_509),
}

# Architecture, and licence of the encoder's weights.
ENCODERS: dict[str, tuple[str, str]] = {
    "voc2012-eomt-dinov2-b": ("eomt", "apache-2.0"),
    "voc2012-segformer-efficientvit-b2": ("segformer", "apache-2.0"),
    "voc2012-segformer-mobilenetv4-m": ("segformer", "apache-2.0"),
    "voc2012-upernet-hiera-s": ("upernet", "apache-2.0"),
    "voc2012-upernet-swinv2-t": ("upernet", "mit"),
}


# Of dinov2_vits14_voc2012_linear_config.py, as DINOv2 published it.
DINOV2_PROTOCOL: dict[str, Any] = {
    "augment.cat_max_ratio": 0.75,
    "augment.scale.range": [0.5, 2.0],
    "augment.flip.p": 0.5,
    "model.output_stride": None,
    "model.auxiliary_weight": 0.0,
    "train.iterations": 40_000,
    "train.batch_size": 16,
    "train.optimizer": "adamw",
    "train.lr": 1e-3,
    "train.weight_decay": 1e-4,
    "train.schedule": "poly",
    "train.poly_power": 1.0,
    "train.min_lr": 0.0,
    "train.loss": "cross_entropy",
    "train.ema_decay": None,
    "train.selection_share": 0.0,
    "predict.mode": "window",
    "predict.flip": False,
    "predict.scales": [1.0],
}

BY_SIZE = [
    pytest.param(one, marks=pytest.mark.long) if "dinov2-b" in one else one
    for one in (*DINOV2, *ENCODERS)
]

SMALL = "small-data"
"""The recipe of no publication, for any data."""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The shipped parameters and recipes, with no data."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    shutil.copytree(ROOT / "recipes", tmp_path / "recipes")
    return tmp_path


def recipe(name: str, root: Path = ROOT) -> Recipe:
    return recipes.find(root, f"voc2012-{name}-r50")


def settings(name: str) -> Params:
    return recipes.put_over(ROOT, recipe(name)).settings


def test_there_are_these_recipes() -> None:
    found = {one.name for one in recipes.every(ROOT)}
    published = {f"voc2012-{name}-r50" for name in NAMES} | set(DINOV2) | set(ENCODERS)
    assert found == published | {SMALL}


@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_the_protocol_holds(name: str) -> None:
    flat = settings(name).flat()
    assert {key: flat[key] for key in PROTOCOL} == PROTOCOL


@pytest.mark.parametrize("name", NAMES)
def test_the_protocol_holds_whatever_the_params_were(name: str, tmp_path: Path) -> None:
    """A recipe says all that its figure depends on, also where the shipped values would do."""
    other = {
        "data": {"unlabelled": "unlabelled"},
        "augment": {"cat_max_ratio": 0.5, "crop": [64, 64], "flip": {"p": 0.1},
                    "copy_paste": {"p": 1}},
        "model": {"architecture": "plain_cnn", "options": {"width": 8}, "dropout": 0.5},
        "train": {"optimizer": "adam", "momentum": 0.1, "ema_decay": 0.9, "loss": "dice", "l1": 1.0,
                  "gradient_clip": 1.0, "sampling": "rare_first", "early_stopping_patience": 3,
                  "accumulate": 2, "encoder_lr_factor": 0.1, "freeze_encoder_epochs": 1,
                  "freeze_batch_norm": True,
                  "mean_teacher": {"weight": 1.0}, "adversarial": {"weight": 0.01}},
        "predict": {"mode": "window", "flip": True, "scales": [0.5, 1.5],
                    "crf": {"iterations": 5}},
    }  # fmt: skip
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(other))
    changed = recipes.put_over(tmp_path, recipe(name)).settings
    shipped = settings(name)
    for section in ("augment", "model"):
        assert getattr(changed, section) == getattr(shipped, section)
    assert {key: changed.flat()[key] for key in PROTOCOL} == PROTOCOL


@pytest.mark.parametrize("name", [one.name for one in recipes.every(ROOT)])
def test_each_switches_learning_without_masks_off(name: str, tmp_path: Path) -> None:
    methods = {"mean_teacher": {"weight": 1.0}, "adversarial": {"weight": 0.01}}
    params = {"data": {"unlabelled": "unlabelled"}, "train": {"ema_decay": 0.9, **methods}}
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    train = recipes.put_over(tmp_path, recipes.find(ROOT, name)).settings.train
    assert (train.mean_teacher.weight, train.adversarial.weight) == (0, 0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("train", "synchronised"),
    [
        ({}, False),
        ({"devices": 1, "nodes": 1}, False),
        ({"devices": 4}, True),
        ({"devices": "auto"}, True),
        ({"nodes": 2}, True),
    ],
)
def test_batch_norm_is_over_the_whole_batch_on_any_number_of_devices(
    name: str, train: dict[str, Any], synchronised: bool, tmp_path: Path
) -> None:
    (tmp_path / "params.yaml").write_text(yaml.safe_dump({"train": train}))
    edit = recipes.put_over(tmp_path, recipe(name))
    assert edit.settings.train.sync_batch_norm is synchronised
    edit.write()
    assert recipes.put_over(tmp_path, recipe(name)).changes == ()


def test_a_recipe_s_own_devices_decide_on_its_batch_norm(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    text = (ROOT / "recipes" / "voc2012-fcn-r50.yaml").read_text()
    path.write_text(text.replace("  accumulate: 1", "  accumulate: 1\n  devices: 2"))
    (tmp_path / "params.yaml").write_text("train: {devices: 1}\n")
    assert recipes.put_over(tmp_path, recipes.read(path)).settings.train.sync_batch_norm
    path.write_text(text.replace("  accumulate: 1", "  accumulate: 1\n  devices: 1"))
    (tmp_path / "params.yaml").write_text("train: {devices: 2, sync_batch_norm: true}\n")
    assert not recipes.put_over(tmp_path, recipes.read(path)).settings.train.sync_batch_norm


@pytest.mark.parametrize("name", DILATED)
def test_each_states_the_published_figure_and_its_source(name: str) -> None:
    about = recipe(name).about
    assert (about.aim.miou, about.aim.iterations) == (FIGURES[name][0], 20000)
    assert f"open-mmlab/mmsegmentation, configs/{name}/README.md" in about.aim.source
    assert f"{name}_r50-d8_4xb4-20k_voc12aug-512x512.py" in about.aim.source
    assert (about.data.train_images, about.data.val_images) == (10582, 1449)
    text = " ".join(about.differences)
    assert "gluon_in1k" in text
    assert "resnet50_v1c" in text


def test_the_unet_says_that_there_is_no_figure() -> None:
    about = recipe("unet").about
    assert about.aim.miou is None
    assert about.aim.source.startswith("No respected figure exists")


@pytest.mark.parametrize("name", NAMES)
def test_it_builds_the_network_of_the_figure(name: str) -> None:
    found = settings(name)
    model = found.model
    expected = ("unet", "resnet50") if name == "unet" else (f"dilated_{name}", "tu-resnet50c")
    assert (model.architecture, model.encoder) == expected
    spec = ModelSpec(
        model.architecture,
        model.encoder,
        len(found.data.class_names),
        model.options,
        output_stride=model.output_stride,
        dropout=model.dropout,
    )
    network = build(spec, auxiliary=model.auxiliary_weight > 0)
    assert network.auxiliary is not None
    assert network.encoder is not None
    counts = [
        sum(one.numel() for one in part.parameters())
        for part in (network.network, network.auxiliary)
    ]
    assert counts == list(FIGURES[name][1:])
    with torch.no_grad():
        features = network.encoder.eval()(torch.zeros(1, 3, 64, 64))
    strides = [64 // one.shape[-1] for one in features]
    assert strides == ([1, 2, 4, 8, 16, 32] if name == "unet" else [1, 2, 4, 8, 8, 8])
    dropouts = [one.p for one in network.modules() if isinstance(one, torch.nn.Dropout2d)]
    assert dropouts == ([0.1] if name == "unet" else [0.1, 0.1])


@pytest.mark.parametrize("name", DINOV2)
def test_recipes_of_dinov2_build_the_network_of_the_figure(name: str) -> None:
    found = recipes.find(ROOT, name)
    changed = recipes.put_over(ROOT, found).settings
    model, train = changed.model, changed.train
    with torch.device("meta"):
        network = build(ModelSpec(model.architecture, model.encoder, 21, model.options, dropout=0))
    assert network.stride == 14
    assert {side % 14 for side in (*changed.augment.crop, *changed.predict.window)} == {0}
    head, encoder = (
        sum(one.numel() for one in network.network.get_submodule(part).parameters())
        for part in ("head", "encoder")
    )
    assert (found.about.aim.miou, encoder, head) == DINOV2[name]
    epochs = train.iterations * train.batch_size / found.about.data.train_images
    is_frozen = name.endswith("linear")
    assert (train.freeze_encoder_epochs > epochs) is is_frozen
    assert (train.layer_decay is None) is is_frozen
    steps = train.warmup_epochs * (found.about.data.train_images // train.batch_size)
    assert abs(steps - 1500) < 5
    if is_frozen:
        flat = changed.flat()
        assert {key: flat[key] for key in DINOV2_PROTOCOL} == DINOV2_PROTOCOL
        assert f"dinov2_vit{name[15]}14_voc2012_linear_config.py" in found.about.aim.source
    assert "2304.07193" in found.about.aim.source or found.about.aim.miou is None


@pytest.mark.parametrize("name", ENCODERS)
def test_recipes_without_a_figure_say_so_and_their_weights_are_free(name: str) -> None:
    found = recipes.find(ROOT, name)
    model = recipes.put_over(ROOT, found).settings.model
    architecture, licence = ENCODERS[name]
    assert found.about.aim.miou is None
    assert re.search("No publication|has no VOC 2012", found.about.aim.source)
    assert (model.architecture, model.encoder_weights) == (architecture, "imagenet")
    assert licences.published(model.encoder, model.encoder_weights) == licence


def test_the_recipe_for_small_data_doubts_no_data(tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text(
        "data: {path: nowhere, classes: [background, crack]}\n"
        "validate: {required_classes: [background]}\n"
    )
    found = recipes.find(ROOT, SMALL)
    edit = recipes.put_over(tmp_path, found)
    assert found.about.aim.miou is None
    assert "benchmarks.small_data" in found.about.aim.source
    assert recipes.doubts(tmp_path, found, edit.settings) == []


@pytest.mark.slow
@pytest.mark.parametrize("name", BY_SIZE)
def test_timms_own_file_of_the_encoder_fits(name: str, tmp_path: Path) -> None:
    model = recipes.put_over(ROOT, recipes.find(ROOT, name)).settings.model
    network = build(ModelSpec(model.architecture, model.encoder, 21, model.options))
    file = timm.create_model(model.encoder.removeprefix("tu-")).state_dict()
    path = tmp_path / "model.safetensors"
    save_file({name: torch.full_like(one, 0.5) for name, one in file.items()}, path)
    report = load_encoder_weights(network.network.get_submodule("encoder"), path)
    assert report.missing == ()
    assert not report.mismatched


@pytest.mark.slow
@pytest.mark.parametrize("name", [*BY_SIZE, SMALL])
def test_each_takes_steps_from_random_weights(name: str, job: Jobs) -> None:
    settings = recipes.put_over(ROOT, recipes.find(ROOT, name)).settings
    model, params = settings.model, settings.train
    engine = engine_of(
        job(
            architecture=model.architecture,
            encoder=model.encoder,
            options=model.options,
            more={"auxiliary_weight": model.auxiliary_weight},
            **params.model_dump(include=TAKEN) | {"batch_size": 2},
        )
    )
    before = {name: one.detach().clone() for name, one in engine.network.named_parameters()}
    for number in range(2):  # the norms of Swin V2 start at 0, and hide what lies before them
        assert torch.isfinite(engine.step(*batch(2), number, params.lr))
    changed = [
        not torch.equal(one, before[name]) for name, one in engine.network.named_parameters()
    ]
    assert sum(changed) > 0.9 * len(changed)


def test_putting_a_recipe_to_use_keeps_the_comments(checkout: Path) -> None:
    before = (checkout / "params.yaml").read_text()
    edit = recipes.put_over(checkout, recipe("fcn", checkout))
    assert (checkout / "params.yaml").read_text() == before
    edit.write()
    after = (checkout / "params.yaml").read_text()
    assert load_params(checkout) == edit.settings
    for line in before.splitlines():
        assert "#" not in line or line.split("#")[1] in after
    assert recipes.put_over(checkout, recipe("fcn", checkout)).changes == ()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: {lr: 0.1}", "not a recipe; expected sections of params.yaml, and a mapping"),
        ("recipe: {title: mine}", r"recipe\.aim: missing; expected a mapping with miou"),
        ("- a", "expected a mapping of sections, found list"),
        ("a: [", "not readable as YAML"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(SegopsError, match=message) as error:
        recipes.read(path)
    assert str(path) in str(error.value)


def test_a_recipe_s_unknown_keys_are_refused(checkout: Path) -> None:
    path = checkout / "recipes" / "voc2012-fcn-r50.yaml"
    text = path.read_text()
    path.write_text(text.replace("  title:", "  score: 1\n  title:"))
    with pytest.raises(
        SegopsError, match=r"recipe\.score: no such parameter; expected one of title"
    ):
        recipes.find(checkout, "voc2012-fcn-r50")
    path.write_text(text.replace("  lr: 0.01", "  learning_rate: 0.01"))
    before = (checkout / "params.yaml").read_text()
    with pytest.raises(SegopsError, match=r"^recipes/voc2012-fcn-r50\.yaml, put over .*") as error:
        recipes.put_over(checkout, recipe("fcn", checkout))
    assert "train.learning_rate: no such parameter" in str(error.value)
    assert (checkout / "params.yaml").read_text() == before


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="Did you mean voc2012-pspnet-r50") as error:
        recipes.find(ROOT, "voc2012-psp-r50")
    assert "voc2012-unet-r50" in str(error.value)
    with pytest.raises(SegopsError, match="There is none"):
        recipes.find(tmp_path, "voc2012-pspnet-r50")
    with pytest.raises(SegopsError, match=r"mine\.yaml: no such recipe"):
        recipes.find(ROOT, "mine.yaml")


def test_other_data_than_the_figure_s_is_said(tiny_voc: Path, tmp_path: Path) -> None:
    (tmp_path / "params.yaml").write_text("data: {path: voc}\n")
    fcn = recipe("fcn")
    edit = recipes.put_over(tmp_path, fcn)
    train, val = recipes.doubts(tmp_path, fcn, edit.settings)
    assert train.startswith("voc holds 12 train images, the recipe is for 10,582")
    assert "`segops data fetch sbd`" in train
    assert val.startswith("voc holds 6 val images, the recipe is for 1,449")
    shutil.rmtree(tiny_voc)
    (missing,) = recipes.doubts(tmp_path, fcn, edit.settings)
    assert "no such directory" in missing
    assert "`segops data fetch sbd`" in missing


@pytest.mark.parametrize("name", NAMES)
def test_classes_of_one_s_own_stay_and_are_no_match_for_the_figure(
    name: str, tiny_voc: Path, tmp_path: Path
) -> None:
    own = ("background", "crack")
    (tmp_path / "params.yaml").write_text(
        f"data: {{path: voc, classes: [{', '.join(own)}]}}\n"
        "validate: {required_classes: [background]}\n"
    )
    edit = recipes.put_over(tmp_path, recipe(name))
    assert edit.settings.data.class_names == own
    said = recipes.doubts(tmp_path, recipe(name), edit.settings)
    assert len(said) == 3
    assert "data.classes are not those of VOC" in said[-1]

"""The table of architectures and encoders: true where it is tried again, quick, and helpful."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import warnings
from collections.abc import Iterator
from dataclasses import replace
from importlib.metadata import version

import pytest
import timm
import torch
from pydantic import ValidationError
from typer.testing import CliRunner

from segops.cli import app
from segops.params import checked_model, compatibility
from segops.params.checked_model import CheckedModelParams as ModelParams
from segops.params.compatibility import (
    MASKS,
    SMP,
    TABLE,
    TIMM,
    TOKENS,
    known_name,
    refusal,
    table,
)
from segops.params.file import parse_params
from segops.runtime.errors import SegopsError
from segops.runtime.networks import options
from segops.runtime.networks.zoo import ARCHITECTURES, encoder_names
from tools.compatibility import _renamed, try_pair, working

TRIED_AGAIN = 24


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # SMP's about its old names
        yield
    torch.set_num_threads(before)


WITHOUT = {*options.OF_PATCHES, *options.WITHOUT_ENCODER}
"""Architectures that a convolutional encoder is not for."""


def test_the_table_knows_every_architecture_and_every_encoder_of_smp() -> None:
    found = table()
    assert set(found.names()) == set(ARCHITECTURES)
    assert set(encoder_names()) <= set(found.architectures)
    timms = [name for name in found.architectures if name.startswith("tu-")]
    assert len(timms) > 300
    assert TABLE.stat().st_size < 150_000


def test_the_light_heads_have_one_list() -> None:
    assert TOKENS == options.TOKENS
    assert MASKS == options.MASKS


def test_light_heads_take_vision_transformers() -> None:
    for name in ("tu-vit_small_patch14_reg4_dinov2", "tu-vit_base_patch14_dinov2"):
        assert {"linear", "mlp", "eomt"} <= table().architectures[name]
    assert {"linear", "mlp", "eomt"} <= table().architectures["tu-vit_small_patch16_dinov3"]


def test_the_pairs_that_everybody_uses_are_in_it() -> None:
    found = table()
    for name in ("resnet18", "resnet50", "resnet101", "mobilenet_v2", "efficientnet-b0"):
        assert set(ARCHITECTURES) - found.architectures[name] == WITHOUT
    dilated = {name for name in ARCHITECTURES if name.startswith("dilated_")}
    lacking = set(ARCHITECTURES) - found.architectures["vgg16"]
    assert lacking == {"deeplabv3", "deeplabv3plus", "pan", *WITHOUT, *dilated}
    assert set(ARCHITECTURES) - found.architectures["mit_b0"] == {
        *("unetplusplus", "linknet"),
        *WITHOUT,
    }


def _sample() -> list[tuple[str, str]]:
    """Pairs to try again, the same ones each time: as many that work as do not."""
    chooser = random.Random(0)
    found = table()
    light = [name for name in found.architectures if _is_light(name)]
    pairs: list[tuple[str, str]] = []
    for works in (True, False):
        kind = [
            (architecture, name)
            for name in light
            for architecture in found.names()
            if architecture not in found.any_encoder
            and (architecture in found.architectures[name]) is works
        ]
        pairs += chooser.sample(sorted(kind), TRIED_AGAIN // 2)
    return pairs


def _is_light(encoder: str) -> bool:
    heavy = ("large", "huge", "giant", "xl", "152", "b7", "b8", "l2", "m48", "x32d", "x48d", "dpn")
    small = ("18", "atto", "tiny", "nano", "small", "b0", "_s", "34", "mobile", "lite", "26")
    return any(word in encoder for word in small) and not any(word in encoder for word in heavy)


@pytest.mark.slow
def test_a_sample_tried_again_for_real_agrees_with_the_table() -> None:
    disagreeing = []
    for architecture, encoder in _sample():
        works = architecture in table().architectures[encoder]
        reason = try_pair(architecture, encoder)
        if works != (reason is None):
            disagreeing.append((architecture, encoder, works, reason))
    assert disagreeing == []


@pytest.mark.slow
@pytest.mark.long
def test_trials_find_what_trying_for_real_finds() -> None:
    """Trials on device `meta`, of encoders that work there and of encoders that need values."""
    for encoder in ("tu-test_resnet", "tu-test_vit", "tu-halonet26t"):
        works = working(encoder)
        assert set(works) == table().architectures[encoder]
        for architecture in ("linknet", "pspnet", "dpt", "linear"):
            assert (try_pair(architecture, encoder) is None) == (architecture in works)


def test_a_refusal_names_what_works() -> None:
    message = refusal("pan", "vgg11") or ""
    assert "architecture pan does not work with encoder vgg11" in message
    assert "resnet50" in message
    assert "vgg11 works with fcn16s" in message
    wanted = refusal("unetplusplus", "mit_b0") or ""
    assert "unetplusplus works with" in wanted
    plain = refusal("unet", "tu-vit_tiny_patch16_224") or ""
    assert "tu-vit_tiny_patch16_224 works with dpt" in plain


def test_parameters_are_refused_when_they_are_read() -> None:
    with pytest.raises(ValidationError, match=r"pan does not work with encoder vgg11.*resnet50"):
        ModelParams(architecture="pan", encoder="vgg11")
    with pytest.raises(ValidationError, match=r"vgg11 cannot be dilated to output stride 8"):
        ModelParams(architecture="unet", encoder="vgg11", output_stride=8)
    ModelParams(architecture="pan", encoder="resnet18", output_stride=32)


@pytest.mark.parametrize(
    ("pair", "options", "stride"),
    [
        (("unet", "resnet18"), {}, None),
        (("plain_cnn", "whatever"), {}, None),
        (("unet", "an_encoder_never_tried"), {}, None),
        (("an_architecture", "resnet18"), {}, None),
        (("pan", "vgg11"), {"encoder_output_stride": 32}, None),
        (("pan", "vgg11"), {}, 32),
    ],
)
def test_a_pair_that_may_work_is_let_through(
    pair: tuple[str, str], options: dict[str, int], stride: int | None
) -> None:
    assert refusal(*pair, options, stride) is None


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ({"architecture": "u-net"}, r"model\.architecture: expected one of deeplabv3, .* unet, "),
        ({"architecture": "u-net"}, r"did you mean unet\? \(found 'u-net'\)"),
        ({"encoder": "resnet500"}, r"model\.encoder: .*nearest: resnet50, .*`segops models`"),
        ({"encoder": "resnet50d"}, r"nearest: .*tu-resnet50d"),
        ({"encoder": "tu-resnet500.a1_in1k"}, r"tu-resnet50,.* \(found 'tu-resnet500\.a1_in1k'\)"),
    ],
)
def test_an_unknown_name_is_refused_with_those_that_may_be_meant(
    model: dict[str, str], expected: str
) -> None:
    assert {name: version(name) for name in (SMP, TIMM)}.items() <= table().versions.items()
    with pytest.raises(SegopsError, match=expected):
        parse_params({"model": model})


def test_no_name_of_the_installed_libraries_is_refused() -> None:
    deprecated = timm.models._registry._deprecated_models
    names = [*encoder_names(), *(f"tu-{name}" for name in [*timm.list_models(), *deprecated])]
    assert [name for name in names if known_name(name) not in table().architectures] == []
    assert table().renamed == _renamed()


def test_a_name_that_other_versions_may_have_is_left_to_building(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A table made with an older timm knows nothing of what the newer one brought."""
    older = replace(table(), versions=table().versions | {TIMM: "1.0.0"})
    for module in (checked_model, compatibility):
        monkeypatch.setattr(module, "table", lambda: older)
    ModelParams(encoder="tu-a_model_of_tomorrow")
    with pytest.raises(ValidationError, match="did you mean unet"):  # architectures are not timm's
        ModelParams(architecture="u-net")
    older = replace(older, versions=table().versions | {SMP: "0.5.0"})
    ModelParams(architecture="a_network_of_tomorrow")


def test_a_network_without_encoder_takes_any_name_of_one() -> None:
    assert ModelParams(architecture="plain_cnn", encoder="").encoder == ""


def test_an_encoder_that_cannot_be_dilated_is_refused_for_an_output_stride() -> None:
    assert refusal("unet", "vgg11") is None
    message = refusal("unet", "vgg11", {"decoder_channels": [8]}, 8) or ""
    assert "encoder vgg11 cannot be dilated to output stride 8" in message
    assert refusal("unet", "resnet18", {}, 8) is None


def test_names_with_tags_and_old_names_are_understood() -> None:
    assert known_name("tu-resnet50.a1_in1k") == "tu-resnet50"
    assert known_name("timm-regnetx_002") == "tu-regnetx_002"
    assert known_name("timm-mobilenetv3_small_100") == "tu-tf_mobilenetv3_small_100"
    assert known_name("timm-efficientnet-b0") == "timm-efficientnet-b0"
    assert known_name("tu-tv_resnet34") == "tu-resnet34"
    assert "tu-vit_tiny_patch16_224_in21k works with dpt" in (
        refusal("unet", "tu-vit_tiny_patch16_224_in21k") or ""
    )


def test_a_refusal_is_quick_and_loads_nothing_heavy() -> None:
    code = """
import sys, time
from pydantic import ValidationError
from segops.params.checked_model import CheckedModelParams, refusal, table
table()
start = time.process_time()
refusal("pan", "tu-vgg11")
try:
    CheckedModelParams(architecture="u-net", encoder="resnet500")
except ValidationError as error:
    assert error.error_count() == 2
print(time.process_time() - start, "torch" in sys.modules, "timm" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    seconds, torch_loaded, timm_loaded = done.stdout.split()
    assert float(seconds) < 0.2
    assert torch_loaded == timm_loaded == "False"


def test_the_command_shows_the_table() -> None:
    runner = CliRunner()

    def shown(*arguments: str) -> str:
        result = runner.invoke(app, ["models", *arguments], terminal_width=200)
        assert result.exit_code == 0, result.output
        return " ".join(result.output.split())

    overview = shown()
    assert all(name in overview for name in ARCHITECTURES)
    assert "tried" in overview
    assert "resnet50" in shown("--architecture", "pan")
    assert "vgg11" not in shown("--architecture", "pan").split("SMP")[1].split("tu-")[0]
    assert "unetplusplus" not in shown("--encoder", "mit_b0")
    shown_of_resnet = shown("--encoder", "resnet18")
    assert "resnet18 imagenet │ bsd-3-clause" in shown_of_resnet
    assert "resnet18 swsl │ cc-by-nc-4.0" in shown_of_resnet
    dinov3 = shown("--encoder", "tu-vit_small_patch16_dinov3")
    assert "tu-vit_small_patch16_dinov3.lvd1689m imagenet │ dinov3-license" in dinov3
    assert "does not work" in shown("--encoder", "vgg11", "--architecture", "pan")
    for arguments, message in (
        (("--encoder", "resnet17"), r"encoder 'resnet17' is not in .*Did you mean resnet1"),
        (("--architecture", "u-net"), r"architecture 'u-net' .*Did you mean unet"),
    ):
        with pytest.raises(SegopsError, match=message):
            runner.invoke(app, ["models", *arguments], catch_exceptions=False)


def test_no_encoder_is_in_the_table_twice() -> None:
    content = json.loads(TABLE.read_text())
    assert set(content) == {"versions", "any_encoder", "renamed", "groups"}
    encoders = [name for group in content["groups"] for name in group["encoders"]]
    assert len(encoders) == len(set(encoders))

"""The model card as Markdown: what it says, what it escapes, how long it gets."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from PIL import Image

from segops.params.gate import ExportGate
from segops.params.registry import CardParams
from segops.record.lineage import tag
from segops.release import exports
from segops.release.card import DESCRIPTION_LIMIT, Facts, description, page, worst_classes
from segops.release.chain import GENESIS, Entry
from segops.report.card_pictures import pictures
from segops.report.evaluation_page import write_evaluation_page
from segops.runtime.errors import SegopsError
from tests.support.evaluations import NAMES, confusion_of, evaluation_of, pictures_of

EVIL = "cat|**b** <img src=x onerror=alert(1)> [a](javascript:alert(1)) `c` ~~d~~ # $x$"
STATED = CardParams(
    intended_use="Counting cats.", data_licence="CC BY 4.0", model_licence="apache-2.0",
    limits="Not at night.",
)  # fmt: skip
TAGS = {
    tag("data_hash"): "d" * 64, tag("code_commit"): "c" * 40, tag("seed"): "3",
    tag("device"): "cuda", tag("precision"): "bf16", tag("weights_licence"): "bsd-3-clause",
}  # fmt: skip
PARAMS = {
    "data.path": "data/voc", "model.architecture": "unet", "model.encoder": "resnet18",
    "model.encoder_weights": "imagenet", "train.optimizer": "adamw", "train.lr": "0.001",
    "train.schedule": "poly", "train.batch_size": "16",
    "train.loss": '[{"name": "focal", "weight": 0.5}, {"name": "dice", "weight": 1.0}]',
}  # fmt: skip


def decided(sentences: tuple[str, ...] = ("mIoU on val is 0.612, at least 0.500.",)) -> Entry:
    checks = [{"name": "one", "outcome": "passed", "sentence": one} for one in sentences]
    return Entry(
        sequence=1, previous=GENESIS, time="2026-01-02T03:04:05+00:00", kind="decision",
        registry="local", model="segops", version="7", run_id="r", verdict="promoted",
        reason="It is good.", by="test", details={"checks": checks, "champion": "5"},
    )  # fmt: skip


def facts_of(names: tuple[str, ...] = NAMES, **changed: Any) -> Facts:
    known: dict[str, Any] = {
        "model": "segops", "number": "7", "tags": TAGS, "params": PARAMS,
        "epochs": {"epochs_run": 30.0, "best_epoch": 27.0},
        "verdict": {"classes": list(names), "images": {"train": 180, "val": 7}},
        "evaluation": evaluation_of(names), "decision": decided(), "machines": ("one", "two"),
        "stated": STATED,
    }  # fmt: skip
    return Facts(**{**known, **changed})


def test_a_card_says_all() -> None:
    for text in (page(facts_of()), description(facts_of())):
        for part in (
            "mIoU 0.612 on 7 images of val (95 % interval 0.581 to 0.650)",
            "Counting cats.", "CC BY 4.0", "180 in train, 7 in val", "4: ground, cat, cow, dog",
            "unet", "resnet18", "imagenet, licence bsd-3-clause", "0.5 × focal + 1 × dice",
            "adamw, learning rate 0.001, schedule poly", "30, best 27", "cuda, bf16",
            "expected calibration error", "underconfident",
            "object size: small", "promoted at 2026-01-02 03:04 UTC, compared with version 5.",
            "passed: mIoU on val is 0.612", "segops reproduce 7", "2 machines did so.",
            "Not at night.", "no pixel of them: cow, dog",
        ):  # fmt: skip
            assert part in text, part
        assert "\n\n\n" not in text
    assert "d" * 64 in page(facts_of())


def test_a_card_names_the_teacher() -> None:
    params = PARAMS | {"train.teacher": "models:/segops@champion"}
    params |= {"train.distillation.weight": "0.25"}
    tags = TAGS | {tag("teacher_model"): "models:/segops/3"}
    assert "**teacher**: models:/segops/3, 25% of the loss\n" in page(
        facts_of(params=params, tags=tags)
    )
    assert "teacher" not in page(facts_of())


def test_a_card_says_what_was_pruned() -> None:
    assert "**pruned**: without 30% of the channels that it started from\n" in page(
        facts_of(params=PARAMS | {"train.pruning": "0.3"})
    )
    assert "pruned" not in page(facts_of())


def test_a_card_says_which_channels_an_image_has() -> None:
    for channels, bands, words in (("null", '["Depth"]', "RGB, Depth"),
                                   ("6", "[]", "6 bands of each image file")):  # fmt: skip
        params = PARAMS | {"data.channels": channels, "data.bands": bands}
        assert f"**channels**: {words}\n" in page(facts_of(params=params))
    for channels in ("null", "3"):
        params = PARAMS | {"data.channels": channels, "data.bands": "[]"}
        assert "**channels**" not in page(facts_of(params=params))


def test_what_is_not_known_is_not_stated() -> None:
    bare = Facts("segops", "7", {tag("miou"): "0.500000"})
    for text in (page(bare), description(bare)):
        assert "mIoU 0.500 on val." in text
        assert "Not stated." in text
        assert "**licence**: not stated" in text
        assert "## Metrics" not in text
        assert "Not decided yet." in text
        assert "No machine has done so yet." in text
    assert "Not evaluated." in page(Facts("segops", "7", {tag("miou"): "none"}))
    withdrawn = facts_of(withdrawn="blind at dusk")
    assert "Withdrawn by a rollback: blind at dusk" in description(withdrawn)


def test_the_hub_reads_the_front_matter() -> None:
    card = ModelCard(page(facts_of()))
    data = card.data.to_dict()
    assert data["license"] == "apache-2.0"
    assert data["pipeline_tag"] == "image-segmentation"
    assert {"unet", "resnet18"} <= set(data["tags"])
    results = {one.metric_type: one for one in card.data.eval_results or ()}
    assert results["mean_iou"].metric_value == 0.6123
    assert results["expected_calibration_error"].metric_value == 0.0771
    assert results["mean_iou"].dataset_revision == "d" * 64
    assert "license" not in ModelCard(page(facts_of(stated=CardParams()))).data.to_dict()


def test_names_from_data_are_text() -> None:
    names = ("ground", EVIL, "cow", "dog")
    stated = CardParams(**dict.fromkeys(("intended_use", "data_licence", "limits"), EVIL))
    told = facts_of(names, stated=stated, decision=decided((EVIL,)))
    for text in (page(told).split("\n---\n")[-1], description(told)):
        html = MarkdownIt("commonmark", {"html": True}).enable(["table", "strikethrough"])
        shown = html.render(text)
        for element in ("<img", "<a ", "<s>", "<b>", "<strong>b</strong>", "<code>c<"):
            assert element not in shown, element
        plain = shown.replace("&lt;", "<").replace("&gt;", ">")
        assert plain.count(EVIL) == 6, shown  # classes, worst, three stated, the check


def of_exports(*forms: str) -> dict[str, Any]:
    figures = {
        "digest": "d" * 64, "quantize": None, "error": None, "miou": 0.7, "miou_difference": -0.005,
        "miou_low": -0.0071, "miou_high": 0.0011, "boundary_iou": 0.41, "worst_class": "a|b",
        "worst_class_difference": -0.04, "differing_pixels": 0.001, "mib": 5.0,
        "milliseconds_p50": 15.0, "milliseconds_p95": 20.0, "peak_mib": 1090.0,
    }  # fmt: skip
    model = {"miou": 0.705, "boundary_iou": 0.42, "mib": 6.0, "milliseconds_p50": 30.0}
    return exports.decided(dict.fromkeys(forms, figures), ExportGate(max_mib=5.5), model)


def test_exports_stand_in_a_table_below_their_model() -> None:
    found = of_exports("onnx", "onnx-int8")
    found["onnx-int8"] = found["onnx"] | {"offered": False, "reasons": ["it has | 9 MiB"]}
    decision = decided()
    decision = decision.model_copy(update={"details": decision.details | {"exports": found}})
    text = page(facts_of(decision=decision))
    html = MarkdownIt("commonmark").enable("table").render(text[text.index("## Exports") :])
    table = html[html.index("<tbody>") : html.index("</tbody>")]
    lines = [re.findall(r"<td[^>]*>(.*?)</td>", line) for line in table.split("<tr>")[1:]]
    export = [
        "0.700", "−0.0050 (−0.0071 to +0.0011)", "0.410", "a|b −0.0400", "0.100\u202f%", "5.0",
        "15.0", "20.0", "1\u202f090",
    ]  # fmt: skip
    assert lines == [
        ["torch, the model", "0.705", "–", "0.420", "", "–", "6.0", "30.0", "–", "–"],
        ["onnx", *export],
        ["onnx-int8", *export],
    ]
    assert "<li>onnx is offered.</li>" in html
    assert "<li>onnx-int8 is not offered: it has | 9 MiB.</li>" in html
    short = description(facts_of(decision=decision))
    assert "- torch is the model itself: mIoU 0.705, 6.0 MiB.\n- onnx is offered: mIoU" in short
    # A decision of an earlier segops has no figures of the model.
    old = {name: {key: one[key] for key in one if key != "model"} for name, one in found.items()}
    decision = decision.model_copy(update={"details": decision.details | {"exports": old}})
    text = page(facts_of(decision=decision))
    assert "| onnx | 0.700 |" in text
    assert "torch, the model" not in text


@pytest.mark.parametrize("length", [20, 200, 1000])
def test_a_description_fits_the_registry(length: int) -> None:
    names = ("ground", *(f"{one:03}" + "ü|" * (length // 2) for one in range(40)))
    evaluation = evaluation_of(names)
    for figures in evaluation["classes"].values():
        figures |= {"truth_pixels": 5, "iou": 0.5}
    told = facts_of(names, evaluation=evaluation, decision=decided(("x" * length,) * 20))
    assert len(description(told)) <= DESCRIPTION_LIMIT
    assert description(told).startswith("**mIoU 0.612")


def test_pictures_of_the_worst_classes(tmp_path: Path) -> None:
    evaluation = evaluation_of()
    evaluation["classes"]["dog"]["truth_pixels"] = 5
    assert worst_classes(evaluation) == ["dog", "cat", "ground"]
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation, confusion_of(), pictures_of(), None)
    found = pictures(path.read_text(), worst_classes(evaluation))
    assert [one.text.split(":")[0] for one in found] == [
        "dog, image image2", "cat, image image1", "ground, image image0"
    ]  # fmt: skip
    sheet = np.asarray(Image.open(io.BytesIO(found[0].content)))
    assert sheet.shape == (30, 3 * 40 + 2 * 8, 3)
    panels = [sheet[:, start : start + 40].astype(int) for start in (0, 48, 96)]
    # The truth has a cat where the prediction has none, which has a dog where the truth has none.
    cat, dog = (slice(8, 16), slice(8, 16)), (slice(22, 24), slice(32, 38))
    assert (
        abs(panels[1][cat] - panels[0][cat]).mean()
        > 30
        > abs(panels[2][cat] - panels[0][cat]).mean()
    )
    assert (
        abs(panels[2][dog] - panels[0][dog]).mean()
        > 20
        > abs(panels[1][dog] - panels[0][dog]).mean()
    )
    text = page(replace(facts_of(), pictures=found))
    assert "](worst-1.jpg)" in text
    assert "worst-1.jpg" not in description(replace(facts_of(), pictures=found))

    bare = tmp_path / "bare.html"
    write_evaluation_page(bare, evaluation, confusion_of(), (), None)
    assert pictures(bare.read_text(), ["cat"]) == []
    damaged = path.read_text().replace('"photo"', '"foto"')
    with pytest.raises(SegopsError, match="are damaged"):
        pictures(damaged, ["cat"])

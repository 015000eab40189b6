"""The script of the evaluation page in a real browser."""

from __future__ import annotations

import re
from dataclasses import replace
from html import unescape
from pathlib import Path
from urllib.parse import quote

import pytest

from segops.report.evaluation_page import write_evaluation_page
from segops.report.page_inputs import Place
from tests.support.browser import needs_browser, opened, with_script
from tests.support.evaluations import (
    confusion_of,
    evaluation_of,
    image_rows_of,
    opponent_of,
    pictures_of,
    places_of,
)

pytestmark = needs_browser


# What a person would do, one step a line, and what the page then says.
STEPS = """
const said = [], click = (selector) => document.querySelector(selector).click();
const say = (name, value) => said.push(name + ": " + value);
const press = (key) => document.activeElement.dispatchEvent(new KeyboardEvent("keydown",
  {key, bubbles: true, cancelable: true}));
const rows = () => [...document.querySelectorAll("#class-table tbody th")].map((one) =>
  one.dataset.value).join(" ");
const ids = () => [...document.querySelectorAll("#cards .picture")].map((one) =>
  one.dataset.id.slice(-1)).join("");
for (const turn of [1, 2, 3]) {
  click("th[data-key=difference1] button");
  say("difference " + turn, rows() + " " + location.hash);
}
click(".chip[data-kind=missed]"); say("missed", ids() + " " + location.hash);
click("a[href$=dog]"); say("dog", ids() + " " + location.hash);
click(".chip[data-kind='false alarm']"); say("dog, false alarm", ids() + " " + location.hash);
click("#reset"); say("reset", ids() + " " + location.hash);
document.querySelector("input[value=photo]").focus();
press("5"); say("explanation", ids() + " " + location.hash);
press("2"); say("truth", ids() + " " + location.hash);
press("-"); say("opacity", document.querySelector("#opacity").value);
const images = () => [...document.querySelectorAll("#image-table tbody tr:not([hidden]) th")]
  .map((one) => one.dataset.value.slice(-1)).join("");
say("images", images());
click("#image-table th[data-key=wrong] button"); say("most wrong", images() + " " + location.hash);
click("#image-table th[data-key=wrong] button"); say("least wrong", images() + " " + location.hash);
click("#image-table th[data-key=wrong] button"); say("as given", images() + " " + location.hash);
const only = (key) => document.querySelector(`[data-only='${key}']`);
const told = () => images() + " " + document.querySelector("#only").textContent.trim()
  + " " + ids() + " " + document.querySelector("#shown").textContent + " " + location.hash;
document.querySelector(".pairs [data-only]").click(); say("confusion", told());
say("its focus", document.activeElement.textContent);
click("#only button");
say("all", images() + document.querySelector("#only").hidden + location.hash);
say("back", document.activeElement.dataset.only);
for (const key of ["union-1-1", "slice-0"]) { only(key).click(); say(key, told()); }
for (const bar of [".classes tbody", ".pairs li", ".slices tr:nth-child(2) td.bar",
  ".slices tr:last-child td.bar", "#errors > .stack"]) {
  click(bar + " [data-only]"); say(bar, told());
}
click("#errors > .stack [data-only=kind-3]"); say("no picture", told());
say("instead", document.querySelector("#nothing:not([hidden])").textContent);
click(".bins a"); say("bin", told());
const cell = document.querySelector(".heat [data-only='cell-0-3']");
say("stops", document.querySelectorAll(".heat [tabindex='0']").length);
document.querySelector(".heat [tabindex='0']").focus(); press("ArrowDown");
say("below", document.activeElement.getAttribute("data-label"));
document.activeElement.dispatchEvent(new MouseEvent("click", {bubbles: true, cancelable: true}));
say("cell", told());
click("a[href$=dog]"); say("a class", ids() + " " + location.hash); click("#reset");
click("#image-table a"); say("image", document.querySelector("#viewer-title").textContent);
click("[data-close]");
click("#cards .picture"); say("open", document.querySelector("#viewer-title").textContent);
press("ArrowRight"); say("next", document.querySelector("#viewer-title").textContent);
press("ArrowLeft"); press("ArrowLeft"); say("around", location.hash);
click("[data-close]");
setTimeout(() => {
  say("closed", document.querySelector("#viewer").open + " " + location.hash);
  say("focus", document.activeElement.dataset.id);
  say("parsed names", document.querySelectorAll("th b, #gallery b").length);
  document.body.append(document.createElement("pre"));
  document.querySelector("pre").textContent = said.join("\\n");
}, 50);
"""


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    page = tmp_path_factory.mktemp("page") / "evaluation.html"
    names = ("ground", "cat", "cow", "<b>dog</b>")
    pictures = pictures_of(5)
    write_evaluation_page(
        page, evaluation_of(names), confusion_of(), pictures, None, [opponent_of()]
    )
    state = f"sort=iou&dir=asc&kind={quote('false alarm')}&order=score&layer=kinds&picture=image3"
    return opened(page, state)


def test_the_table_is_sorted_by_the_state_and_absent_classes_stay_last(document: str) -> None:
    assert '<html lang="en" class="js">' in document
    rows = re.findall(r'data-column="class" data-value="([^"]*)"', document)
    assert [unescape(row) for row in rows] == ["cat", "ground", "cow", "<b>dog</b>"]
    headings = re.findall(
        r"<th [^>]*data-key=\"(\w+)\"[^>]*aria-sort=\"(\w+)\"[^>]*>(.{22})", document
    )
    assert headings == [("iou", "ascending", '<button type="button">')]
    assert document.count('<button type="button">IoU</button></th>') == 2


def test_the_gallery_is_filtered_counted_and_ordered(document: str) -> None:
    assert re.findall(r'class="picture" data-index="\d" data-id="(\w+)"', document) == [
        "image4", "image3", "image2", "image1",
    ]  # fmt: skip
    pressed = re.findall(r'data-kind="([^"]+)" aria-pressed="true"', document)
    assert pressed == ["false alarm"]
    assert re.findall(r'<span class="count">(\d)</span>', document) == ["5", "4", "0", "0"]
    assert 'aria-live="polite">4 of 5 pictures</output>' in document
    assert '<option value="cat">' not in document


def test_the_layer_lies_over_the_photograph(document: str) -> None:
    card = document[document.index('data-id="image4"') :]
    card = card[: card.index("</button>")]
    assert '<img class="photo"' in card
    assert 'class="layer kinds"' in card
    assert 'id="gallery" data-layer="kinds"' in document
    assert '<div id="gallery" hidden' not in document


def test_a_picture_opens_with_all_that_is_known_of_it(document: str) -> None:
    viewer = document[document.index('<dialog id="viewer"') : document.index("</dialog>")]
    assert ' open=""' in viewer[:80]
    assert ">image3</h3>" in viewer
    assert "2 of 4" in viewer
    assert re.findall(r"<figcaption>([^<]+)", viewer) == [
        "photograph", "ground truth", "prediction", "errors",
    ]  # fmt: skip
    assert viewer.count('class="photo"') == 4
    assert "<td>225</td>" in re.sub(r' class="n"', "", viewer)


def test_the_predictions_of_several_models_stand_side_by_side(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.html"
    rivals = [opponent_of("<i>rival</i>"), opponent_of("third")]
    pictures = [replace(one, others=(one.truth, one.prediction)) for one in pictures_of(3)]
    write_evaluation_page(page, evaluation_of(), confusion_of(), pictures, None, rivals, name="a")
    document = opened(page, "layer=other0&picture=image1")
    viewer = document[document.index('<dialog id="viewer"') : document.index("</dialog>")]
    assert [unescape(one) for one in re.findall(r"<figcaption>([^<]+)", viewer)][:6] == [
        "photograph", "ground truth", "prediction of a", "prediction of <i>rival</i>",
        "prediction of third", "errors",
    ]  # fmt: skip
    layers = re.findall(r'class="layer (\w+)" alt="" src="([^"]+)"', viewer)
    shown = dict(layers)
    assert shown["other0"] == shown["truth"] != shown["prediction"] == shown["other1"]
    assert 'id="gallery" data-layer="other0"' in document
    assert "image2" in document


def test_the_address_of_a_figure_that_is_not_drawn_shows_all_images(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.html"
    evaluation, rows = evaluation_of(), image_rows_of(4)
    places = places_of() | {"bin-9": Place(1, ((1, 40),))}
    write_evaluation_page(
        page, evaluation, confusion_of(), pictures_of(4), None, images=rows, places=places
    )
    for key in ("bin-9", "cell-3-97"):
        document = opened(page, f"only={key}")
        assert document.count('class="picture" data-index') == 4
        assert "aria-current" not in document[document.index("<body") : document.index("<script")]
    marked = opened(page, "only=cell-1-0")
    assert re.search(r'<a [^>]*data-only="cell-1-0"[^>]* aria-current="true"', marked)
    assert 'data-only="union-1-1" aria-current' not in marked


def test_clicks_and_keys_do_what_they_say(tmp_path: Path) -> None:
    page = tmp_path / "evaluation.html"
    names = ("ground", "cat", "<b>cow</b>", "dog")
    evaluation = evaluation_of(names)
    evaluation["classes"]["dog"]["truth_pixels"] = 5
    evaluation["slices"].append(evaluation["slices"][0] | {"group": "camera", "name": "<b>7</b>"})
    void = {"kind-3": Place(1, ((4, 5),)), "slice-2": Place(2, ((1, 0), (4, 0)))}
    write_evaluation_page(
        page, evaluation, confusion_of(), pictures_of(4), None, [opponent_of()],
        images=image_rows_of(4), places=places_of() | void,
    )  # fmt: skip
    page.write_text(with_script(page.read_text(), STEPS))
    said = re.search(r"<pre>(.*)</pre>", opened(page, ""), flags=re.S)
    assert said
    assert unescape(said[1]).split("\n") == [
        "difference 1: cat ground dog <b>cow</b> #sort=difference1",
        "difference 2: ground cat dog <b>cow</b> #sort=difference1&dir=asc",
        "difference 3: ground cat dog <b>cow</b> ",
        "missed: 0123 #kind=missed",
        "dog: 321 #class=dog",
        "dog, false alarm: 321 #class=dog&kind=false+alarm",
        "reset: 3210 ",
        "explanation: 1 #layer=activation",
        "truth: 3210 #layer=truth",
        "opacity: 55",
        "images: 0123>",
        "most wrong: 3210> #images=wrong&layer=truth",
        "least wrong: 0123> #images=wrong&imagesdir=asc&layer=truth",
        "as given: 0123> #layer=truth",
        "confusion: 201 cat predicted as ground 3 images show all 201 "
        "3 of 4 pictures: cat predicted as ground #layer=truth&only=cell-1-0",
        "its focus: show all",
        "all: 0123>true#layer=truth",
        "back: cell-1-0",
        "union-1-1: 0 extent errors of cat 1 image show all 0 "
        "1 of 4 pictures: extent errors of cat #layer=truth&only=union-1-1",
        "slice-0: 01 object size: small 2 images show all 01 "
        "2 of 4 pictures: object size: small #layer=truth&only=slice-0",
        ".classes tbody: 10 wrong pixels of cat 2 of its 3 images are listed show all 10 "
        "2 of 4 pictures: wrong pixels of cat #layer=truth&only=iou-1",
        ".pairs li: 201 cat predicted as ground 3 images show all 201 "
        "3 of 4 pictures: cat predicted as ground #layer=truth&only=cell-1-0",
        ".slices tr:nth-child(2) td.bar: 01 object size: small 2 images show all 01 "
        "2 of 4 pictures: object size: small #layer=truth&only=slice-0",
        ".slices tr:last-child td.bar: 1> camera: <b>7</b> 2 images show all 1 "
        "1 of 4 pictures: camera: <b>7</b> #layer=truth&only=slice-2",
        "#errors > .stack: 12 errors of the kind missed 2 images show all 12 "
        "2 of 4 pictures: errors of the kind missed #layer=truth&only=kind-0",
        "no picture: > errors of the kind boundary 1 image; no picture of it is on the page show "
        "all  0 of 4 pictures: errors of the kind boundary #layer=truth&only=kind-3",
        "instead: No picture of these images is on the page.",
        "bin: 10 wrong with a confidence of 0.50 to 1.00 2 of its 4 images are listed show all 10 "
        "2 of 4 pictures: wrong with a confidence of 0.50 to 1.00 #layer=truth&only=bin-1",
        "stops: 1",
        "below: cat predicted as ground",
        "cell: 201 cat predicted as ground 3 images show all 201 "
        "3 of 4 pictures: cat predicted as ground #layer=truth&only=cell-1-0",
        "a class: 321 #class=dog&layer=truth",
        "image: image0",
        "open: image3",
        "next: image2",
        "around: #layer=truth&picture=image0",
        "closed: false #layer=truth",
        "focus: image0",
        "parsed names: 0",
    ]

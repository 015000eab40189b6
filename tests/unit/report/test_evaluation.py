"""The evaluation page as a whole."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segops.report import evaluation_page as page_module
from segops.report import gallery
from segops.report.evaluation_page import write_evaluation_page
from segops.report.page_inputs import LabelErrors, Place
from tests.support.evaluations import (
    NAMES,
    confusion_of,
    evaluation_of,
    image_rows_of,
    old_evaluation,
    opponent_of,
    pictures_of,
)

CURVES = "epoch,step,lr,train_loss,selection_miou,seconds\n"
VOID_ELEMENTS = {"meta", "link", "input", "br", "img"}


class Outline(HTMLParser):
    """Elements that are open, ids, tables as lists of rows, and everything that could load."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.loads: list[str] = []
        self.tables: list[list[list[str]]] = []
        self.headings: list[dict[str, str | None]] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag not in VOID_ELEMENTS:
            self.open.append(tag)
        if attributes.get("id"):
            self.ids.append(str(attributes["id"]))
        self.loads += [str(attributes[key]) for key in ("src", "href", "data") if key in attributes]
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
            if tag == "th" and "data-key" in attributes:
                self.headings.append(attributes)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data


def write(path: Path, evaluation: dict[str, Any] | None = None, **options: Any) -> str:
    options = {"pictures": (), "learning_curves": None} | options
    write_evaluation_page(path, evaluation or evaluation_of(), confusion_of(), **options)
    return path.read_text()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = tmp_path_factory.mktemp("page")
    curves = directory / "learning.csv"
    curves.write_text(
        CURVES + "0,10,0.001,2.5,0.31,3\n1,20,0.002,1.25,0.4567,3\n2,30,0.001,1,0.4,3"
    )
    return write(
        directory / "evaluation.html",
        pictures=pictures_of(),
        learning_curves=curves,
        opponents=[opponent_of()],
    )


def test_the_page_stands_alone(page: str) -> None:
    assert not re.search(r"https?:|@import|url\(|<script[^>]+src", page)
    loads = Outline(page).loads
    assert "data:," in loads
    assert all(load.startswith(("data:", "#")) for load in loads)
    assert "default-src 'none'; img-src data:" in page


def test_the_page_is_well_formed_and_links_lead_somewhere(page: str) -> None:
    outline = Outline(page)
    assert outline.open == []
    assert len(set(outline.ids)) == len(outline.ids)
    targets = {load[1:] for load in outline.loads if load.startswith("#") and "=" not in load}
    assert targets == {
        "classes", "errors", "slices", "calibration", "matrix", "curves", "pictures", "lineage",
    }  # fmt: skip
    assert targets <= set(outline.ids)


def test_the_page_shows_every_figure(page: str) -> None:
    for figure in ("0.612", "0.581 to 0.650", "95\u202f%", "0.409", "0.901", "0.702", "0.803"):
        assert figure in page
    for figure in ("0.604", "0.706", "0.607", "0.172", "0.357", "0.250", "0.294", "1.311", "1.322"):
        assert figure in page
    for figure in (
        "0.515",
        "0.525",
        "6.16\u202fpx",
        "27.10\u202fpx",
        "0.077",
        "1\u202f234\u202f567",
    ):
        assert figure in page
    assert "classes in truth or prediction" in page
    assert "mean IoU of the 2 classes" in page
    assert "Best: 0.457 in epoch 1" in page
    for digest in ("d" * 64, "e" * 64, "a" * 64, "b" * 64):
        assert digest in page


def test_without_a_script_every_table_is_there(page: str) -> None:
    text = re.sub(r"<script.*?</script>", "", page, flags=re.S)
    classes, errors, unions, slices, bins = Outline(text).tables
    assert [row[0] for row in classes[2:]] == ["ground", "cat", "cow", "dog", "mean of 2"]
    assert [row[0] for row in errors[1:]] == ["missed", "false alarm", "confusion", "boundary"]
    assert unions == [
        ["class", "of its union", "right", "boundary", "extent", "segment"],
        ["ground", "", "78.3\u202f%", "5.4\u202f%", "16.3\u202f%", "0\u202f%"],
        ["cat", "", "17.2\u202f%", "20.7\u202f%", "62.1\u202f%", "0\u202f%"],
    ]
    assert [row[0] for row in slices[1:]] == ["object size", "small< 32²", "scene", "crowded>= 4"]
    assert bins[2] == ["0.50–1.00", "1\u202f200", "0.800", "0.700", "\u22120.100"]
    assert "need JavaScript" in text
    assert "<strong>cat</strong> taken for <strong>ground</strong>: <b>75.0\u202f%</b> of" in text


def test_headings_carry_what_sorting_needs(page: str) -> None:
    keys = [heading["data-key"] for heading in Outline(page).headings]
    assert keys[:2] == ["class", "iou"]
    assert keys[-2:] == ["iou1", "difference1"]
    assert {"boundary_iou", "contour_distance", "f1", "truth_pixels"} <= set(keys)
    assert re.search(r'data-column="difference1" data-value="0.11"', page)


def test_the_table_of_images_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = image_rows_of(3)
    page = write(tmp_path / "e.html", images=rows)
    assert "Every image, the one with the lowest score first; all are in" in page
    assert page.count('<tr><th scope="row" class="name mono"') == 3  # and one that is all void
    monkeypatch.setattr(page_module, "IMAGES_SHOWN", 2)
    page = write(tmp_path / "e.html", images=rows)
    assert "The 2 images with the lowest score, of 4; all are in <code>reports/images.csv" in page
    assert re.findall(r'data-column="image" data-value="(\w+)"', page) == ["image0", "image1"]


def test_of_several_models_the_table_has_each_score_and_the_differences(tmp_path: Path) -> None:
    rivals = [opponent_of("<i>b</i>"), opponent_of("c")]
    rows = [
        replace(one, others=(0.25, None)[:: 1 if one.image_id == "image0" else -1])
        for one in image_rows_of(2)
    ]
    page = write(tmp_path / "e.html", images=rows, opponents=rivals, name="<i>a</i>")
    assert "<i>" not in page.replace("<i></i>", "")
    assert "the one with the worst difference first. Score:" in page
    assert "reports/images.csv" not in page
    assert "the score of &lt;i&gt;a&lt;/i&gt; minus that of the other model" in page
    table = Outline(re.sub(r"<script.*?</script>", "", page, flags=re.S)).tables[-1]
    assert table[0][:6] == [
        "image", "score of<i>a</i>", "score of<i>b</i>", "difference", "score ofc", "difference",
    ]  # fmt: skip
    assert table[1][:6] == ["image0", "0.500", "0.250", "+0.250", "–", "–"]
    assert table[2][:6] == ["image1", "0.400", "–", "–", "0.250", "+0.150"]
    assert table[3][1:6] == ["–", "–", "–", "0.250", "–"]
    assert 'data-column="difference2" data-value="0.15">' in page
    # Beside a champion, whose scores are not known, the table is of the model alone.
    page = write(tmp_path / "e.html", images=image_rows_of(2), opponents=rivals)
    assert "the one with the lowest score first" in page
    assert 'data-key="score1"' not in page


def test_the_images_of_pascal_voc_are_a_small_part_of_the_page(tmp_path: Path) -> None:
    assert page_module.IMAGES_SHOWN >= 1449
    (row, *_), bare = image_rows_of(1), len(write(tmp_path / "e.html").encode())
    row = replace(
        row, score=1 / 3, wrong=71, kinds=dict.fromkeys(row.kinds, 17), worst_class="diningtable",
        worst_iou=1 / 7, confidence=2 / 3,
    )  # fmt: skip
    rows = [
        replace(row, image_id=f"2011_{index:06}") for index in range(page_module.IMAGES_SHOWN + 1)
    ]
    whole = len(write(tmp_path / "e.html", images=rows).encode())
    assert whole - bare < 2_000_000 < gallery.PAGE_LIMIT / 7


def test_suspected_labels_are_set_apart(tmp_path: Path) -> None:
    plain = write(tmp_path / "plain.html", images=image_rows_of())
    assert "Suspected labels" not in plain
    assert 'data-key="suspected"' not in plain
    labels = LabelErrors("<i>others</i>", 7, {"image1": 50}, 200, 0.65, 0.6, 0.7)
    rows = [
        replace(
            one,
            suspected=one.image_id in labels.pixels,
            suspected_pixels=labels.pixels.get(one.image_id),
        )
        for one in image_rows_of()
    ]
    places = {"suspected": Place(1, ((1, 50),))}
    page = write(tmp_path / "e.html", images=rows, places=places, labels=labels)
    section = page[page.index('<section id="labels">') :]
    text = re.sub(r"<[^>]+>", "", section[: section.index("</section>")])
    assert "judged by &lt;i&gt;others&lt;/i&gt;) judged 7 images of val" in text
    assert "It suspects the labels of 1 of the scored images." in text
    assert "50 wrong pixels, 25.0\u202f% of all wrong ones, contradict the label" in text
    assert "mIoU without these images: 0.650 (0.600 to 0.700); with them: 0.612" in text
    table = Outline(re.sub(r"<script.*?</script>", "", page, flags=re.S)).tables[-1]
    assert [row[-1] for row in table] == ["label suspected", "", "50 px", "", ""]
    uncounted = replace(labels, pixels={"image1": None})
    page = write(tmp_path / "f.html", images=rows, labels=uncounted)
    assert "of all wrong ones, contradict" not in page


def test_robustness_is_shown_where_it_was_measured(tmp_path: Path) -> None:
    assert 'id="robustness"' not in write(tmp_path / "plain.html")
    robustness = {
        "clean": 0.6, "mean": 0.45, "retained": 0.75, "strengths": [1, 3], "images": 7,
        "corruptions": [{"name": "fog", "miou": [0.5, 0.4], "mean": 0.45}],
    }  # fmt: skip
    page = write(tmp_path / "e.html", evaluation_of() | {"robustness": robustness})
    assert "75.0\u202f% of the mIoU of 0.600 without corruption" in page
    assert 'href="#robustness"' in page
    table = next(one for one in Outline(page).tables if one[0][0] == "corruption")
    assert table == [
        ["corruption", "mean", "strength 1", "strength 3"],
        ["fog", "0.450\n", "0.500", "0.400"],
    ]


def test_absent_classes_come_last_and_grey(page: str) -> None:
    rows = re.findall(
        r'<tr( class="absent")?><th scope="row" class="name" data-column="class"', page
    )
    assert rows == ["", "", ' class="absent"', ' class="absent"']


def test_an_evaluation_of_an_older_release_is_shown_with_dashes(tmp_path: Path) -> None:
    opponents = [opponent_of("older", old=True)]
    page = write(tmp_path / "old.html", old_evaluation(), opponents=opponents)
    assert "Reliability diagram" not in page
    assert 'id="slices"' not in page
    assert "not recorded by this evaluation" in page
    assert "None" not in page
    mixed = write(tmp_path / "mixed.html", evaluation_of(), opponents=opponents)
    assert "older: –" in mixed
    assert "None" not in mixed


def test_without_an_opponent_the_page_says_so(tmp_path: Path) -> None:
    page = write(tmp_path / "e.html")
    assert "no other champion to compare with" in page
    assert "paired" not in page
    assert "<title>Evaluation · segops</title>" in page


def test_a_comparison_names_its_models_in_the_title(tmp_path: Path) -> None:
    opponents = [opponent_of("B <3"), opponent_of("C"), opponent_of("D", old=True)]
    page = write(tmp_path / "c.html", name="A & co", opponents=opponents)
    assert "<h1>A &amp; co compared with B &lt;3, C and D</h1>" in page
    assert "mIoU of A &amp; co" in page
    keys = [heading["data-key"] for heading in Outline(page).headings]
    assert keys[-6:] == ["iou1", "difference1", "iou2", "difference2", "iou3", "difference3"]
    assert page.count("<h3>B &lt;3</h3>") == 1


def test_without_pictures_no_photograph_is_left_and_the_page_says_why(tmp_path: Path) -> None:
    page = write(tmp_path / "e.html")
    assert "data:image/" not in re.sub(r"<script>.*</script>", "", page, flags=re.S)
    assert 'id="gallery-data"' not in page
    assert "<code>report.pictures</code>" in page
    assert "Learning curves" not in page


def test_the_same_inputs_give_the_same_bytes(tmp_path: Path) -> None:
    one, two = (
        write(tmp_path / name, pictures=pictures_of(), opponents=[opponent_of()])
        for name in ("one.html", "two.html")
    )
    assert one == two


def test_the_page_keeps_its_limit_and_says_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = len(write(tmp_path / "bare.html").encode())
    limit = bare + gallery.GALLERY_FRAME + 8000
    monkeypatch.setattr(gallery, "PAGE_LIMIT", limit)
    page = write(tmp_path / "e.html", pictures=iter(pictures_of(9)))
    found = re.search(r"The first (\d) of 9 pictures; more would take the page over 15 MB", page)
    assert found
    assert page.count('"id": "image') == int(found[1]) < 9
    assert len(page.encode()) <= limit
    monkeypatch.setattr(gallery, "PAGE_LIMIT", bare)
    assert "None of the 9 pictures fits" in write(tmp_path / "e.html", pictures=pictures_of(9))


def test_a_fixed_length_recipe_has_no_selection_curve(tmp_path: Path) -> None:
    curves = tmp_path / "learning.csv"
    curves.write_text(CURVES + "0,10,0.001,2.5,,3\n1,20,0.002,1.25,,3\n")
    page = write(tmp_path / "e.html", learning_curves=curves)
    assert "Training loss" in page
    assert "selection split" not in page


def test_one_epoch_draws_a_curve(tmp_path: Path) -> None:
    curves = tmp_path / "learning.csv"
    curves.write_text(CURVES + "0,10,0.001,0.0,0.0,3\n")
    page = write(tmp_path / "e.html", learning_curves=curves)
    assert "Learning rate" in page
    assert not re.search(r'"nan|nan"', page)


def test_absent_figures_are_dashes(tmp_path: Path) -> None:
    evaluation = evaluation_of() | dict.fromkeys(("miou", "miou_low", "miou_high", "mean_f1"))
    path = tmp_path / "evaluation.html"
    write_evaluation_page(path, evaluation, np.zeros((4, 4), dtype=np.int64), [], None)
    page = path.read_text()
    assert "No interval." in page
    assert "None" not in page


def test_names_are_escaped(tmp_path: Path) -> None:
    names = ("ground", "<b>cat</b>", "cow", '</script>"dog" & pony')
    page = write(tmp_path / "e.html", evaluation_of(names), pictures=pictures_of())
    assert "<b>cat" not in page
    assert "&lt;b&gt;cat" in page
    assert page.count("</script>") == 4
    assert Outline(page).open == []


def test_a_matrix_of_other_classes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="for 4 classes"):
        write_evaluation_page(tmp_path / "e.html", evaluation_of(), confusion_of(5), [], None)


def test_of_many_classes_the_matrix_shows_the_most_confused(tmp_path: Path) -> None:
    names = tuple(f"class {index}" for index in range(60))
    matrix = np.eye(60, dtype=np.int64) * 100
    matrix[57, 58] = 30
    path = tmp_path / "e.html"
    keys = ("cell-57-58", "cell-50-51", "cell-58-58", "cell-51-51", "slice-0")
    write_evaluation_page(
        path, evaluation_of(names), matrix, [], None, images=image_rows_of(1),
        places=dict.fromkeys(keys, Place(1, ((0, 30),))),
    )  # fmt: skip
    page = path.read_text()
    data = re.search(r'id="places-data"[^>]*>(.*?)</script>', page)
    assert data
    known = set(json.loads(data[1]))
    assert {"cell-57-58", "cell-58-58", "slice-0"} <= known
    assert not {"cell-50-51", "cell-51-51"} & known  # no such cell is drawn
    assert "Of 60 classes the 40 with the most confused pixels are shown" in page
    chart = page[page.index('<svg class="heat"') :]
    assert ">class 58</text>" in chart
    assert ">class 50</text>" not in chart
    assert "<details><summary>40 × 40 classes" in page
    assert len(NAMES) < page_module.MATRIX_OPEN

"""Names from data that would steer a page, a spreadsheet or a terminal are shown as they stand."""

from __future__ import annotations

import csv
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
from PIL import Image
from rich.table import Table

from segops.cli.common import Terminal, make_printable, printable
from segops.params.file import parse_params
from segops.predict.journal import FinishedImage
from segops.predict.table import write_table
from segops.quality.expectations import check
from segops.quality.facts import scan
from segops.report.evaluation_page import write_evaluation_page
from segops.report.validation_page import write_validation_page
from segops.runtime.classes import Classes
from segops.runtime.errors import SegopsError
from segops.runtime.masks import write_mask
from segops.voc.layout import Layout, open_layout
from tests.support.browser import needs_browser, opened
from tests.support.evaluations import (
    confusion_of,
    evaluation_of,
    image_rows_of,
    opponent_of,
    pictures_of,
    places_of,
)
from tests.support.folder_runs import finished_image, make_bundle, save

IDS = (
    "<img src=x onerror=document.title='owned'>",
    '"><svg onload=document.title=`owned`>',
    "' onmouseover='document.title=1' x='",
    "<script>document.title='owned'",
    "$HOME ${PATH} $(id)",
    "{{ 7 * 7 }}{% raw %}",
    "..up &lt;b&gt; %3Cb%3E",
    "שלום עולם",
    "=1+1",
    "]]> --> [bold]red[",
)
"""All that a list of images lets through; neither a slash nor a control character."""


def class_names(address: str) -> tuple[str, ...]:
    return (
        f"</script><script src={address}/script></script>",
        f"<script>document.title='owned'; fetch('{address}/fetch')</script>",
        f"\"><img src='{address}/image' onerror=\"document.title='owned'\">",
        f"</style><style>@import url({address}/style); body {{display: none}}</style>",
        f"</title><iframe src={address}/frame></iframe>",
        "../../../etc/passwd $HOME",
        "__proto__",
        "مرحبا; \u2028".strip("\u2028 "),
    )


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """A server on this machine, and what is asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(404)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=httpd.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}", asked
    httpd.shutdown()
    thread.join()
    httpd.server_close()


class Seen(HTMLParser):
    """The elements of a document, what they load or link to, and its visible text."""

    def __init__(self, document: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.handlers: list[str] = []
        self.text = ""
        self.feed(document)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            if name in ("src", "href", "srcset", "action", "data", "poster", "xlink:href"):
                self.links.append(value or "")
            if name.startswith("on"):
                self.handlers.append(name)

    def handle_data(self, data: str) -> None:
        self.text += data


def require_harmless(document: str, title: str, scripts: int) -> Seen:
    seen = Seen(document)
    assert f"<title>{title} · segops</title>" in document
    assert seen.handlers == []
    assert seen.tags.count("script") == scripts
    assert not {"iframe", "object", "embed", "base", "form"} & set(seen.tags)
    assert all(one.startswith(("data:", "#")) for one in seen.links), seen.links
    return seen


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Hostile ids, whose masks are of no known class, not there or damaged."""
    root = tmp_path / "voc"
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (root / name).mkdir(parents=True)
    layout = Layout(root)
    for index, image_id in enumerate(IDS):
        mask = np.full((32, 48), 200, dtype=np.uint8)
        Image.fromarray(np.full((32, 48, 3), 20 * index, dtype=np.uint8)).save(
            layout.image_path(image_id)
        )
        if index % 2:
            write_mask(layout.mask_path(image_id), mask)
        elif index % 4:
            layout.mask_path(image_id).write_bytes(b"<script>no mask</script>")
    layout.list_path("train").write_text("\n".join(IDS[:8]), encoding="utf-8")
    layout.list_path("val").write_text("\n".join(IDS[8:]), encoding="utf-8")
    return open_layout(root)


def page_of_validation(layout: Layout, names: tuple[str, ...]) -> Path:
    facts = scan(layout)
    validation = check(facts, parse_params({"data": {"classes": list(names)}}))
    assert not validation.passed
    path = layout.root.parent / "validation.html"
    write_validation_page(
        path,
        validation,
        facts,
        layout,
        Classes(names),
        pictures=True,
        max_void_fraction=0.6,
        data_hash="d" * 64,
    )
    return path


def page_of_evaluation(folder: Path, names: tuple[str, ...]) -> Path:
    pictures = [
        replace(
            one,
            image_id=image_id,
            errors=tuple(error._replace(class_name=names[1]) for error in one.errors),
            explained=one.explained and names[1],
        )
        for one, image_id in zip(pictures_of(len(IDS)), IDS, strict=True)
    ]
    rival = replace(opponent_of(names[2]), classes={}, evaluation=evaluation_of(names))
    path = folder / "evaluation.html"
    confusion = np.zeros((len(names),) * 2, dtype=np.int64)
    confusion[:4, :4] = confusion_of()
    rows = [
        replace(one, image_id=image_id, worst_class=names[1])
        for one, image_id in zip(image_rows_of(len(IDS)), IDS, strict=False)
    ]
    write_evaluation_page(
        path, evaluation_of(names), confusion, pictures, None, [rival], name=names[3],
        images=rows, places=places_of(),
    )  # fmt: skip
    return path


@needs_browser
def test_the_validation_page_shows_hostile_names_and_runs_none(
    layout: Layout, server: tuple[str, list[str]]
) -> None:
    address, asked = server
    names = class_names(address)
    document = opened(page_of_validation(layout, names), "")
    seen = require_harmless(document, "Validation of the data", scripts=1)
    for name in (*IDS, *names):
        assert name in seen.text
    assert asked == []


@needs_browser
def test_the_evaluation_page_shows_hostile_names_and_runs_none(
    tmp_path: Path, server: tuple[str, list[str]]
) -> None:
    address, asked = server
    names = class_names(address)
    page = page_of_evaluation(tmp_path, names)
    for state in (
        f"picture={quote(IDS[1])}",
        f"class={quote(names[1])}&sort=class",
        f"only={quote(IDS[1])}",
        IDS[0],
    ):
        document = opened(page, state)
        title = f"{names[3]} compared with {names[2]}"
        escaped = title.replace("<", "&lt;").replace(">", "&gt;")
        seen = require_harmless(document, escaped, scripts=5)
        assert '<html lang="en" class="js">' in document
        for name in (*IDS, *names[:4]):
            assert name in seen.text
    assert asked == []


@needs_browser
def test_were_a_name_not_escaped_the_policy_would_stop_it(
    layout: Layout, server: tuple[str, list[str]]
) -> None:
    address, asked = server
    name = class_names(address)[1]
    page = page_of_validation(layout, class_names(address))
    spoilt = page.read_text().replace("</main>", f"{name}<img src={address}/image></main>")
    page.write_text(spoilt)
    assert "<title>Validation of the data · segops</title>" in opened(page, "")
    assert asked == []
    start, end = spoilt.index("<meta http-equiv"), spoilt.index('<link rel="icon"')
    page.write_text(spoilt[:start] + spoilt[end:])  # without the policy both names do harm
    assert "<title>owned</title>" in opened(page, "")
    assert {"/fetch", "/image"} <= set(asked)


def test_a_class_name_that_holds_more_than_text_is_refused() -> None:
    for name in ("a\nb", "a\x1b[31mb", "a\u202eb", "a\0b", "a\u2028b"):
        with pytest.raises(SegopsError, match=r"data\.classes.*printable.*others: id 1"):
            parse_params({"data": {"classes": ["background", name]}})


# ---- Spreadsheets


@pytest.mark.parametrize("first", [*"=+-@\t\r", "\uff1d", "\uff20"])
def test_no_cell_of_the_table_begins_like_a_formula(first: str, tmp_path: Path) -> None:
    entry = finished_image((4, 2), 0.5, (1, 7))
    names = ("background", f"{first}HYPERLINK(1)")
    rows: list[tuple[str, FinishedImage | str]] = [
        (f"{first}cmd.jpg", entry),
        (f"sub/{first}cmd.jpg", entry),
        (f"{first}broken.jpg", f"{first}broken.jpg: not decodable"),
    ]
    write_table(tmp_path / "table.csv", names, rows)
    with (tmp_path / "table.csv").open(newline="") as file:
        head, *found = csv.reader(file)
    first = first.replace("\r", "\\r")
    assert not any(cell.startswith(first) for cell in [*head, *(row[0] for row in found)])
    assert head[5] == f"class {first}HYPERLINK(1)"
    assert [row[0] for row in found] == [
        f"./{first}cmd.jpg", f"sub/{first}cmd.jpg", f"./{first}broken.jpg",
    ]  # fmt: skip
    assert found[2][-1] == f"error: {first}broken.jpg: not decodable"


# ---- Terminals


def test_what_would_steer_a_terminal_is_escaped() -> None:
    assert (
        printable("a\x1b]0;b\x07c\r\u202ed\udce9\x9b") == "a\\x1b]0;b\\x07c\\r\\u202ed\\udce9\\x9b"
    )
    assert printable("two\nlines × – \u202f שלום 😀") == "two\nlines × – \u202f שלום 😀"
    assert printable("two\nlines", lines=False) == "two\\nlines"


def test_a_console_prints_names_as_they_stand() -> None:
    name = "[bold]a[/] [link=http://x]b \x1b[31m:smile: [/nothing]"
    stream = StringIO()
    console = Terminal()
    console.file = stream
    console.print(name, soft_wrap=True)
    table = Table("name", title=name)
    table.add_row(name)
    console.width = 200
    console.print(table)
    console.print(name, markup=False, soft_wrap=True)
    assert stream.getvalue().count(name.replace("\x1b", "\\x1b")) == 4
    assert "\x1b" not in stream.getvalue()


def test_a_logger_lets_nothing_through_that_steers() -> None:
    record = logging.LogRecord("segops", logging.INFO, "", 0, "%s: odd", ("a\x1b[2Jb",), None)
    assert make_printable(record)
    assert record.getMessage() == "a\\x1b[2Jb: odd"


def test_an_error_about_a_file_with_a_hostile_name_reaches_the_terminal_harmless(
    tmp_path: Path,
) -> None:
    photos = tmp_path / "photos"
    save(photos / "fine.jpg")
    names = ("\x1b[2J[red]\x07.jpg", "two\nerror: lines.jpg", os.fsdecode(b"latin\xe9.jpg"))
    for name in names:
        (photos / name).write_bytes(b"%!PS-Adobe")
    model = make_bundle(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-m", "segops", "predict", str(photos), "--model", str(model)],
        cwd=tmp_path,
        capture_output=True,
        check=False,
    )
    said = done.stderr.decode()
    assert done.returncode == 1, said
    assert "Traceback" not in said
    assert not {"\x1b", "\x07"} & set(said + done.stdout.decode())
    for shown in ("\\x1b[2J[red]\\x07.jpg", "two\\nerror: lines.jpg", "latin\\udce9.jpg"):
        assert f"{shown}: not decodable: a PostScript (EPS) file; expected JPEG, " in said

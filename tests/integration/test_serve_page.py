"""The page of `segops serve` in a real browser, before a real server."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from segops.report.overlay import heat_colours
from tests.support.browser import needs_browser
from tests.support.devtools import Tab, tab
from tests.support.prediction_server import KEY, Served, picture, serving, write_model

pytestmark = [pytest.mark.slow, needs_browser]
HOSTILE = "<img src=x onerror=alert(1)>.png"
DONE = "document.querySelectorAll('.thumb[data-state=done]').length"
CANVAS = """(() => {{ const one = document.querySelector("canvas.{name}");
  const data = one.getContext("2d").getImageData(0, 0, one.width, one.height).data;
  return [one.width, one.height, [...data]]; }})()"""
GIVE = """(() => {{
  const given = new DataTransfer();
  const bytes = Uint8Array.from(atob("{base64}"), (one) => one.charCodeAt(0));
  given.items.add(new File([bytes], "{name}", {{type: "image/png"}}));
  dispatchEvent(new {event}); }})()"""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("model") / "first"
    write_model(target, seed=1)
    return target


@pytest.fixture(scope="module")
def server(bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("server")
    options = ("--model", str(bundle), "--workers", "1", "--record", str(folder / "marks"))
    with serving(folder, *options) as served:
        yield served


@pytest.fixture
def page(server: Served, tmp_path: Path) -> Iterator[Tab]:
    with tab(tmp_path) as opened:
        opened.resize(1200, 900)
        opened.open(str(server.client.base_url))
        opened.wait("document.querySelector('#model').innerText.includes('21 classes')")
        yield opened
        elsewhere = opened.run(
            "performance.getEntriesByType('resource').map((one) => one.name)"
            ".filter((one) => !one.startsWith(location.origin) && !/^(blob|data):/.test(one))"
        )
        assert elsewhere == []
        assert [one for one in opened.troubles if "415" not in one] == []


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    """Three images; the name of the second is HTML."""
    folder = tmp_path / "images"
    folder.mkdir()
    paths = [folder / name for name in ("first.jpg", HOSTILE, "third.webp")]
    for seed, (path, form) in enumerate(zip(paths, ("JPEG", "PNG", "WEBP"), strict=True)):
        path.write_bytes(picture(seed=seed, form=form))
    return paths


def show(page: Tab, images: list[Path]) -> None:
    page.choose_files("#files", images)
    page.wait(f"{DONE} === {len(images)}")
    page.wait("document.querySelector('canvas.overlay')")


def pixels(page: Tab, name: str) -> Any:
    """What a canvas shows, uint8 (H, W, 4), RGB and opacity."""
    width, height, values = page.run(CANVAS.format(name=name))
    return np.array(values, np.uint8).reshape(height, width, 4)


def answered(server: Served, image: Path, accept: str, **query: Any) -> bytes:
    answer = server.client.post(
        "/predict", content=image.read_bytes(), params=query, headers={"Accept": accept}
    )
    assert answer.status_code == 200, answer.text
    return answer.content


def saved(folder: Path, name: str) -> bytes:
    """A file that the page saves, once it is complete."""
    end = time.monotonic() + 30
    while not (folder / name).is_file():
        assert time.monotonic() < end, list(folder.iterdir())
        time.sleep(0.05)
    return (folder / name).read_bytes()


def test_mask_shares_and_confidence_are_those_of_the_server(
    server: Served, page: Tab, images: list[Path]
) -> None:
    show(page, images[:1])
    mask = Image.open(BytesIO(answered(server, images[0], "image/png")))
    page.click("#views label:nth-of-type(2)")
    page.wait("document.querySelector('canvas.mask')")
    shown = pixels(page, "mask")
    np.testing.assert_array_equal(shown[..., :3], np.asarray(mask.convert("RGB")))
    assert (shown[..., 3] == 255).all()

    result = json.loads(answered(server, images[0], "application/json"))["results"][0]
    shares = {one["name"]: one["share"] for one in result["classes"] if one["pixels"]}
    said = page.run(
        "[...document.querySelectorAll('#legend tbody tr')].map((row) =>"
        " [row.querySelector('.name').innerText, row.querySelector('.measure').innerText.trim()])"
    )
    assert [name for name, _ in said] == sorted(shares, key=lambda name: -shares[name])
    for name, text in said:
        assert text == ("< 0.1 %" if shares[name] < 0.001 else f"{100 * shares[name]:.1f} %")
    assert page.text(".read") == f"confidence {100 * result['confidence']:.1f} %"
    assert page.text("#absent summary") == f"{21 - len(shares)} classes without a pixel"


def test_a_class_is_lit_by_keyboard_and_by_a_click_in_the_picture(
    server: Served, page: Tab, images: list[Path]
) -> None:
    show(page, images[:1])
    ids = np.asarray(Image.open(BytesIO(answered(server, images[0], "image/png"))))
    names = [one["name"] for one in server.client.get("/model").json()["classes"]]
    name = page.text("#legend tbody .class")
    page.run("document.querySelector('#legend .class').focus()")
    page.press("Enter")
    page.wait("document.querySelector('canvas.veil')")
    lit = ids == names.index(name)
    np.testing.assert_array_equal(pixels(page, "veil")[..., 3] == 0, lit)
    np.testing.assert_array_equal(pixels(page, "overlay")[..., 3] == 255, lit)
    # The focus stays on the class, whose table was made anew.
    assert page.run("document.activeElement.ariaPressed") == "true"
    assert page.text("#said") == f"{name} is highlighted."
    page.press("Escape")
    page.wait("!document.querySelector('canvas.veil')")
    page.click(".stage", 0.5, 0.5)
    page.wait("document.querySelector('canvas.veil')")
    there = names[ids[ids.shape[0] // 2, ids.shape[1] // 2]]
    assert page.run("document.querySelector('[aria-pressed=true] .name').innerText") == there


def test_opacity_confidence_and_explanation(server: Served, page: Tab, images: list[Path]) -> None:
    show(page, images[:1])
    opacity = "Number(getComputedStyle(document.querySelector('canvas.layer')).opacity)"
    before = page.run(opacity)
    page.run("document.querySelector('#opacity').focus()")
    page.press("ArrowRight", "ArrowRight", "ArrowRight")
    assert page.run(opacity) == pytest.approx(before + 0.03)

    page.click("#views label:nth-of-type(3)")
    page.wait("document.querySelector('canvas.confidence')")
    answer = json.loads(answered(server, images[0], "application/json", confidence_map=True))
    content = base64.b64decode(answer["results"][0]["confidence_map"])
    levels = np.asarray(Image.open(BytesIO(content))) / 255
    colours = heat_colours(levels.ravel()).reshape(*levels.shape, 3)
    np.testing.assert_allclose(pixels(page, "confidence")[..., :3], colours, atol=1)
    name = page.text("#legend tbody .class")
    page.click("#legend tbody .why button")
    page.wait("document.querySelector('canvas.activation')")
    assert page.text("#viewed") == f"Where the network looks for {name} (Seg-Grad-CAM)."
    assert pixels(page, "activation")[..., 3].max() > 200  # zero is clear, one is opaque
    assert page.run("document.querySelector('[value=activation]').checked")
    page.press("Escape")
    page.wait("document.querySelector('canvas.overlay')")


def test_several_images_and_a_bad_one(page: Tab, images: list[Path]) -> None:
    bad = images[0].with_name("notes.png")
    bad.write_text("no image")
    page.choose_files("#files", [images[0], bad, *images[1:]])
    page.wait(f"{DONE} === 3")
    page.wait("document.querySelector('.thumb[data-state=failed]')")
    page.run("document.querySelector('.thumb').focus()")
    page.press("ArrowRight")
    assert "notes.png: not an image" in page.text("figure .said")
    page.press("ArrowRight")
    assert page.text("figure .name") == HOSTILE
    page.wait("document.querySelector('canvas.overlay')")
    assert page.run("document.querySelectorAll('.name img, [onerror]').length") == 0
    page.click("#clear")
    assert page.run("document.querySelectorAll('.thumb, figure img').length") == 0
    assert page.run("document.querySelector('#result').hidden")


def test_a_folder_a_drop_and_a_paste(page: Tab, images: list[Path]) -> None:
    (images[0].parent / "list.txt").write_text("no image")
    page.choose_files("#folder", [images[0].parent])
    page.wait(f"{DONE} === 3")
    assert page.text("#passed-over") == "1 file that is no image was passed over."
    content = base64.b64encode(images[1].read_bytes()).decode()
    for number, event in enumerate(
        (
            'DragEvent("drop", {dataTransfer: given})',
            'ClipboardEvent("paste", {clipboardData: given})',
        )
    ):
        page.run(GIVE.format(base64=content, name=f"given{number}.png", event=event))
        page.wait(f"{DONE} === {4 + number}")
        assert page.text("figure .name") == f"given{number}.png"


def test_downloads(server: Served, page: Tab, images: list[Path], tmp_path: Path) -> None:
    folder = tmp_path / "saved"
    folder.mkdir()
    page.save_downloads_to(folder)
    show(page, images[:1])
    for number in (1, 2, 3):
        page.click(f".downloads button:nth-of-type({number})")
    assert saved(folder, "first.png") == answered(server, images[0], "image/png")
    told = json.loads(saved(folder, "first.json"))
    assert told["results"][0]["polygons"]
    drawn = Image.open(BytesIO(saved(folder, "first.overlay.png")))
    assert drawn.size == Image.open(images[0]).size
    difference = np.abs(
        np.asarray(drawn.convert("RGB"), int) - np.asarray(Image.open(images[0]), int)
    )
    assert difference.mean() > 5


def test_marks_by_mouse_and_by_keyboard(server: Served, page: Tab, images: list[Path]) -> None:
    folder = server.log.parent / "marks"
    show(page, images[2:])
    page.click("#mark")
    page.click("#mark-form [type=submit]")  # nothing is drawn: the browser asks for a class first
    start, end = page.place(".marks", 0.2, 0.3), page.place(".marks", 0.6, 0.7)
    page.mouse("mousePressed", start)
    page.mouse("mouseMoved", end)
    page.mouse("mouseReleased", end)
    page.run("document.querySelector('#mark-class').value = 'cat'")
    page.run("document.querySelector('#mark-note').focus()")
    page.type('"quoted" <b>note</b>')
    page.click("#mark-form [type=submit]")
    page.wait("document.querySelector('#mark-said').innerText.startsWith('Saved as ')")
    name = page.text("#mark-said").removeprefix("Saved as ").removesuffix(".")

    page.click("#mark-form fieldset label:nth-of-type(2)")
    page.run("document.querySelector('.marks').focus()")
    page.press(" ", *["ArrowRight"] * 5, " ", *["ArrowDown"] * 5, " ", "Enter")
    page.run("document.querySelector('#mark-class').value = 'dog'")
    page.click("#mark-form [type=submit]")
    page.wait("document.querySelectorAll('.marks .sent').length === 2")

    assert (folder / name).read_bytes() == images[2].read_bytes()
    cat, dog = json.loads((folder / name).with_suffix(".json").read_text())["shapes"]
    assert (cat["label"], cat["description"]) == ("cat", '"quoted" <b>note</b>')
    corners = [[18, 18], [54, 18], [54, 42], [18, 42]]  # of 90 x 60 pixels
    np.testing.assert_allclose(cat["points"], corners, atol=1)
    assert dog["label"] == "dog"
    # From where the mouse let go, five steps of 90 / 40 pixels each.
    np.testing.assert_allclose(dog["points"], [[54, 42], [64, 42], [64, 52]], atol=1)
    page.run("document.querySelector('.marks').focus()")
    page.press("Escape")
    assert page.run("document.querySelector('#mark-form').hidden")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_telephone(page: Tab, images: list[Path], scheme: str) -> None:
    page.resize(420, 900, scheme)
    show(page, images)
    assert page.run("document.documentElement.scrollWidth") <= 420
    page.click("#mark")
    assert page.run("document.documentElement.scrollWidth") <= 420
    small = page.run(
        "[...document.querySelectorAll('button, fieldset span')].filter((one) =>"
        " one.offsetParent && one.getBoundingClientRect().height < 36)"
        ".map((one) => one.outerHTML)"
    )
    assert small == []


def test_every_control_is_reached_by_tab(page: Tab, images: list[Path]) -> None:
    show(page, images[:2])
    seen: list[str] = []
    while seen.count("choose") < 2:  # Tab goes on from where the focus was: once around
        assert len(seen) < 60, seen
        page.press("Tab")
        if page.run("document.activeElement === document.body"):
            continue
        seen.append(
            page.run(
                "(() => { const one = document.activeElement;"
                " return one.id || one.value || one.className; })()"
            )
        )
        outlines = page.run(
            "[document.activeElement, document.activeElement.nextElementSibling]"
            ".map((one) => one && getComputedStyle(one).outlineStyle)"  # a radio button's text
        )
        assert "solid" in outlines, seen
    wanted = ["choose", "choose-folder", "clear", "thumb", "overlay", "opacity", "plain"]
    first = seen.index("choose")
    assert seen[first : first + len(wanted)] == wanted
    assert "class" in seen


def test_two_versions_beside_each_other_behind_a_key(
    bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    second = tmp_path / "second"
    write_model(second, seed=2)
    options = ("--model", str(bundle), "--compare", str(second), "--workers", "1")
    with (
        serving(tmp_path / "server", *options, SEGOPS_SERVE_KEYS=KEY) as server,
        tab(tmp_path) as page,
    ):
        page.resize(1200, 900)
        page.open(str(server.client.base_url))
        page.wait("!document.querySelector('#key').hidden")
        page.type("another-key-0123456789")
        page.press("Enter")
        page.wait("document.querySelector('#key .wrong').innerText.includes('asks for a key')")
        page.type(KEY)
        page.press("Enter")
        page.wait("document.querySelector('#key').hidden")
        assert page.text("#model") == "first beside second · 21 classes · torch"
        assert page.run("document.querySelector('#marks').hidden")  # there is no --record
        show(page, images[:1])
        page.wait("document.querySelectorAll('canvas.overlay').length === 2")
        page.click("#views label:nth-of-type(2)")
        page.wait("document.querySelectorAll('canvas.mask').length === 2")
        server.client.headers["X-API-Key"] = KEY
        for key in ("main", "compare"):
            mask = Image.open(BytesIO(answered(server, images[0], "image/png", model=key)))
            shown = page.run(
                f"(() => {{ const one = document.querySelector('[data-key={key}] canvas.mask');"
                " return [...one.getContext('2d').getImageData(0, 0, 90, 60).data]; })()"
            )
            drawn = np.array(shown, np.uint8).reshape(60, 90, 4)[..., :3]
            np.testing.assert_array_equal(drawn, np.asarray(mask.convert("RGB")))
        assert page.run(
            "[...document.querySelectorAll('#legend th.n')].map((one) => one.innerText)"
        ) == ["first", "second"]
        assert (
            page.run("Object.keys(localStorage).length + Object.keys(sessionStorage).length") == 0
        )


def test_the_page_says_that_the_server_is_gone(
    bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    options = ("--model", str(bundle), "--workers", "1")
    with tab(tmp_path) as page:
        with serving(tmp_path / "server", *options) as server:
            page.open(str(server.client.base_url))
            page.wait("document.querySelector('#model').innerText.includes('21 classes')")
        page.choose_files("#files", images[:1])
        page.wait("!document.querySelector('#trouble').hidden")
        assert "The server does not answer." in page.text("#trouble")
        with serving(tmp_path / "again", *options, "--port", str(server.port)):
            page.click("#again")
            show_again = f"{DONE} === 1"
            page.wait(show_again)
            assert page.run("document.querySelector('#trouble').hidden")


def test_predictions_of_another_version_are_made_anew(
    bundle: Path, images: list[Path], tmp_path: Path
) -> None:
    """Its classes have other names, so ids of the version before would be told wrongly."""
    other = tmp_path / "other"
    write_model(other, seed=2, classes=("background", *(f"kind {one}" for one in range(20))))
    asked = ("--workers", "1")
    with tab(tmp_path) as page:
        with serving(tmp_path / "server", "--model", str(bundle), *asked) as server:
            page.open(str(server.client.base_url))
            page.wait("document.querySelector('#model').innerText.includes('21 classes')")
            show(page, images[:1])
        same = ("--port", str(server.port))
        with serving(tmp_path / "again", "--model", str(other), *asked, *same) as server:
            page.choose_files("#files", images[1:2])
            page.wait(
                f"{DONE} === 2 && document.querySelector('#model').innerText.includes('other')"
            )
            for number, image in enumerate(images[:2]):
                page.run(f"document.querySelectorAll('.thumb')[{number}].click()")
                (result,) = json.loads(answered(server, image, "application/json"))["results"]
                seen = {one["name"] for one in result["classes"] if one["pixels"]}
                names = "[...document.querySelectorAll('#legend tbody tr .name')]"
                assert set(page.run(f"{names}.map((one) => one.innerText)")) == seen


def test_the_policy_and_the_types_of_the_page(server: Served) -> None:
    for path, kind in (
        ("/", "text/html"),
        ("/page/main.js", "text/javascript"),
        ("/page/style.css", "text/css"),
    ):
        answer = server.client.get(path)
        assert answer.headers["content-type"] == f"{kind}; charset=utf-8"
        policy = answer.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
        assert "unsafe" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
    for path in ("/page/missing.js", "/page/..%2Fpage.py", "/page/page.py", "/page/"):
        assert server.client.get(path).status_code == 404

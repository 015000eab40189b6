"""Marks of wrong regions."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.importers import labelme
from segops.predict.bundle import load_bundle
from segops.runtime.images import decode_image
from segops.serve import marks
from segops.serve.answer import Model
from segops.serve.errors import RequestError
from tests.support.prediction_server import picture, write_model

SQUARE = [(1.0, 1.0), (9.0, 1.0), (9.0, 9.0), (1.0, 9.0)]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    target = tmp_path_factory.mktemp("model") / "segmenter"
    write_model(target, seed=1)
    return Model(load_bundle(target), max_pixels=100_000)


def oriented() -> bytes:
    """A JPEG of 90 x 60 stored pixels that viewers turn by a quarter."""
    image = Image.open(io.BytesIO(picture()))
    tags = image.getexif()
    tags[0x0112] = 6
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", exif=tags)
    return buffer.getvalue()


@pytest.mark.parametrize(("form", "suffix"), [("JPEG", ".jpg"), ("PNG", ".png"), ("WEBP", ".webp")])
def test_a_photograph_keeps_its_bytes(model: Model, form: str, suffix: str) -> None:
    content = picture(form=form)
    assert marks.photograph(model, content, "p") == (suffix, content, (90, 60))


@pytest.mark.parametrize(
    ("content", "size"), [(oriented(), (60, 90)), (picture(form="GIF"), (90, 60))]
)
def test_what_a_data_set_reads_otherwise_becomes_a_png(
    model: Model, content: bytes, size: tuple[int, int]
) -> None:
    suffix, stored, found = marks.photograph(model, content, "p")
    assert (suffix, found) == (".png", size)
    assert np.array_equal(decode_image(stored, "p"), model.decoded(content, "p"))


def test_marks_of_a_photograph_share_a_file(tmp_path: Path) -> None:
    mark = marks.parsed(json.dumps({"class": "cat", "polygon": SQUARE}).encode(), ["cat", "dog"])
    other = marks.Mark(**{"class": "dog", "polygon": [(20.0, 2.0), (30.0, 2.0), (30.0, 9.0)]})
    content = picture()
    for one in (mark, other, mark):
        name = marks.write(tmp_path, one, ".png", content, (90, 60))
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{name[:-4]}.json", name]
    (image,) = labelme.read(tmp_path).images
    drawn = image.draw((90, 60))
    found = {drawn.labels[drawn.indices[y, x]] for y, x in ((5, 5), (4, 28), (50, 50))}
    assert found == {"cat", "dog", "background"}
    assert len(json.loads((tmp_path / f"{name[:-4]}.json").read_text())["shapes"]) == 2


@pytest.mark.parametrize(
    ("text", "status"),
    [
        (b"", 400),
        (b"[]", 400),
        (b'{"class": "cat"}', 400),
        (b'{"class": "cat", "polygon": [[1, 1], [2, 2], [1, NaN]]}', 400),
        (b'{"class": "cat", "polygon": [[1, 1], [2, 2], [1, 3]], "more": 1}', 400),
        (b'{"class": "%s", "polygon": [[1, 1], [2, 2], [1, 3]]}' % (b"x" * 201), 400),
        (b'{"class": "../cat", "polygon": [[1, 1], [2, 2], [1, 3]]}', 404),
    ],
)
def test_no_mark(text: bytes, status: int) -> None:
    with pytest.raises(RequestError) as caught:
        marks.parsed(text, ["cat"])
    assert caught.value.status == status
    assert "\n" not in caught.value.message


def test_limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mark = marks.Mark(**{"class": "cat", "polygon": SQUARE})
    flat = marks.Mark(**{"class": "cat", "polygon": [(1.0, 1.0), (5.0, 5.0), (9.0, 9.0)]})
    for one, size in ((mark, (8, 8)), (flat, (90, 60))):
        with pytest.raises(RequestError) as caught:
            marks.write(tmp_path, one, ".png", b"x", size)
        assert caught.value.status == 400
    monkeypatch.setattr(marks, "MOST_PHOTOGRAPHS", 1)
    marks.write(tmp_path, mark, ".png", b"one", (90, 60))
    with pytest.raises(RequestError) as caught:
        marks.write(tmp_path, mark, ".png", b"two", (90, 60))
    assert caught.value.status == 507
    monkeypatch.setattr(marks, "MOST_PHOTOGRAPHS", 9)
    monkeypatch.setattr(marks, "MOST_BYTES", 600)
    with pytest.raises(RequestError, match="GiB") as caught:
        marks.write(tmp_path, mark, ".png", bytes(600), (90, 60))
    assert caught.value.status == 507


@pytest.mark.parametrize("text", ["{}", "[]", '{"shapes": {}}', "cut"])
def test_a_label_file_that_is_none_stays_as_it_is(tmp_path: Path, text: str) -> None:
    mark = marks.Mark(**{"class": "cat", "polygon": SQUARE})
    name = marks.write(tmp_path, mark, ".png", b"one", (90, 60))
    label = (tmp_path / name).with_suffix(".json")
    label.write_text(text)
    with pytest.raises(RequestError, match="no label file") as caught:
        marks.write(tmp_path, mark, ".png", b"one", (90, 60))
    assert (caught.value.status, label.read_text()) == (507, text)

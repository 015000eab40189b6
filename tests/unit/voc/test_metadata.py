"""What is known of images: the file, its faults, and its copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.runtime.errors import SegopsError
from segops.voc.layout import Layout
from segops.voc.metadata import Metadata, copy_without, find_faults, read_metadata

LISTED = ("a", "b", "c")
NAME = "metadata.csv"


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Lists of the images a, b and c."""
    found = Layout(tmp_path)
    found.write_list("train", LISTED[:2])
    found.write_list("val", LISTED[2:])
    return found


def written(path: Path, text: str) -> Path:
    file = path / NAME
    file.write_bytes(text.encode())
    return file


def test_columns_and_values_are_read(layout: Layout) -> None:
    text = '\ufeffimage_id, camera ,site\r\nb,X,"Ulm, north"\r\n\r\na,,=1+1\r\nc,X,\r\n'
    written(layout.root, text)
    found = read_metadata(layout, NAME)
    assert found.columns == ("camera", "site")
    assert found.values == {"b": ("X", "Ulm, north"), "a": ("", "=1+1"), "c": ("X", "")}
    assert list(found.of(("c", "a")).values) == ["c", "a"]
    assert found.digest == found.of(LISTED).digest
    assert found.digest != Metadata(found.columns, found.values | {"a": ("Y", "")}).digest


def test_all_faults_are_listed(layout: Layout) -> None:
    text = f"image_id,camera,camera,\na,1,2,3\n\na,1,2,3\nx,1,2,3\nb,1,2\nc,\x07,{'v' * 101},\n"
    file = written(layout.root, text)
    faults = find_faults(layout, NAME)
    assert faults == [
        "column 4 has no name",
        "column 'camera' is there 2 times",
        "line 4: 'a' has a row before it; expected one an image",
        "line 6 has 3 cells; expected 4, as the head",
        "line 7: '\\x07' holds control characters",
        f"line 7: {'v' * 100!r} exceeds 100 characters",
        "'x' is in no list of the data set; remove its row, or correct the id",
    ]
    with pytest.raises(SegopsError) as error:
        read_metadata(layout, NAME)
    assert str(error.value).startswith(f"{file}: not usable as data.metadata:\n  column 4")
    assert all(one in str(error.value) for one in faults)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "its head is empty; expected image_id and then a name"),
        (b"id,camera\n", "its head is id, camera; expected image_id"),
        (b"image_id\na\n", "its head is image_id; expected image_id and then a name"),
        (b"image_id,\xff\n", "not readable as a CSV in UTF-8"),
        (b'image_id,"x\n', "not readable as a CSV in UTF-8"),
        (None, "no such file; expected a CSV"),
    ],
)
def test_what_is_no_table_is_told(layout: Layout, content: bytes | None, said: str) -> None:
    if content is not None:
        (layout.root / NAME).write_bytes(content)
    (fault,) = find_faults(layout, NAME)
    assert fault.startswith(said)


@pytest.mark.parametrize("blank", ["", "\n", "  \n,\n"])
def test_rows_of_images_that_are_left_out_are_not_copied(blank: str, layout: Layout) -> None:
    file = written(layout.root, f'{blank}image_id,site\na,1\n{blank}b,"2, x"\nc,3\n')
    assert find_faults(layout, NAME) == []
    assert copy_without(file, layout.root / "copy.csv", {"a", "b"}) == 1
    assert (layout.root / "copy.csv").read_text() == 'image_id,site\na,1\nb,"2, x"\n'


def test_images_without_masks_may_have_a_row_and_need_none(layout: Layout) -> None:
    layout.write_list("test", ["t"])
    layout.write_list("more", ["u", "v"])
    written(layout.root, "image_id,site\na,1\nb,1\nc,1\nt,1\nu,1\n")
    assert find_faults(layout, NAME) == [
        "'u' is in no list of the data set; remove its row, or correct the id"
    ]
    layout = Layout(layout.root, unlabelled="more")
    assert read_metadata(layout, NAME).values["u"] == ("1",)
    layout.mask_path("t").parent.mkdir()
    layout.mask_path("t").touch()  # test can be scored
    written(layout.root, "image_id,site\na,1\nb,1\nc,1\n")
    assert find_faults(layout, NAME) == ["'t' has no row"]

"""What is known of images: the file, its faults, and its copy."""

from __future__ import annotations

from pathlib import Path

import pytest

from segops.runtime.errors import SegopsError
from segops.voc.metadata import Metadata, copy_without, find_faults, read_metadata

LISTED = ("a", "b", "c")


def written(path: Path, text: str) -> Path:
    file = path / "metadata.csv"
    file.write_bytes(text.encode())
    return file


def test_columns_and_values_are_read(tmp_path: Path) -> None:
    text = '\ufeffimage_id, camera ,site\r\nb,X,"Ulm, north"\r\n\r\na,,=1+1\r\nc,X,\r\n'
    found = read_metadata(written(tmp_path, text), LISTED)
    assert found.columns == ("camera", "site")
    assert found.values == {"b": ("X", "Ulm, north"), "a": ("", "=1+1"), "c": ("X", "")}
    assert list(found.of(("c", "a")).values) == ["c", "a"]
    assert found.digest == found.of(LISTED).digest
    assert found.digest != Metadata(found.columns, found.values | {"a": ("Y", "")}).digest


def test_all_faults_are_listed(tmp_path: Path) -> None:
    text = f"image_id,camera,camera,\na,1,2,3\na,1,2,3\nx,1,2,3\nb,1,2\nc,\x07,{'v' * 101},\n"
    file = written(tmp_path, text)
    faults = find_faults(file, LISTED)
    assert faults == [
        "column 4 has no name",
        "column 'camera' is there 2 times",
        "row 3: 'a' has a row before it; expected one an image",
        "row 5 has 3 cells; expected 4, as the head",
        "row 6: '\\x07' holds control characters",
        f"row 6: {'v' * 100!r} exceeds 100 characters",
        "'x' is in no list of the data set; remove its row, or correct the id",
        "'b' has no row",
    ]
    with pytest.raises(SegopsError) as error:
        read_metadata(file, LISTED)
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
def test_what_is_no_table_is_told(tmp_path: Path, content: bytes | None, said: str) -> None:
    file = tmp_path / "metadata.csv"
    if content is not None:
        file.write_bytes(content)
    (fault,) = find_faults(file, LISTED)
    assert fault.startswith(said)


def test_rows_of_images_that_are_left_out_are_not_copied(tmp_path: Path) -> None:
    file = written(tmp_path, 'image_id,site\na,1\nb,"2, x"\nc,3\n')
    copy_without(file, tmp_path / "copy.csv", {"a", "b"})
    assert read_metadata(tmp_path / "copy.csv", ("a", "b")).values == {"a": ("1",), "b": ("2, x",)}

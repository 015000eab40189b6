"""The canonical form of per-image counts."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from segops.evaluate.bootstrap import COLUMNS
from segops.release import pairing

ROWS = [
    ("b", "2" * 64, 0, 3, 4, 5),
    ('a,"é', "1" * 64, 15, 2**40, 2**40, 2**41),
    ('a,"é', "1" * 64, 2, 0, 1, 0),
]
COUNTS = pd.DataFrame(ROWS, columns=list(COLUMNS))


def test_order_types_and_the_file_do_not_matter(tmp_path: Path) -> None:
    expected = (
        '"image_id","image_sha256","class_id","intersection","predicted","truth"\n'
        f'"a,""é","{"1" * 64}",2,0,1,0\n'
        f'"a,""é","{"1" * 64}",15,{2**40},{2**40},{2**41}\n'
        f'"b","{"2" * 64}",0,3,4,5\n'
    ).encode()
    assert pairing.to_bytes(COUNTS) == expected
    other = COUNTS.iloc[::-1].astype({"image_id": "category", "class_id": "int8"})
    other["spare"] = 1.5
    other.to_parquet(tmp_path / "counts.parquet", compression="gzip")
    assert pairing.digest(pd.read_parquet(tmp_path / "counts.parquet")) == pairing.digest(COUNTS)


def test_the_canonical_form_reads_back() -> None:
    content = pairing.to_bytes(COUNTS)
    assert pairing.to_bytes(pairing.from_bytes(content)) == content
    names = pairing.from_bytes(content.replace(b'"b"', b'"null"'))["image_id"]
    assert set(names) == {'a,"é', "null"}


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"image_id\n",
        pairing.to_bytes(COUNTS) + b"\n",
        pairing.to_bytes(COUNTS).replace(b",15,", b", 15,"),
        pairing.to_bytes(COUNTS).replace(b",15,", b",1.5,"),
        pairing.to_bytes(COUNTS).replace(b",15,", b",99999999999999999999999,"),
        pairing.to_bytes(COUNTS).replace(b'"b"', b"b"),
        pairing.to_bytes(COUNTS).replace(b"\n", b"\r\n"),
    ],
)
def test_another_form_is_refused(content: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        pairing.from_bytes(content)


def test_every_count_changes_the_digest() -> None:
    for name in COLUMNS:
        changed = COUNTS.copy()
        changed.loc[0, name] = "c" if name.startswith("image") else 7
        assert pairing.digest(changed) != pairing.digest(COUNTS)

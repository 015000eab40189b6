"""Nothing but the readers of the named formats is ever given a file, whatever its name says."""

from __future__ import annotations

import os
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from segops.predict.folder import predict_folder
from segops.quality.facts import scan
from segops.report.validation_page import _panels
from segops.runtime.classes import VOC
from segops.runtime.errors import SegopsError
from segops.runtime.images import (
    CONSUMER_FORMATS,
    PHOTOGRAPH_FORMATS,
    decode_consumer_image,
    decode_image,
    image_size,
)
from segops.runtime.masks import decode_mask
from segops.runtime.rgb import orientation
from segops.runtime.torch_predictor import TorchPredictor
from segops.voc.layout import Layout, open_layout
from tests.support.folder_runs import make_bundle
from tests.support.large_image import Brightest

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 48\n%%EndComments\nshowpage\n%%EOF\n"


def encoded(fmt: str, mode: str = "RGB", **options: object) -> bytes:
    stream = BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(stream, fmt, **options)
    return stream.getvalue()


FITS = b"".join(
    card.ljust(80).encode()
    for card in (
        "SIMPLE  =                    T", "BITPIX  =                    8",
        "NAXIS   =                    2", "NAXIS1  =                   40",
        "NAXIS2  =                   24", "END",
    )
).ljust(2880) + bytes(2880)  # fmt: skip

PSD = struct.pack(">4sH6xHIIHHII", b"8BPS", 1, 3, 24, 40, 8, 3, 0, 0) + bytes(4)

OTHERS: dict[str, tuple[bytes, str]] = {
    "EPS": (POSTSCRIPT, r"a PostScript \(EPS\) file"),
    "EPS of DOS": (
        struct.pack("<IIII16x", 0xC6D3D0C5, 32, len(POSTSCRIPT), 0) + POSTSCRIPT,
        r"a PostScript \(EPS\) file",
    ),
    "EPS by Pillow": (encoded("EPS"), r"a PostScript \(EPS\) file"),
    "PDF": (encoded("PDF"), "a PDF file"),
    "PSD": (PSD, r"a Photoshop \(PSD\) file"),
    "FITS": (FITS, "a FITS file"),
    "HDF5": (b"\x89HDF\r\n\x1a\n" + bytes(64), "an HDF5 file"),
    "BLP": (encoded("BLP", "P"), "a BLP file"),
    "DDS": (encoded("DDS"), "a DDS file"),
    "ICO": (encoded("ICO"), "an ICO file"),
    "ICNS": (encoded("ICNS"), "an ICNS file"),
    "EMF": (b"\1\0\0\0".ljust(40, b"\0") + b" EMF" + bytes(60), "a WMF or EMF file"),
    "WMF": (b"\xd7\xcd\xc6\x9a" + bytes(60), "a WMF or EMF file"),
    "HEIC": (b"\0\0\0\x18ftypheic" + bytes(60), "a HEIC file"),
    "TGA": (encoded("TGA"), "not an image file"),
    "PCX": (encoded("PCX"), "not an image file"),
    "SGI": (encoded("SGI"), "not an image file"),
    "MPEG": (b"\0\0\1\xb3" + bytes(60), "not an image file"),
    "ZIP": (b"PK\3\4" + bytes(60), "a ZIP archive"),
    "SVG": (b'<?xml version="1.0"?>\n<svg xmlns="x"/>', "an SVG file"),
    "HTML": (b"\n<!DOCTYPE html><html>404", "an HTML page"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "EPS before a JPEG": (POSTSCRIPT + encoded("JPEG"), r"a PostScript \(EPS\) file"),
    "nothing": (b"", "an empty file"),
}


@pytest.fixture
def others() -> Iterator[list[str]]:
    """All of Pillow's readers but the named ones tell that they were asked."""
    Image.init()
    asked: list[str] = []

    def spied(name: str) -> Callable[..., object]:
        def spy(*_arguments: object) -> bool:
            asked.append(name)
            return False

        return spy

    before = dict(Image.OPEN)
    names = set(before) - set(CONSUMER_FORMATS)
    assert {"EPS", "FITS", "HDF5", "PSD", "BLP"} <= names
    for name in names:
        Image.OPEN[name] = (spied(name), spied(name))  # type: ignore[assignment]
    yield asked
    Image.OPEN.clear()
    Image.OPEN.update(before)


@pytest.fixture
def ghostscript(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program named ``gs``, first on the path, that leaves a file when it is started."""
    trace = tmp_path / "started"
    program = tmp_path / "programs/gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {trace}\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    return trace


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


@pytest.mark.parametrize("kind", OTHERS)
def test_another_format_is_refused_by_name_and_no_other_reader_is_asked(
    kind: str, others: list[str], tmp_path: Path
) -> None:
    content, words = OTHERS[kind]
    ending = r"Put an image of such a format in its place\.$"
    with pytest.raises(
        SegopsError, match=rf"^a\.jpg: not decodable: {words}.*; expected JPEG, PNG, TIFF, WEBP\. "
    ):
        decode_image(content, "a.jpg")
    with pytest.raises(SegopsError, match=rf"^a\.png: not decodable: {words}.*; expected PNG\. "):
        decode_mask(content, "a.png")
    expected = rf"a\.jpg: not decodable: {words}.*; expected JPEG, PNG, BMP, .*AVIF\. {ending}"
    with pytest.raises(SegopsError, match=rf"^{expected}"):
        decode_consumer_image(content, "a.jpg")
    (tmp_path / "a.jpg").write_bytes(content)
    with pytest.raises(SegopsError, match=expected):
        image_size(tmp_path / "a.jpg")
    assert others == []


@pytest.mark.parametrize("fmt", CONSUMER_FORMATS)
def test_a_data_set_takes_fewer_formats_than_a_consumer(fmt: str, others: list[str]) -> None:
    content = encoded(fmt)
    assert decode_consumer_image(content, "a").shape == (24, 40, 3)
    if fmt not in PHOTOGRAPH_FORMATS:
        with pytest.raises(SegopsError, match=rf"a.jpg: .*an? {fmt} file; expected JPEG, PNG, "):
            decode_image(content, "a.jpg")
    if fmt != "PNG":
        with pytest.raises(SegopsError, match=rf"a.png: .*an? {fmt} file; expected PNG\."):
            decode_mask(content, "a.png")
    assert others == []


def test_a_jpeg_of_several_pictures_is_its_first(others: list[str]) -> None:
    first = Image.open(BytesIO(encoded("JPEG")), formats=["JPEG"])
    stream = BytesIO()
    first.save(stream, "MPO", save_all=True, append_images=[Image.new("RGB", (40, 24))])
    found = decode_image(stream.getvalue(), "a.jpg")
    assert np.abs(found.astype(int) - np.asarray(first)).mean() < 12
    assert others == []


def test_what_follows_the_first_bytes_chooses_no_reader(others: list[str]) -> None:
    content = encoded("JPEG") + POSTSCRIPT
    assert decode_image(content, "a.eps").shape == (24, 40, 3)
    assert others == []


@pytest.mark.parametrize("kind", ["EPS", "EPS of DOS", "EPS by Pillow"])
def test_pillow_alone_would_start_ghostscript(kind: str, ghostscript: Path) -> None:
    script = (
        "import io, sys; from PIL import Image; Image.open(io.BytesIO(sys.stdin.buffer.read()))"
    )
    subprocess.run(  # in a process of its own: Pillow remembers where the program lies
        [sys.executable, "-c", f"{script}.load()"],
        input=OTHERS[kind][0],
        capture_output=True,
        check=False,
    )
    assert ghostscript.exists()


SCAN = """
import sys
from pathlib import Path
from segops.quality.facts import scan
from segops.voc.layout import Layout
facts = scan(Layout(Path(sys.argv[1])), 2)
print(facts[["image_error", "mask_error"]].notna().sum().sum())
"""


def spoilt(root: Path) -> Layout:
    """The data set with a file of another format for every photograph and mask, and its lists."""
    layout = open_layout(root)
    ids = [f"other{index}" for index in range(len(OTHERS))]
    for image_id, (content, _) in zip(ids, OTHERS.values(), strict=True):
        layout.image_path(image_id).write_bytes(content)
        layout.mask_path(image_id).write_bytes(content)
    layout.list_path("train").write_text("\n".join(ids))
    layout.list_path("val").write_text("\n".join(layout.ids("val")[:1]))
    return layout


def test_validating_asks_no_other_reader(tiny_voc: Path, others: list[str]) -> None:
    layout = spoilt(tiny_voc)
    facts = scan(layout)
    bad = facts[facts["split"] == "train"]
    for column, fmt in (("image_error", "JPEG, PNG, TIFF, WEBP"), ("mask_error", "PNG")):
        assert len(bad) == len(OTHERS)
        for message, (_, words) in zip(bad[column], OTHERS.values(), strict=True):
            assert words.replace("\\", "") in message
            assert f"; expected {fmt}." in message
    assert [panel.text for panel in _panels(layout, VOC, "other0")] == [
        "image not readable", "mask not readable",
    ]  # fmt: skip
    assert others == []


def test_validating_starts_no_ghostscript(tiny_voc: Path, ghostscript: Path) -> None:
    layout = spoilt(tiny_voc)
    done = subprocess.run(
        [sys.executable, "-c", SCAN, str(layout.root)], capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == str(2 * len(OTHERS)), done.stderr
    assert not ghostscript.exists()


def test_predicting_asks_no_other_reader(
    bundle: Path, tmp_path: Path, ghostscript: Path, others: list[str]
) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, (content, _) in enumerate(OTHERS.values()):
        for suffix in ("jpg", "png"):
            (photos / f"{suffix}{index:02}.{suffix}").write_bytes(content)
    outcome = predict_folder(photos, bundle, tmp_path / "out")
    assert (outcome.now, len(outcome.failed)) == (0, 2 * len(OTHERS))
    said = "\n".join(outcome.failed)
    assert f"{photos / 'jpg00.jpg'}: not decodable: a PostScript (EPS) file; expected JPEG" in said
    for content, _ in OTHERS.values():
        with pytest.raises(SegopsError, match="image in row 3: not decodable"):
            TorchPredictor(Brightest(3), ("a", "b", "c")).predict_bytes(content, "image in row 3")
    assert others == []
    assert not ghostscript.exists()


# ---- EXIF data


def good_exif() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010F] = "a maker"
    exif[0x8769] = {0x9003: "2020:01:01 00:00:00"}
    return exif.tobytes()


def with_exif(exif: bytes, fmt: str = "JPEG", *, dpi: bool) -> bytes:
    """An image with these bytes for its EXIF data; without `dpi` Pillow reads them on opening."""
    return encoded(fmt, exif=exif, **({"dpi": (72, 72)} if dpi else {}))


def exif_entry(kind: int, count: int, value: bytes) -> bytes:
    """EXIF data that hold one entry, the orientation, with its value or where that lies."""
    entry = struct.pack("<HHHI", 1, 0x0112, kind, count) + value
    return b"Exif\0\0II*\0" + struct.pack("<I", 8) + entry + bytes(4)


DAMAGED_EXIF = {
    "no TIFF header": b"Exif\0\0rubbish and more of it",
    "another segment": b"Exif\0\0\xff\xe1junkjunkjunk",
    "header cut off": good_exif()[:9],
    "header alone": b"Exif\0\0II*\0\x08\0\0\0",
    "entries cut off": good_exif()[:22],
    "offset beyond the end": b"Exif\0\0II*\0\xff\xff\xff\x7f",
    "more entries than there are": b"Exif\0\0II*\0\x08\0\0\0\xff\xff",
    "an orientation of text": exif_entry(2, 2, b"ab\0\0"),
    "an orientation of no type": exif_entry(99, 1, b"\6\0\0\0"),
    "an orientation of a fraction by 0": exif_entry(5, 1, b"\x1a\0\0\0") + bytes(8),
    "an orientation of 9": exif_entry(3, 1, b"\x09\0\0\0"),
    "IFD that leads to itself": b"Exif\0\0II*\0\x08\0\0\0\0\0\x08\0\0\0",
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@pytest.mark.parametrize("dpi", [True, False])
@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("kind", DAMAGED_EXIF)
def test_damaged_exif_data_are_no_damage_to_the_image(kind: str, fmt: str, dpi: bool) -> None:
    content = with_exif(DAMAGED_EXIF[kind], fmt, dpi=dpi)
    plain = decode_consumer_image(encoded(fmt), "a")
    np.testing.assert_array_equal(decode_consumer_image(content, "a"), plain)
    if fmt == "JPEG":
        np.testing.assert_array_equal(decode_image(content, "a"), plain)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_an_orientation_among_damage_is_a_number_of_1_to_8() -> None:
    rng = np.random.default_rng(0)
    found = set()
    for _ in range(300):
        exif = bytearray(good_exif())
        for place in rng.integers(6, len(exif), 4):
            exif[place] = rng.integers(256)
        with Image.open(BytesIO(with_exif(bytes(exif), dpi=True))) as image:
            found.add(orientation(image))
    assert {1, 6} <= found <= set(range(1, 9))


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_scan_takes_damaged_exif_data_for_none(tiny_voc: Path) -> None:
    layout = open_layout(tiny_voc)
    ids = layout.ids("train")[: len(DAMAGED_EXIF)]
    for image_id, exif in zip(ids, DAMAGED_EXIF.values(), strict=True):
        path = layout.image_path(image_id)
        with Image.open(path) as image:
            image.save(path, quality=95, exif=exif, dpi=(72, 72))
    facts = scan(layout)
    assert facts["image_error"].isna().all()
    assert (facts["orientation"] == 1).all()


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_damaged_description_of_further_pictures_is_no_damage_either() -> None:
    content = encoded("JPEG")
    for index in (b"junk", b"II*\0\xff\xff\xff\x7f", b"II*\0\x08\0\0\0\x01\0", b"MM\0*"):
        segment = b"MPF\0" + index
        marked = content[:2] + b"\xff\xe2" + struct.pack(">H", len(segment) + 2) + segment
        found = decode_image(marked + content[2:], "a")
        np.testing.assert_array_equal(found, decode_image(content, "a"))

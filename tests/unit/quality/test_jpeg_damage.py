"""Damage that libjpeg only warns of is a finding of validation."""

from __future__ import annotations

import os
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from segops.quality import jpeg_reader
from segops.quality.facts import scan
from segops.quality.jpeg_damage import _Reader, with_damage
from segops.runtime.errors import SegopsError
from segops.voc.layout import Layout, open_layout

END = b"\xff\xd9"


def middle(content: bytes) -> int:
    """A place in the middle of the pixel data."""
    return (content.rindex(b"\xff\xda") + len(content)) // 2


def other_form(**options: object) -> Callable[[bytes], bytes]:
    """Encode a photograph anew, then let its data end early."""

    def change(content: bytes) -> bytes:
        stream = BytesIO()
        Image.open(BytesIO(content)).save(stream, "JPEG", **options)
        return ends_early(stream.getvalue())

    return change


def ends_early(content: bytes) -> bytes:
    return content[: middle(content)] + END


def hole_of_zeros(content: bytes) -> bytes:
    place = middle(content)
    return content[:place] + bytes(800) + content[place + 800 :]


def bytes_behind(content: bytes, count: int) -> bytes:
    return content[:-2] + b"x" * count + END


def png(content: bytes) -> bytes:
    stream = BytesIO()
    Image.open(BytesIO(content)).save(stream, "PNG")
    return stream.getvalue()


def spoil(layout: Layout, number: int, change: Callable[[bytes], bytes]) -> Path:
    path = layout.image_path(layout.ids("train")[number])
    path.write_bytes(change(path.read_bytes()))
    return path


@pytest.fixture
def damaged(tiny_voc: Path) -> Layout:
    layout = open_layout(tiny_voc)
    for number, change in enumerate(
        (
            ends_early,
            hole_of_zeros,
            other_form(progressive=True),
            other_form(restart_marker_rows=1),
            lambda content: bytes_behind(content, 40),
            lambda content: bytes_behind(content, 8),
            png,
            lambda content: content[: len(content) // 2],
            lambda content: content + b"junk" * 9,
        )
    ):
        spoil(layout, number, change)
    return layout


def test_damaged_data_are_errors(damaged: Layout) -> None:
    scanned = scan(damaged, 2)
    assert scanned["image_error"].notna().sum() == 1, "the scan alone finds the cut file"
    facts, notices = with_damage(scanned, damaged.root, 2)
    errors = facts.drop_duplicates("image_id").set_index("image_id")["image_error"]
    ids = damaged.ids("train")
    said = [errors[image_id] for image_id in ids]
    early = "its JPEG data are damaged (premature end of data segment): a part of the picture is"
    for number in (0, 2, 3):
        assert said[number].startswith(early)
    assert "(bad Huffman code)" in said[1] or "extraneous bytes" in said[1]
    assert "extraneous bytes before marker 0xd9" in said[4]
    assert "truncated" in said[7]
    assert all(pd.isna(one) for one in (said[5], said[6], *said[8:]))
    assert errors.notna().sum() == 6
    (notice,) = notices
    assert (
        "1 photograph with a few bytes between the pixels and the end of the JPEG data: JPEGIm"
        in (notice.found)
    )
    assert ids[5] in notice.found


def test_sound_data_stay_as_they_are(tiny_voc: Path) -> None:
    facts = scan(open_layout(tiny_voc), 2)
    found, notices = with_damage(facts, tiny_voc)
    pd.testing.assert_frame_equal(found, facts)
    assert notices == ()


def test_a_process_that_another_ended_is_started_again(tiny_voc: Path) -> None:
    path = Layout(tiny_voc).image_path(Layout(tiny_voc).ids("val")[0])
    with _Reader() as reader:
        assert reader.ask(path) == []
        reader._process.kill()
        reader._process.wait()
        assert reader.ask(path) == [], "the photograph did not end it"


def test_a_photograph_that_ends_the_decoder_is_a_finding(
    tiny_voc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "ends.py"
    module.write_text(
        "import os, sys\n"
        f"os.write(2, {jpeg_reader.END!r})\n"
        "for line in sys.stdin.buffer:\n"
        "    if b'000' in line:\n"
        "        os.abort()\n"
        f"    os.write(2, {jpeg_reader.END!r})\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setattr(jpeg_reader, "__name__", "ends")
    with _Reader() as reader:
        assert reader.ask(Path("a_000.jpg")) == ["a decoder crashed on them"]
        assert reader.ask(Path("a_1.jpg")) == [], "the next one has a process again"


def test_a_decoder_that_does_not_start_condemns_no_photograph(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "cv2.py").write_text("raise RuntimeError('no such library')")
    monkeypatch.chdir(tmp_path)
    with _Reader() as reader:
        assert reader.ask(Path("a.jpg")) == [], "the working directory has no modules for it"
    monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
    with _Reader() as reader, pytest.raises(SegopsError, match=r"(?s)start\. .*no such library"):
        reader.ask(Path("a.jpg"))


def test_no_other_format_gets_to_its_decoder(tiny_voc: Path) -> None:
    """OpenCV would choose one by the content; a GIF or PNG that is cut it would report."""
    path = Layout(tiny_voc).image_path(Layout(tiny_voc).ids("val")[0])
    with _Reader() as reader:
        for content in (png(path.read_bytes())[:300], b"GIF89a" + bytes(40), b"", b"%!PS-Adobe"):
            path.write_bytes(content)
            assert reader.ask(path) == []
        path.unlink()
        assert reader.ask(path) == []

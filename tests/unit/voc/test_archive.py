"""Archives that nobody has reason to trust."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest

from segops.runtime.errors import SegopsError
from segops.voc.archive import unpack

Entry = tuple[tarfile.TarInfo, bytes]


def entry(name: str, content: bytes = b"content", **fields: object) -> Entry:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    for field, value in fields.items():
        setattr(member, field, value)
    return member, content


def link(name: str, target: str, kind: bytes) -> Entry:
    return entry(name, b"", type=kind, linkname=target)


def write(path: Path, *entries: Entry, mode: str = "w:gz") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for member, content in entries:
            tar.addfile(member, io.BytesIO(content))
    return path


def everything(path: str) -> bool:
    return True


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if not path.is_dir()
    }


@pytest.fixture
def into(tmp_path: Path) -> Path:
    (tmp_path / "into").mkdir()
    return tmp_path / "into"


@pytest.mark.parametrize("mode", ["w", "w:gz"])
def test_wanted_files_are_unpacked_and_others_are_not(
    tmp_path: Path, into: Path, mode: str
) -> None:
    archive = write(
        tmp_path / {"w": "a.tar", "w:gz": "a.tgz"}[mode],
        entry("voc", b"", type=tarfile.DIRTYPE),
        entry("./voc/one.jpg", b"1" * 512),  # A whole block, and half a block.
        entry("voc/two.txt", b"2" * 256),
        entry("voc/deep/three.jpg", b"3" * 70_000),
        mode=mode,
    )
    found = unpack(archive, into, lambda path: path.endswith(".jpg"))
    assert found == {"voc/one.jpg", "voc/deep/three.jpg"}
    assert tree(into) == {"voc/one.jpg": b"1" * 512, "voc/deep/three.jpg": b"3" * 70_000}


def test_special_bits_and_owner_are_dropped(tmp_path: Path, into: Path) -> None:
    unpack(write(tmp_path / "a.tgz", entry("tool", mode=0o6777, uid=12345)), into, everything)
    status = (into / "tool").stat()
    assert status.st_mode & 0o7777 == 0o755
    assert status.st_uid == os.getuid()


@pytest.mark.parametrize(
    ("hostile", "reason"),
    [
        (entry("../evil"), "outside the destination"),
        (entry("voc/../../evil"), "outside the destination"),
        (link("voc/evil", "/etc/passwd", tarfile.SYMTYPE), "absolute path"),
        (link("voc/evil", "../../etc", tarfile.SYMTYPE), "outside the destination"),
        (link("voc/evil", "/etc/passwd", tarfile.LNKTYPE), "absolute path"),
        (link("voc/evil", "../etc/passwd", tarfile.LNKTYPE), "outside the destination"),
        (link("voc/evil", "good", tarfile.SYMTYPE), "expected a regular file"),
        (link("voc/evil", "voc/good", tarfile.LNKTYPE), "expected a regular file"),
        (entry("voc/evil", b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3), "special file"),
        (entry("voc/evil", b"", type=tarfile.BLKTYPE), "special file"),
        (entry("voc/evil", b"", type=tarfile.FIFOTYPE), "special file"),
        (entry("voc/evil", b"", type=b"Z"), "special file"),
        (entry("voc/good"), "holds it twice"),
        (entry("VOC/Good"), "holds it twice"),
    ],
)
def test_a_hostile_member_is_named_and_nothing_leaves_the_directory(
    tmp_path: Path, into: Path, hostile: Entry, reason: str
) -> None:
    archive = write(tmp_path / "a.tgz", entry("voc/good", b"good"), hostile, entry("voc/later"))
    with pytest.raises(SegopsError) as error:
        unpack(archive, into, everything)
    assert f"{archive}: refused at member {hostile[0].name!r}: " in str(error.value)
    assert reason in str(error.value)
    assert tree(into) == {"voc/good": b"good"}
    assert {path.name for path in tmp_path.iterdir()} == {"a.tgz", "into"}


@pytest.mark.parametrize(
    "hostile",
    [
        entry("../evil"),
        link("evil", "/etc", tarfile.SYMTYPE),
        link("evil", "../etc/passwd", tarfile.LNKTYPE),
        entry("evil", b"", type=tarfile.CHRTYPE),
    ],
)
def test_a_hostile_member_stops_the_work_also_where_it_is_not_wanted(
    tmp_path: Path, into: Path, hostile: Entry
) -> None:
    archive = write(tmp_path / "a.tgz", hostile)
    with pytest.raises(SegopsError, match="refused at member"):
        unpack(archive, into, lambda path: False)
    assert tree(into) == {}


def test_an_absolute_path_stays_inside(tmp_path: Path, into: Path) -> None:
    outside = tmp_path / "outside"
    unpack(write(tmp_path / "a.tgz", entry(str(outside))), into, everything)
    assert tree(into) == {str(outside).lstrip("/"): b"content"}
    assert not outside.exists()


def test_nothing_is_written_through_a_link(tmp_path: Path, into: Path) -> None:
    archive = write(
        tmp_path / "a.tgz",
        link("voc/door", "room", tarfile.SYMTYPE),  # Harmless alone, and not wanted.
        entry("voc/door/file", b"content"),
    )
    unpack(archive, into, lambda path: path.endswith("file"))
    assert not (into / "voc/door").is_symlink()
    assert tree(into) == {"voc/door/file": b"content"}


def test_a_bomb_is_refused_by_its_declared_size(tmp_path: Path, into: Path) -> None:
    archive = write(tmp_path / "a.tgz", entry("a", b"0" * 60_000), entry("b", b"0" * 60_000))
    with pytest.raises(SegopsError, match=r"refused at member 'b': .* to more than 100000 bytes"):
        unpack(archive, into, everything, limit=100_000)
    assert set(tree(into)) == {"a"}
    assert unpack(archive, tmp_path, everything, limit=120_000) == {"a", "b"}


def test_a_bomb_in_an_unwanted_member_is_refused_too(tmp_path: Path, into: Path) -> None:
    archive = write(tmp_path / "a.tgz", entry("a", b"0" * 60_000), entry("b", b"0" * 60_000))
    with pytest.raises(SegopsError, match="refused at member 'b'"):
        unpack(archive, into, lambda path: False, limit=100_000)


def test_a_directory_where_a_file_was_expected(tmp_path: Path, into: Path) -> None:
    archive = write(tmp_path / "a.tgz", entry("a.jpg", b"", type=tarfile.DIRTYPE))
    with pytest.raises(SegopsError, match="expected a regular file"):
        unpack(archive, into, {"a.jpg"}.__contains__)


def test_a_file_used_as_directory(tmp_path: Path, into: Path) -> None:
    archive = write(tmp_path / "a.tgz", entry("a"), entry("a/b"))
    with pytest.raises(SegopsError, match=r"a\.tgz: not unpacked: .*member 'a/b'"):
        unpack(archive, into, everything)


@pytest.mark.parametrize("compressed", [True, False])
def test_a_truncated_archive(tmp_path: Path, into: Path, compressed: bool) -> None:
    name, mode = ("a.tgz", "w:gz") if compressed else ("a.tar", "w")
    whole = write(tmp_path / name, entry("a", os.urandom(50_000)), mode=mode)
    whole.write_bytes(whole.read_bytes()[:30_000])
    with pytest.raises(SegopsError, match=rf"{name}: not unpacked"):
        unpack(whole, into, everything)


@pytest.mark.parametrize("content", [b"", b"<html>Moved</html>" * 100, b"\x1f\x8b" + b"\0" * 2000])
def test_no_archive_at_all(tmp_path: Path, into: Path, content: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(SegopsError, match=r"a\.tar: not unpacked"):
        unpack(tmp_path / "a.tar", into, everything)

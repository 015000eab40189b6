"""A backup that was damaged, or made to harm, writes nothing."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from segops import files
from segops.operate import archive
from segops.operate.archive import Manifest
from segops.operate.restore import UNDER_WAY, restore
from segops.runtime.errors import SegopsError

CONTENT = b"ledger"
GOOD = "ledger/segops-1.log"


@pytest.fixture(autouse=True)
def _no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def manifest(name: str = GOOD, **changes: Any) -> dict[str, Any]:
    listed = {"sha256": files.sha256_bytes(CONTENT), "bytes": len(CONTENT)}
    return {
        "format": 1, "segops": "0.1.0", "created": "2026-11-29T12:00:00+00:00", "home": "/old",
        "versions": {}, "files": {name: listed},
    } | changes  # fmt: skip


def member(name: str = GOOD, content: bytes = CONTENT, **fields: Any) -> tuple[Any, bytes]:
    info = tarfile.TarInfo(name)
    info.size = len(content)
    for key, value in fields.items():
        setattr(info, key, value)
    return info, content


def made(path: Path, tree: Any, *members: tuple[Any, bytes]) -> Path:
    with tarfile.open(path, "w", format=tarfile.PAX_FORMAT) as tar:
        for info, content in (member("manifest.json", json.dumps(tree).encode()), *members):
            tar.addfile(info, io.BytesIO(content))
    return path


def test_what_is_written_is_read(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    start = Manifest.model_validate(manifest(files={}))
    digest = archive.write(tmp_path / "backup.tar", start, {GOOD: source})
    done = restore(tmp_path / "new", tmp_path / "backup.tar")
    assert done.sha256 == digest
    assert (tmp_path / "new" / GOOD).read_bytes() == CONTENT
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar", "new", "source"]


ESCAPE = "../escaped"
HARMFUL: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "changed": (lambda: (manifest(), member(content=b"LEDGER")), "was changed"),
    "longer": (lambda: (manifest(), member(content=b"x" * 99)), "no file of 6 bytes"),
    "missing": (lambda: (manifest(),), "files are missing"),
    "twice": (lambda: (manifest(), member(), member()), "is there twice"),
    "not listed": (lambda: (manifest(), member(), member("ledger/b")), "not listed"),
    "up": (lambda: (manifest(ESCAPE), member(ESCAPE)), "belongs into no backup"),
    "up in the middle": (
        lambda: (manifest("ledger/../../x"), member("ledger/../../x")), "leads out|outside",
    ),
    "absolute": (lambda: (manifest("/ledger/x"), member("/ledger/x")), "belongs into no backup"),
    "two spellings": (lambda: (manifest("ledger//x"), member("ledger//x")), "leads out"),
    "code": (lambda: (manifest("src/x.py"), member("src/x.py")), "belongs into no backup"),
    "other names in the cache": (
        lambda: (manifest("cache/md5/..a/bcd"), member("cache/md5/..a/bcd")),
        "belongs into no backup",
    ),
    "hook": (lambda: (manifest(".git/x.dvc"), member(".git/x.dvc")), "belongs into no backup"),
    "link": (
        lambda: (manifest(), member(content=b"", type=tarfile.SYMTYPE, linkname="/etc/passwd")),
        "link to|absolute|no file of",
    ),
    "hard link": (
        lambda: (manifest(), member(content=b"", type=tarfile.LNKTYPE, linkname="manifest.json")),
        "no file of|was changed|leads out",
    ),
    "device": (
        lambda: (manifest(), member(content=b"", type=tarfile.CHRTYPE, devmajor=1, devminor=3)),
        "special file",
    ),
    "pipe": (lambda: (manifest(), member(content=b"", type=tarfile.FIFOTYPE)), "special file"),
    "of a later segops": (lambda: (manifest(format=archive.FORMAT + 1), member()), "Update segops"),
    "of another form": (lambda: ({"format": 1}, member()), "of another form"),
    "no manifest": (lambda: ([], member()), "of another form"),
}  # fmt: skip


@pytest.mark.parametrize("kind", HARMFUL)
def test_a_harmful_archive_writes_nothing(tmp_path: Path, kind: str) -> None:
    parts, words = HARMFUL[kind]
    file = made(tmp_path / "backup.tar", *parts())
    with pytest.raises(SegopsError, match=words) as raised:
        restore(tmp_path / "new", file)
    assert str(file) in str(raised.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup.tar"]


@pytest.mark.parametrize("content", [b"", b"no archive", b"\0" * 10240])
def test_another_file_is_no_backup(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    with pytest.raises(SegopsError, match="no backup that can be used"):
        restore(tmp_path / "new", tmp_path / "file")


def test_a_backup_that_was_cut_off(tmp_path: Path) -> None:
    file = made(tmp_path / "backup.tar", manifest(), member())
    file.write_bytes(file.read_bytes()[:-20000])
    file.write_bytes(file.read_bytes()[: 512 * 3])
    with pytest.raises(SegopsError, match="no backup that can be used"):
        restore(tmp_path / "new", file)
    with pytest.raises(SegopsError, match="no such file"):
        restore(tmp_path / "new", tmp_path / "other.tar")


def test_a_disk_that_is_too_small(tmp_path: Path) -> None:
    huge = {"sha256": "0" * 64, "bytes": 10**18}
    info, _ = member()
    file = made(tmp_path / "backup.tar", manifest(files={GOOD: huge}), (info, CONTENT))
    with pytest.raises(SegopsError, match=f"no file of {10**18} bytes"):
        restore(tmp_path / "new", file)


def test_a_record_is_never_overwritten(tmp_path: Path) -> None:
    file = made(tmp_path / "backup.tar", manifest(), member())
    (tmp_path / "ledger").mkdir()
    (tmp_path / GOOD).write_text("mine")
    with pytest.raises(SegopsError, match=r"a record already \(ledger\)"):
        restore(tmp_path, file)
    assert (tmp_path / GOOD).read_text() == "mine"


def test_a_manifest_that_is_nested_too_deep(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "backup.tar", "w") as tar:
        info, content = member("manifest.json", b"[" * 200_000)
        tar.addfile(info, io.BytesIO(content))
    with pytest.raises(SegopsError, match="of another form"):
        restore(tmp_path / "new", tmp_path / "backup.tar")


def test_a_directory_in_a_checkout_is_refused(tmp_path: Path) -> None:
    file = made(tmp_path / "backup.tar", manifest(), member())
    above = tmp_path / "above"
    (above / ".dvc").mkdir(parents=True)
    (above / "dvc.yaml").touch()
    with pytest.raises(SegopsError, match=f"lies in the checkout {above}"):
        restore(above / "copy", file)
    assert sorted(path.name for path in above.iterdir()) == [".dvc", "dvc.yaml"]
    restore(above, file)
    assert (above / GOOD).read_bytes() == CONTENT


def test_a_link_is_not_replaced(tmp_path: Path) -> None:
    file = made(tmp_path / "backup.tar", manifest(), member())
    into, disk = tmp_path / "new", tmp_path / "disk"
    into.mkdir()
    disk.mkdir()
    (into / "mlartifacts").symlink_to(disk)
    with pytest.raises(SegopsError, match="mlartifacts: expected a directory or nothing"):
        restore(into, file)
    assert not (into / "ledger").exists()


def test_after_a_killed_restore_only_its_own_files_go(tmp_path: Path) -> None:
    file = made(tmp_path / "backup.tar", manifest(), member())
    own = {GOOD: files.sha256_bytes(CONTENT), "ledger/changed": files.sha256_bytes(CONTENT)}
    files.write_json(tmp_path / UNDER_WAY, {"manifest": "", "files": own})
    for name, content in {GOOD: CONTENT, "ledger/changed": b"+", "ledger/later": b"x"}.items():
        files.write_bytes(tmp_path / name, content)
    with pytest.raises(SegopsError, match="a record already"):
        restore(tmp_path, file)
    left = sorted(path.name for path in (tmp_path / "ledger").iterdir())
    assert left == ["changed", "later"]


def test_an_object_with_other_content_does_not_come_into_the_cache(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    right = hashlib.md5(CONTENT).hexdigest()
    names = [f"cache/md5/{one[:2]}/{one[2:]}" for one in (right, "0" * 32)]
    listed = manifest()["files"][GOOD]
    tree = manifest(files=dict.fromkeys(names, listed))
    restore(tmp_path / "new", made(tmp_path / "backup.tar", tree, *map(member, names)))
    held = [one for one in (tmp_path / "new/.dvc/cache").rglob("*") if one.is_file()]
    assert [one.parent.name + one.name for one in held] == [right]
    assert "has another content" in caplog.text


class Changing(dict[str, Path]):
    """Sources of which one changes once all are hashed."""

    def __init__(self, sources: dict[str, Path], changed: Any) -> None:
        super().__init__(sources)
        self.changed = changed

    def items(self) -> Any:
        yield from super().items()
        if self.changed is not None:
            self.changed(*self.values())
            self.changed = None


def reverse(path: Path) -> None:
    path.write_bytes(path.read_bytes()[::-1])


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("changed", [reverse, cut, Path.unlink])
def test_a_file_that_changes_while_it_is_backed_up_is_named(tmp_path: Path, changed: Any) -> None:
    source = tmp_path / "source"
    source.write_bytes(CONTENT)
    start = Manifest.model_validate(manifest(files={}))
    with pytest.raises(SegopsError, match="another process changed or removed it"):
        archive.write(tmp_path / "backup.tar", start, Changing({GOOD: source}, changed))
    assert not (tmp_path / "backup.tar").exists()

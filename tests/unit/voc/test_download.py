"""Downloads: what arrives, what is asked again, and what is refused."""

from __future__ import annotations

import gzip
import hashlib
import random
import socket
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest

from segops.files import exclusive
from segops.runtime.errors import SegopsError
from segops.voc.download import Archive, download
from tests.support.loopback import Server, serve

CONTENT = random.Random(0).randbytes(300_000)


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        state.files["/voc/data.tar"] = CONTENT
        yield state


def archive(server: Server, content: bytes = CONTENT) -> Archive:
    return Archive(f"{server.address}/voc/data.tar", hashlib.md5(content).hexdigest(), "data")


def get(server: Server, downloads: Path, content: bytes = CONTENT, attempts: int = 3) -> Path:
    return download(archive(server, content), downloads, attempts=attempts, delay=0.001)


def left(downloads: Path) -> set[str]:
    return {path.name for path in downloads.iterdir()} - {"data.tar.lock"}


def test_download_brings_the_file_and_nothing_else(server: Server, tmp_path: Path) -> None:
    path = get(server, tmp_path / "new" / "downloads")
    assert path.read_bytes() == CONTENT
    assert left(path.parent) == {"data.tar"}
    assert [one.status for one in server.requests] == [200]


def test_a_file_already_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar").write_bytes(CONTENT)
    assert get(server, tmp_path) == tmp_path / "data.tar"
    assert server.requests == []


def test_a_wrong_file_put_there_by_hand_is_named_and_kept(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar").write_bytes(b"of somebody else")
    with pytest.raises(SegopsError, match=r"data\.tar: not the published file: expected MD5"):
        get(server, tmp_path)
    assert (tmp_path / "data.tar").read_bytes() == b"of somebody else"
    assert server.requests == []


def test_a_cut_connection_goes_on_from_the_last_byte(server: Server, tmp_path: Path) -> None:
    server.cuts = [100_001, 50_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [one.range for one in server.requests] == [None, "bytes=100001-", "bytes=150001-"]
    assert [one.status for one in server.requests] == [200, 206, 206]
    assert sum(one.sent for one in server.requests) == len(CONTENT)
    assert left(tmp_path) == {"data.tar"}


def test_a_later_call_goes_on_where_the_first_gave_up(server: Server, tmp_path: Path) -> None:
    server.cuts = [70_000]
    with pytest.raises(SegopsError) as error:
        get(server, tmp_path, attempts=1)
    for part in (server.address, "--mirror", f"at {tmp_path / 'data.tar'}", "70000 bytes are kept"):
        assert part in str(error.value)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert server.requests[1].range == "bytes=70000-"
    assert sum(one.sent for one in server.requests) == len(CONTENT)


def test_gains_reset_the_count_of_attempts(server: Server, tmp_path: Path) -> None:
    server.cuts = [40_000] * 6
    assert get(server, tmp_path, attempts=2).read_bytes() == CONTENT
    assert len(server.requests) == 7


def test_a_server_without_ranges_is_read_from_the_start(server: Server, tmp_path: Path) -> None:
    server.ranges = False
    server.cuts = [100_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [one.status for one in server.requests] == [200, 200]
    assert server.requests[1].range == "bytes=100000-"


def test_a_server_without_ranges_that_always_breaks_is_given_up(
    server: Server, tmp_path: Path
) -> None:
    server.ranges = False
    server.cuts = [100_000] * 20
    with pytest.raises(SegopsError, match="connection lost 3 times in a row"):
        get(server, tmp_path)
    assert len(server.requests) == 3


def test_a_part_longer_than_the_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.part").write_bytes(CONTENT + b"more")
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [one.status for one in server.requests] == [416, 200]


def test_a_whole_part_needs_no_body(server: Server, tmp_path: Path) -> None:
    (tmp_path / "data.tar.part").write_bytes(CONTENT)
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [(one.status, one.sent) for one in server.requests] == [(416, 0)]


def test_a_part_of_another_file_fails_the_checksum_and_is_removed(
    server: Server, tmp_path: Path
) -> None:
    (tmp_path / "data.tar.part").write_bytes(b"0" * 1000)
    with pytest.raises(SegopsError, match=r"wrong checksum.*Run the same command again"):
        get(server, tmp_path)
    assert left(tmp_path) == set()
    assert get(server, tmp_path).read_bytes() == CONTENT


def test_a_range_from_another_place_is_not_taken(server: Server, tmp_path: Path) -> None:
    server.shift = 7
    server.cuts = [100_000]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [one.status for one in server.requests] == [200, 206, 200]


def test_a_wrong_checksum_names_both_and_removes_the_file(server: Server, tmp_path: Path) -> None:
    server.files["/voc/data.tar"] = b"something else"
    with pytest.raises(SegopsError) as error:
        get(server, tmp_path)
    assert hashlib.md5(CONTENT).hexdigest() in str(error.value)
    assert hashlib.md5(b"something else").hexdigest() in str(error.value)
    assert left(tmp_path) == set()


def test_a_missing_file_is_not_asked_for_twice(server: Server, tmp_path: Path) -> None:
    del server.files["/voc/data.tar"]
    with pytest.raises(SegopsError, match=r"answered 404 Not Found.*--mirror.*data\.tar") as error:
        get(server, tmp_path)
    assert server.address in str(error.value)
    assert len(server.requests) == 1


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429]
    assert get(server, tmp_path).read_bytes() == CONTENT
    assert [one.status for one in server.requests] == [503, 429, 200]


def test_a_server_that_stays_busy_is_given_up(server: Server, tmp_path: Path) -> None:
    server.statuses = [500] * 9
    with pytest.raises(SegopsError, match="the server answered 500"):
        get(server, tmp_path)
    assert len(server.requests) == 3


def test_nobody_there(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/data.tar"
        with pytest.raises(SegopsError, match="connection lost 2 times") as error:
            download(Archive(address, "0" * 32, "data"), tmp_path, attempts=2, delay=0.001)
    assert address in str(error.value)


def test_labelled_compression_does_not_change_the_bytes(server: Server, tmp_path: Path) -> None:
    packed = gzip.compress(CONTENT)
    server.files["/voc/data.tar"] = packed
    server.headers = {"Content-Encoding": "x-gzip"}
    assert get(server, tmp_path, packed).read_bytes() == packed


def test_too_little_space_is_said_before_the_first_byte(server: Server, tmp_path: Path) -> None:
    server.headers = {"Content-Length": str(10**18)}
    with pytest.raises(SegopsError, match=r"1000000000\.00 GB are still to come"):
        get(server, tmp_path)
    assert left(tmp_path) == set()


def test_more_than_the_published_file_is_refused_by_the_header(
    server: Server, tmp_path: Path
) -> None:
    with pytest.raises(SegopsError, match="more than 299,999 bytes; the published file has fewer"):
        download(replace(archive(server), limit=len(CONTENT) - 1), tmp_path)
    assert left(tmp_path) == set()
    assert download(replace(archive(server), limit=len(CONTENT)), tmp_path).is_file()


def test_an_endless_answer_is_cut_off(tmp_path: Path) -> None:
    def endless() -> None:
        peer, _ = listening.accept()
        with peer, suppress(OSError):
            peer.recv(10_000)
            peer.sendall(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
            while True:
                peer.sendall(bytes(10_000))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = Thread(target=endless)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/data.tar"
        with pytest.raises(SegopsError, match="more than 1,000,000 bytes"):
            download(Archive(url, "0", "data", limit=1_000_000), tmp_path)
        thread.join()
    assert left(tmp_path) == set()


def test_a_mirror_replaces_the_directory(server: Server, tmp_path: Path) -> None:
    server.files = {"/copy/of/data.tar": CONTENT}
    official = Archive(
        "https://official.invalid/a/b/data.tar", hashlib.md5(CONTENT).hexdigest(), "data"
    )
    for slash in ("", "/"):
        path = download(official, tmp_path / f"to{slash}", f"{server.address}/copy/of{slash}")
        assert path.read_bytes() == CONTENT
        path.unlink()
    assert [one.path for one in server.requests] == ["/copy/of/data.tar"] * 2


def test_a_mirror_goes_on_with_what_another_address_began(server: Server, tmp_path: Path) -> None:
    server.files["/copy/data.tar"] = CONTENT
    server.cuts = [100_000]
    with pytest.raises(SegopsError):
        get(server, tmp_path, attempts=1)
    download(archive(server), tmp_path, f"{server.address}/copy")
    assert server.requests[1].range == "bytes=100000-"
    assert sum(one.sent for one in server.requests) == len(CONTENT)


@pytest.mark.parametrize("mirror", ["ftp://example.org/voc", "/home/me/voc", ""])
def test_a_mirror_that_is_no_http_address_is_refused(mirror: str, tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="expected the http:// or https:// address"):
        download(Archive("https://official.invalid/data.tar", "0" * 32, "data"), tmp_path, mirror)


def test_a_second_download_of_the_same_file_is_refused(server: Server, tmp_path: Path) -> None:
    with (
        exclusive(tmp_path / "data.tar.lock", "a download of data.tar"),
        pytest.raises(SegopsError, match=r"a download of data\.tar is under way"),
    ):
        get(server, tmp_path)
    assert server.requests == []

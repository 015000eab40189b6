"""Where images to predict come from: lists and buckets, a million entries in little memory."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segops.predict import bucket
from segops.predict.folder import predict_folder
from segops.predict.sources import find_sources
from segops.runtime.errors import SegopsError
from tests.support.folder_runs import contents, save_photos, shown, table

COUNT = 7


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return save_photos(tmp_path / "photos", COUNT)


@pytest.fixture(scope="module")
def storage() -> Iterator[Any]:
    """A client of an S3 server of this machine."""
    import boto3
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith("AWS_"):
                patch.delenv(name)
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        patch.setenv("AWS_ACCESS_KEY_ID", "key")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        bucket._client.cache_clear()
        yield boto3.client("s3")
        bucket._client.cache_clear()
    server.stop()


def test_a_list_gives_what_its_directory_gives(photos: Path, bundle: Path, tmp_path: Path) -> None:
    names = [path.relative_to(photos).as_posix() for path in photos.rglob("*.png")]
    # Of any order, with an empty line, the ends of lines of another system, and no last end.
    (photos / "all.txt").write_bytes("\r\n".join(["", *names]).encode())
    predict_folder(photos, bundle, tmp_path / "directory")
    outcome = predict_folder(photos / "all.txt", bundle, tmp_path / "list")
    assert (outcome.now, outcome.failures) == (COUNT, 0)
    assert contents(tmp_path / "list") == contents(tmp_path / "directory")


def test_images_elsewhere_keep_their_whole_path(
    photos: Path, bundle: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "lists").mkdir()
    file = tmp_path / "lists/some.lst"
    lines = (photos / "0/0.png", "../photos/1/1.png", "../photos/./1/1.png", "missing.jpg")
    file.write_text("\n".join(map(str, lines)))
    with caplog.at_level(logging.WARNING, "segops"):
        outcome = predict_folder(file, bundle, tmp_path / "out")
    assert "1 line(s) name an image that an earlier line names" in caplog.text
    below = str(photos).lstrip("/")
    assert set(table(tmp_path / "out")) == {f"{below}/0/0.png", f"{below}/1/1.png", "missing.jpg"}
    assert f"{below}/1/1.overlay.jpg" in shown(tmp_path / "out")
    assert outcome.failed == [f"{tmp_path}/lists/missing.jpg: no such file."]
    assert table(tmp_path / "out")["missing.jpg"]["error"] == "missing.jpg: no such file."


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"\n\n", "names no image"),
        (b"\0\1", "some.txt:1: holds a zero byte"),
        (b"a.jpg\na.png\n", "both masks would be"),
        (b"https://example.org/a.jpg", "some.txt:1: .* expected s3://BUCKET/KEY"),
        (b"s3://", "expected s3://BUCKET/KEY"),
        (b"s3://bucket/a/../../b.jpg", "some.txt:1: its outputs cannot have such a name"),
    ],
)
def test_a_list_that_cannot_be_used_is_named(
    text: bytes, said: str, bundle: Path, tmp_path: Path
) -> None:
    (tmp_path / "some.txt").write_bytes(text)
    with pytest.raises(SegopsError, match=said):
        predict_folder(tmp_path / "some.txt", bundle, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_masks_never_lie_beside_the_images_of_a_list(
    photos: Path, bundle: Path, tmp_path: Path
) -> None:
    (photos / "some.txt").write_text("0/0.png\n")
    before = contents(photos)
    with pytest.raises(SegopsError, match="would lie beside its image"):
        predict_folder(photos / "some.txt", bundle, photos)
    assert contents(photos) == before


def test_many_lines_take_little_memory(tmp_path: Path) -> None:
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from segops.predict.sources import find_sources\n"
        "def used(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10\n"
        "before = used(); found = find_sources(Path(sys.argv[1]), Path('out')).images\n"
        "found.digest(); print(len(found), used() - before, [*found.part(77_777, 2)][1].name)"
    )
    count = 200_000
    with (tmp_path / "many.txt").open("w") as file:
        for number in range(count):  # in no order
            file.write(f"photographs/of/some/journey/{number * 7919 % count:09}.jpg\n")
    arguments = [sys.executable, "-c", program, str(tmp_path / "many.txt")]
    done = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=tmp_path)
    found, megabytes, name = done.stdout.split()
    assert (found, name) == (str(count), "photographs/of/some/journey/000077778.jpg")
    assert int(megabytes) < 60  # a list of them would take 100


def test_a_bucket_gives_what_its_directory_gives(
    photos: Path, bundle: Path, tmp_path: Path, storage: Any,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    storage.create_bucket(Bucket="photos")
    (photos / "0/broken.jpg").write_bytes(b"no image")
    for path in photos.rglob("*.*"):
        name = path.relative_to(photos).as_posix()
        storage.put_object(Bucket="photos", Key=f"some/day/{name}", Body=path.read_bytes())
    for other in (
        "some/day/notes.doc",
        "some/day/.hidden/a.png",
        "some/day/0/",
        "some/daylight.png",
    ):
        storage.put_object(Bucket="photos", Key=other, Body=b"x")
    predict_folder(photos, bundle, tmp_path / "directory")
    for size in (1000, 3):
        output = tmp_path / str(size)
        outcome = predict_folder("s3://photos/some/day", bundle, output, shard_size=size)
        assert (outcome.now, outcome.failures) == (COUNT, 1)
        assert "1 file(s) passed over: 1 .doc" in caplog.text
        assert outcome.failed[0].startswith("s3://photos/some/day/0/broken.jpg: not decodable")
        error = table(output)["0/broken.jpg"]["error"]
        assert f"s3://photos/some/day/{error}" == outcome.failed[0]
        here = contents(tmp_path / "directory")
        assert {**contents(output), "predictions.csv": ""} == {**here, "predictions.csv": ""}
    again = predict_folder("s3://photos/some/day/", bundle, output)
    assert (again.now, again.before) == (0, COUNT)
    single = predict_folder("s3://photos/some/day/1/1.png", bundle, tmp_path / "single")
    assert (single.now, "1.png" in shown(tmp_path / "single")) == (1, True)


def test_a_list_may_mix_addresses_and_paths(
    photos: Path, bundle: Path, tmp_path: Path, storage: Any
) -> None:
    storage.create_bucket(Bucket="mixed")
    storage.put_object(Bucket="mixed", Key="a/b.png", Body=(photos / "0/0.png").read_bytes())
    (photos / "some.txt").write_text("s3://mixed/a/b.png\n1/1.png\ns3://mixed/a/gone.png\n")
    outcome = predict_folder(photos / "some.txt", bundle, tmp_path / "out")
    assert outcome.now == 2
    assert outcome.failed == ["s3://mixed/a/gone.png: no such file."]
    assert {"mixed/a/b.png", "1/1.png"} <= shown(tmp_path / "out")


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("s3://nowhere/photos", "s3://nowhere/photos: not readable: .*bucket does not exist"),
        ("s3://", "expected s3://BUCKET/KEY"),
        ("gs://bucket/photos", "expected s3://BUCKET/KEY"),
        ("s3://empty/photos", "holds no image"),
        ("s3://odd", "s3://odd/a//b.png: its outputs cannot have such a name"),
    ],
)
def test_an_address_that_cannot_be_used_is_named(
    address: str, said: str, bundle: Path, tmp_path: Path, storage: Any
) -> None:
    for name in ("empty", "odd"):
        storage.create_bucket(Bucket=name)
    storage.put_object(Bucket="odd", Key="a//b.png", Body=b"x")
    with pytest.raises(SegopsError, match=said):
        predict_folder(address, bundle, tmp_path / "out")


def test_storage_that_goes_away_stops_the_run_and_it_goes_on_later(
    photos: Path, bundle: Path, tmp_path: Path, storage: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage.create_bucket(Bucket="away")
    for path in photos.rglob("*.png"):
        storage.put_object(Bucket="away", Key=path.name, Body=path.read_bytes())
    client = bucket._client()
    real, asked = client.get_object, list[str]()

    def gone(**request: str) -> Any:
        asked.append(request["Key"])
        if len(asked) > 3:
            from botocore.exceptions import EndpointConnectionError

            raise EndpointConnectionError(endpoint_url="http://storage")
        return real(**request)

    monkeypatch.setattr(client, "get_object", gone)
    with pytest.raises(SegopsError, match=r"s3://away/.*Could not connect.*continues where it"):
        predict_folder("s3://away", bundle, tmp_path / "out", shard_size=2)
    monkeypatch.setattr(client, "get_object", real)
    outcome = predict_folder("s3://away", bundle, tmp_path / "out", shard_size=2)
    assert (outcome.now + outcome.before, outcome.failures) == (COUNT, 0)
    assert outcome.before > 0


def test_a_missing_package_is_one_sentence(
    bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket._client.cache_clear()
    monkeypatch.setitem(sys.modules, "boto3", None)
    with pytest.raises(SegopsError, match=r"S3 needs the package boto3.*pip install 'segops"):
        find_sources("s3://bucket/photos", tmp_path / "out")

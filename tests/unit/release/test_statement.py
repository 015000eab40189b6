"""Statements: every change is found and named, and the decision follows from the counts."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
)

from segops.release import archive, pairing, signing, statement
from segops.release.evidence import Unknown
from segops.release.verify import StatementError, verify, verify_bytes
from segops.runtime.errors import SegopsError
from tests.support import statements as made
from tests.support.statements import BEST, OURS, THEIRS

UNKNOWN_CURVE = b"""-----BEGIN PUBLIC KEY-----
MDIwEAYHKoZIzj0CAQYFK4EEAAYDHgAEV0l19mTMRdU8zTqJ3cNrDXKAJyArwysd
NZHiSA==
-----END PUBLIC KEY-----
"""
"""A key on a curve that has no implementation."""
COUNTS = f"counts/{OURS}.csv"


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys")
    return made.private_pem(ed25519.Ed25519PrivateKey.generate(), place / "key.pem")


def public(private: Path) -> Path:
    """The public key of a private one, as openssl writes it."""
    path = private.with_suffix(".pub.pem")
    command = ["openssl", "pkey", "-in", str(private), "-pubout", "-out", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path


@pytest.fixture(scope="module")
def plain() -> bytes:
    return statement.write(*made.predicate())


@pytest.fixture
def signed(key: Path, monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setenv(signing.KEY, str(key))
    return statement.write(*made.predicate())


def with_payload(content: bytes, change: Callable[[dict[str, Any]], object]) -> bytes:
    """The archive with another payload, written as segops writes it."""
    members = archive.read(content)
    envelope = json.loads(members[statement.STATEMENT])
    payload = json.loads(b64decode(envelope["payload"]))
    change(payload)
    envelope["payload"] = b64encode(statement.to_bytes(payload)).decode()
    return archive.write(members | {statement.STATEMENT: statement.to_bytes(envelope)})


# What holds.


def test_an_unsigned_statement_holds_and_says_so(plain: bytes) -> None:
    found = verify_bytes(plain, "it")
    assert found.key is None
    assert found.decision.verdict == found.stated.verdict == "promoted"
    assert found.stated.best == ("1",)
    assert statement.write(*made.predicate()) == plain, "the same decision gives the same bytes"


@pytest.mark.parametrize(
    "private",
    [
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256R1()),
        ec.generate_private_key(ec.SECP384R1()),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=lambda key: type(key).__name__,
)
def test_each_kind_of_key_signs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, private: Any
) -> None:
    path = made.private_pem(private, tmp_path / "key.pem")
    monkeypatch.setenv(signing.KEY, str(path))
    archived = tmp_path / "statement.zip"
    archived.write_bytes(statement.write(*made.predicate()))
    monkeypatch.delenv(signing.KEY)
    alone, given = verify(archived), verify(archived, public(path))
    assert not alone.is_vouched
    assert given.is_vouched
    assert alone.key == given.key == signing.public_key(public(path)).keyid
    other = made.private_pem(ed25519.Ed25519PrivateKey.generate(), tmp_path / "other.pem")
    with pytest.raises(StatementError, match="it is signed with the key"):
        verify(archived, public(other))


def test_images_that_a_model_was_trained_on_are_left_out() -> None:
    ours = made.counts(80, "3", OURS, trained_on=frozenset({f"{1:064d}", "elsewhere"}))
    content = statement.write(*made.predicate((ours, made.counts(70, "2", THEIRS))))
    stated = verify_bytes(content, "it").stated
    assert stated.models[0].seen == (f"{1:064d}",)
    assert stated.evidence["score"]["seen_images"] == 1


def test_a_first_release_and_one_without_counts_hold() -> None:
    first = statement.write(*made.predicate((made.counts(80, "3", OURS),)))
    assert verify_bytes(first, "it").decision.verdict == "promoted"
    named = with_payload(first, lambda tree: swap(tree, "evidence", "champion_version", to="2"))
    with pytest.raises(StatementError, match="champion_version is not"):
        verify_bytes(named, "it")


def test_a_rejection_with_an_unknown_score_and_known_counts_holds() -> None:
    content = statement.write(*made.predicate(score=Unknown("the evaluation says another mIoU")))
    found = verify_bytes(content, "it")
    assert found.decision.verdict == "rejected"
    low = with_payload(content, lambda tree: swap(tree, "evidence", "champion", "low", to=0.2))
    with pytest.raises(StatementError, match=r"evidence\.champion\.low"):
        verify_bytes(low, "it")


def test_materials_are_compared_both_ways() -> None:
    stated, _ = made.predicate()
    for tags, others in (
        ({"data_hash": "data"}, []),
        ({}, ["data"]),
        ({"data_hash": "other"}, ["data"]),
        ({"data_hash": "data", "package_code_patch": "p"}, ["packaging code.patch"]),
        ({"data_hash": "data", "code_differs": "true"}, ["code"]),
    ):
        assert statement.other_materials(stated, tags, "") == others


def test_a_comparison_of_a_single_image_has_no_interval_and_holds() -> None:
    seen = frozenset(f"{i:064d}" for i in range(4))
    models = (made.counts(80, "3", OURS), made.counts(70, "2", THEIRS, trained_on=seen))
    content = statement.write(*made.predicate(models))
    found = verify_bytes(content, "it")
    assert found.stated.evidence["champion"]["low"] is None
    assert found.decision.verdict == "rejected"


def test_verifying_loads_no_mlflow_and_needs_no_checkout(plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.zip").write_bytes(plain)
    code = (
        "import sys; from segops.cli import app\n"
        "app(['verify', 'it.zip'], standalone_mode=False)\n"
        "assert not {'mlflow', 'torch', 'prefect'} & sys.modules.keys()"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Not signed" in done.stdout


# Every byte.


def test_every_changed_byte_is_found_and_its_part_named(signed: bytes, key: Path) -> None:
    given = signing.public_key(public(key))
    verify_bytes(signed, "it", given)
    parts: dict[int, str] = {}
    with zipfile.ZipFile(io.BytesIO(signed)) as opened:
        for info in opened.infolist():
            start = info.header_offset + 30 + len(info.filename)
            parts |= dict.fromkeys(range(start, start + info.file_size), info.filename)
    assert len(set(parts.values())) == 5
    for place in range(len(signed)):
        changed = bytearray(signed)
        changed[place] ^= 1 << place % 8
        with pytest.raises(StatementError) as error:
            verify_bytes(bytes(changed), "it", given)
        if place in parts:
            assert str(error.value) == f"it: {parts[place]} was changed."
        else:
            assert "archive" in str(error.value), place


@pytest.mark.parametrize("spoil", [lambda it: it[:-1], lambda it: it + b"x", lambda it: b"x" + it])
def test_a_longer_or_shorter_archive_is_refused(
    plain: bytes, spoil: Callable[[bytes], bytes]
) -> None:
    with pytest.raises(StatementError, match="archive"):
        verify_bytes(spoil(plain), "it")


# Changes by somebody who writes the archive anew.


def swap(tree: dict[str, Any], *path: str | int, to: Any) -> None:
    place: Any = tree["predicate"]
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = to


@pytest.mark.parametrize(
    ("path", "to", "named"),
    [
        (("evidence", "score", "miou"), 0.99, r"evidence\.score\.miou is 0\.99"),
        (("evidence", "score", "class_iou", "bird"), 0.99, r"evidence\.score\.class_iou\.bird"),
        (("evidence", "score", "images"), 9, r"evidence\.score\.images"),
        (("evidence", "champion", "low"), 0.2, r"evidence\.champion\.low"),
        (("evidence", "champion", "spare"), 1, r"evidence\.champion\.spare"),
        (("evidence", "best", "minimum_detectable"), None, r"evidence\.best\.minimum_detectable"),
        (("evidence", "best", "bundle_digest"), "d" * 64, "counts of the best"),
        (("evidence", "score", "kind"), "Best", "evidence.score is of the kind Best"),
        (("evidence", "spare"), 1, r"evidence\.spare is not known"),
        (("evidence", "challenger", "bundle_digest"), "d" * 64, "subject"),
        (("evidence", "validation", "passed"), False, r"checks\.validation\.outcome"),
        (("checks", 5, "observed"), 0.99, r"checks\.mIoU\.observed is 0\.99"),
        (("checks", 5, "outcome"), "failed", r"checks\.mIoU\.outcome"),
        (("policy", "min_miou"), 0.9, r"checks\.mIoU\.outcome is 'passed', made again 'failed'"),
        (("policy", "seed"), 7, r"evidence\.(best|champion)"),
        (("policy", "bootstrap_samples"), 10**9, "bootstrap_samples"),
        (("policy", "spare"), 1, r"policy\.spare"),
        (("verdict",), "rejected", r"predicate\.verdict"),
        (("version",), "4", "subject"),
        (("run_id",), "4", r"predicate\.run_id"),
        (("best",), ["1", "2"], None),
        pytest.param(("evidence", "score", "images"), 10**400, "too large", id="huge"),
        pytest.param(("evidence", "challenger", "bundle_bytes"), 10**400, None, id="huge, stated"),
        (("models", 0, "counts"), "0" * 64, "counts of version 3"),
        (("models", 0, "seen"), [f"{1:064d}"], r"evidence\.best\.difference|excluded"),
        (("class_names",), ["background"], "other classes"),
        (("spare",), 1, r"predicate\.spare"),
    ],
)
def test_what_the_counts_do_not_give_is_named(
    plain: bytes, path: tuple[str | int, ...], to: Any, named: str | None
) -> None:
    changed = with_payload(plain, lambda tree: swap(tree, *path, to=to))
    if named is None:
        verify_bytes(changed, "it")
        return
    with pytest.raises(StatementError, match=named):
        verify_bytes(changed, "it")


def places(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    yield path
    if isinstance(tree, dict | list):
        for step, part in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from places(part, (*path, step))


def test_a_value_of_another_type_anywhere_gets_one_sentence(plain: bytes) -> None:
    members = archive.read(plain)
    payload = json.loads(b64decode(json.loads(members[statement.STATEMENT])["payload"]))
    others: list[Any] = [None, [], [[1]], {}, {"kind": "Unknown"}, "x", 1e308, True]
    sentences = []
    for number, path in enumerate(list(places(payload["predicate"]))[1::3]):
        change = partial(swap, to=others[number % len(others)])
        try:
            verify_bytes(with_payload(plain, lambda tree: change(tree, *path)), "it")  # noqa: B023
        except StatementError as error:  # any other error fails
            sentences.append(str(error))
    assert len(sentences) > 40
    assert not [one for one in sentences if "\n" in one]


def test_the_best_release_is_the_one_that_is_best() -> None:
    stated, models = made.predicate()
    evidence = {**stated.evidence, "best": stated.evidence["champion"]}
    worse = stated.model_copy(update={"evidence": evidence, "best": ("1", "2")})
    with pytest.raises(StatementError, match="version 1 is the best release, not 2"):
        verify_bytes(statement.write(worse, models), "it")


def test_a_check_that_is_stated_twice_is_named(plain: bytes) -> None:
    def twice(tree: dict[str, Any]) -> None:
        checks = tree["predicate"]["checks"]
        swap(tree, "checks", to=[checks[0] | {"outcome": "failed"}, *checks])

    with pytest.raises(StatementError, match="two of one name"):
        verify_bytes(with_payload(plain, twice), "it")


def test_a_failed_check_that_is_left_out_is_named(plain: bytes) -> None:
    def promote(tree: dict[str, Any]) -> None:
        swap(tree, "policy", "min_miou", to=0.9)
        checks = [one for one in tree["predicate"]["checks"] if one["name"] != "mIoU"]
        swap(tree, "checks", to=checks)

    with pytest.raises(StatementError, match=r"checks\.mIoU is not stated"):
        verify_bytes(with_payload(plain, promote), "it")


def test_changed_counts_are_named(plain: bytes) -> None:
    members = archive.read(plain)
    changed = members | {COUNTS: members[COUNTS].replace(b",80,", b",81,")}
    with pytest.raises(StatementError, match=f"counts of version 3 .counts/{OURS}"):
        verify_bytes(archive.write(changed), "it")
    # With the digest changed too, the figures no longer follow.
    digest = pairing.digest(pairing.from_bytes(changed[COUNTS]))
    forged = with_payload(
        archive.write(changed), lambda tree: swap(tree, "models", 0, "counts", to=digest)
    )
    with pytest.raises(StatementError, match=r"evidence\.best\.challenger_miou is 0\.70"):
        verify_bytes(forged, "it")


def test_members_too_many_and_too_few(plain: bytes) -> None:
    members = archive.read(plain)
    with pytest.raises(StatementError, match="holds other"):
        verify_bytes(archive.write(members | {"other": b""}), "it")
    for name in members:
        fewer = {one: content for one, content in members.items() if one != name}
        with pytest.raises(StatementError, match=f"lacks .*{name}"):
            verify_bytes(archive.write(fewer), "it")
    assert f"counts/{BEST}.csv" in members


def test_a_signed_statement_that_is_written_anew_does_not_fit_its_signature(
    signed: bytes, key: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = signing.public_key(public(key))
    changed = with_payload(signed, lambda tree: swap(tree, "by", to="somebody"))
    with pytest.raises(StatementError, match="signature fits not"):
        verify_bytes(changed, "it", given)
    members = archive.read(signed)
    envelope = json.loads(members[statement.STATEMENT])
    without = {**envelope, "signatures": []}
    unsigned = archive.write(members | {statement.STATEMENT: statement.to_bytes(without)})
    with pytest.raises(StatementError, match="not signed"):
        verify_bytes(unsigned, "it", given)
    assert verify_bytes(unsigned, "it").key is None
    # Somebody else's signature in its place.
    other = made.private_pem(ed25519.Ed25519PrivateKey.generate(), tmp_path / "other.pem")
    monkeypatch.setenv(signing.KEY, str(other))
    theirs = statement.write(*made.predicate(by="somebody"))
    assert not verify_bytes(theirs, "it").is_vouched
    with pytest.raises(StatementError, match="signed with the key"):
        verify_bytes(theirs, "it", given)
    fewer = {name: one for name, one in members.items() if name != statement.PUBLIC_KEY}
    for pem, words in (
        (b"", "is no public key"),
        (UNKNOWN_CURVE, "is no public key"),
        (archive.read(theirs)["key.pem"], "fits not"),
    ):
        with pytest.raises(StatementError, match=words):
            verify_bytes(archive.write(members | {statement.PUBLIC_KEY: pem}), "it")
    with pytest.raises(StatementError, match=r"lacks key\.pem"):
        verify_bytes(archive.write(fewer), "it")


# What is no statement.


def compressed() -> bytes:
    """A small file that unpacks to 100 MiB."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as bomb:
        bomb.writestr(statement.STATEMENT, bytes(100 * 2**20))
    return content.getvalue()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "no archive"),
        (b"{}", "no archive"),
        (b"PK\x05\x06" + bytes(18), r"lacks statement\.json"),
        (archive.write({"statement.json": b"[" * 200_000}), "nested too deeply|as segops writes"),
        (archive.write({"statement.json": b"{}"}), "no envelope"),
        (archive.write({"statement.json": b'{"payload":1}'}), "no envelope"),
        (archive.write({"statement.json": b"\xff"}), "as segops writes"),
    ],
)
def test_what_is_no_statement_gets_one_sentence(content: bytes, named: str) -> None:
    with pytest.raises(StatementError, match=named) as error:
        verify_bytes(content, "it")
    assert "\n" not in str(error.value)


def test_an_archive_that_would_unpack_is_not_unpacked() -> None:
    with pytest.raises(StatementError, match="compressed"):
        verify_bytes(compressed(), "it")


def test_too_large_a_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "LARGEST", 10)
    (tmp_path / "it.zip").write_bytes(bytes(100))
    with pytest.raises(StatementError, match="larger than"):
        verify(tmp_path / "it.zip")


@pytest.mark.parametrize("name", ["_type", "predicateType"])
def test_a_statement_of_another_format_is_named(plain: bytes, name: str) -> None:
    changed = with_payload(plain, lambda tree: tree.update({name: "https://slsa.dev/v9"}))
    with pytest.raises(StatementError, match="another format"):
        verify_bytes(changed, "it")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SegopsError, match="cannot be read: No such file"):
        verify(tmp_path / "none.zip")
    with pytest.raises(SegopsError, match="cannot be read: Is a directory"):
        verify(tmp_path)


# Keys.


def encrypted(path: Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    path.write_bytes(key.private_bytes(*form))


@pytest.mark.parametrize(
    ("put", "named"),
    [
        (lambda path: None, "cannot be read: No such file"),
        (lambda path: path.mkdir(), "cannot be read: Is a directory"),
        (lambda path: path.write_bytes(b"no key"), "no private key"),
        (lambda path: path.write_bytes(b"\xff" * 100), "no private key"),
        (encrypted, "is encrypted"),
        (lambda path: made.private_pem(ec.generate_private_key(ec.SECP256K1()), path), "no priv"),
        (lambda path: made.private_pem(dsa.generate_private_key(1024), path), "no private key"),
    ],
)
def test_a_key_that_is_none_gets_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, put: Callable[[Path], object], named: str
) -> None:
    path = tmp_path / "key.pem"
    put(path)
    monkeypatch.setenv(signing.KEY, str(path))
    with pytest.raises(SegopsError, match=named) as error:
        signing.signer()
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_a_private_key_is_no_public_one(key: Path, plain: bytes, tmp_path: Path) -> None:
    (tmp_path / "it.zip").write_bytes(plain)
    with pytest.raises(SegopsError, match="no public key"):
        verify(tmp_path / "it.zip", key)
    with pytest.raises(StatementError, match="not signed, and --key"):
        verify(tmp_path / "it.zip", public(key))

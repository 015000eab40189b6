"""Statements in the record, and audits: on a real MLflow, with made-up scores."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from mlflow.exceptions import MlflowException
from PIL import Image

from segops import files, paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.operate.reproduce import reproduce
from segops.predict.bundle import bundle_digest
from segops.record import runs
from segops.record.lineage import tag
from segops.record.update import record
from segops.release import promotion, signing, versions, vouched
from segops.release.audit import Audit, audit
from segops.release.ledger import ENTRY
from segops.release.rollback import adopt, rollback
from segops.release.verify import verify
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.voc.layout import Layout
from tests.support import registry_workspace as made
from tests.support.registry_workspace import challenge, lines, release
from tests.support.statements import private_pem

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("keys") / "key.pem"
    return private_pem(ed25519.Ed25519PrivateKey.generate(), place)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return made.make(tmp_path / "checkout")


def statements(root: Path) -> list[Path]:
    return sorted(root.glob("mlartifacts/*/artifacts/decisions/*.zip"), key=lambda one: one.name)


def waiting(root: Path) -> list[Path]:
    return list((root / ".segops/statements").rglob("*.zip"))


# Statements on their way.


def test_each_decision_has_a_statement_that_the_ledger_names(root: Path) -> None:
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.9)
    decided = [entry for entry in lines(root) if entry["kind"] == "decision"]
    assert [one.name for one in statements(root)] == ["0001.statement.zip", "0004.statement.zip"]
    for entry, path in zip(decided, statements(root), strict=True):
        stated = verify(path).stated
        place = stated.ledger
        assert (place.entry, place.previous) == (entry["sequence"], entry["previous"])
        assert entry["details"]["statement"] == hashlib.sha256(path.read_bytes()).hexdigest()
        assert {one.bundle_digest: one.counts for one in stated.models} == entry["details"][
            "counts"
        ]
        materials = {one.name: one.digest for one in stated.materials}
        assert materials["data"]["md5"] == "0123.dir"
        assert materials["code"] == {"gitCommit": made.git(root, "rev-parse", "HEAD").strip()}
    assert not waiting(root)
    # The same decision again writes nothing.
    challenge(root, seed=3, quality=0.2)
    promotion.gate(root)
    promotion.gate(root)
    assert len(statements(root)) == 3


def test_a_registry_that_refuses_the_upload_loses_no_decision(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put, refused = runs.put, []

    def refusing(store: Any, run_id: str, path: str, content: bytes) -> None:
        if path.endswith(".zip"):
            refused.append(path)
            raise MlflowException("the disk of the server is full")
        put(store, run_id, path, content)

    challenge(root, seed=1, quality=0.8)
    with monkeypatch.context() as patch:
        patch.setattr(runs, "put", refusing)
        decision = promotion.gate(root)
    assert decision.verdict == "promoted"
    assert "disk of the server is full" in caplog.text
    assert refused
    # Somebody puts another file in its place.
    with made.ledger_of(root) as ledger:
        put(ledger.store, decision.run_id, "decisions/0001.statement.zip", b"other")
    (kept,) = waiting(root)
    assert kept.stem == lines(root)[0]["details"]["statement"]
    # Two of no decision: of a process that was killed, and of one that may be about to decide.
    old, young = kept.with_name("old.zip"), kept.with_name("young.zip")
    old.touch()
    os.utime(old, (0, 0))
    young.touch()
    promotion.promote(root, decision)
    assert waiting(root) == [young]
    assert verify(statements(root)[0]).decision.verdict == "promoted"


def test_a_key_that_cannot_be_used_changes_nothing(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    challenge(root, seed=1, quality=0.8)
    before = made.snapshot(root)
    (tmp_path / "none.pem").write_text("no key")
    monkeypatch.setenv(signing.KEY, str(tmp_path / "none.pem"))
    with pytest.raises(SegopsError, match="no private key"):
        promotion.gate(root)
    assert made.snapshot(root) == before
    assert not lines(root)


# Audits.


def fill_cache(root: Path) -> None:
    """Put the data into DVC's cache, and into the files that name them."""

    def add(content: bytes, suffix: str = "") -> str:
        md5 = hashlib.md5(content).hexdigest()
        place = root / ".dvc/cache/files/md5" / md5[:2] / f"{md5[2:]}{suffix}"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)
        return f"{md5}{suffix}"

    data = root / "data/voc"
    listed = [
        {"md5": add(path.read_bytes()), "relpath": path.relative_to(data).as_posix()}
        for path in sorted(data.rglob("*"))
        if path.is_file()
    ]
    md5 = add(json.dumps(listed, sort_keys=True).encode(), ".dir")
    (root / "data/voc.dvc").write_text(yaml.safe_dump({"outs": [{"md5": md5, "path": "voc"}]}))
    stages = {"validate": {"deps": [{"path": "data/voc", "md5": md5}]}}
    (root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))


@pytest.fixture(scope="module")
def released(tmp_path_factory: pytest.TempPathFactory, key: Path) -> Iterator[Path]:
    """A champion of changed code, its statement signed."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        root = made.make(tmp_path_factory.mktemp("audited") / "checkout")
        (root / "src/code.py").write_text("CODE = 2\n")
        fill_cache(root)
        with patch.context() as signs:
            signs.setenv(signing.KEY, str(key))
            release(root, seed=1, quality=0.8)
        yield root


def outcomes(found: Audit) -> dict[str, str]:
    return {link.name: link.outcome for link in found.links}


def test_every_link_of_a_release_is_verified(released: Path, tmp_path: Path) -> None:
    before = made.snapshot(released)
    found = audit(released, "champion")
    assert set(outcomes(found).values()) == {"verified"}, found
    assert audit(released, "1") == found
    sentences = {link.name: link.sentence for link in found.links}
    assert "agrees on data/voc" in sentences["dvc.lock"]
    assert "a key that nobody vouches for" in sentences["statement"]
    public = ed25519.Ed25519PrivateKey.generate().public_key()
    other = tmp_path / "other.pem"
    other.write_bytes(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    assert audit(released, "1", other).names("broken") == ["statement"]
    assert made.snapshot(released) == before


@contextmanager
def flipped(pattern: str, root: Path) -> Iterator[None]:
    """Change a byte in the middle of the file that fits a pattern; put it back at the end."""
    path = sorted(root.glob(pattern))[-1]
    content = path.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    path.write_bytes(changed)
    try:
        yield
    finally:
        path.write_bytes(content)


@contextmanager
def other_tag(root: Path, name: str, version: bool = True, run: bool = False) -> Iterator[None]:
    """Change the first character of a tag of the version, of the run, or of both."""
    client = made.client(root)
    registered = client.get_model_version("segops", "1")
    old = registered.tags[tag(name)]
    new = ("1" if old[0] != "1" else "2") + old[1:]
    for value in (new, old):
        if version:
            client.set_model_version_tag("segops", "1", tag(name), value)
        if run:
            client.set_tag(registered.run_id, tag(name), value)
        if value == new:
            yield


@contextmanager
def set_tag(root: Path, name: str, value: str, version: bool = True) -> Iterator[None]:
    """Set a tag of the run, and of the version; put them back at the end."""
    client = made.client(root)
    registered = client.get_model_version("segops", "1")
    now = client.get_run(registered.run_id).data.tags.get(tag(name))
    for one in (value, now):
        if one is None:
            client.delete_tag(registered.run_id, tag(name))
        else:
            client.set_tag(registered.run_id, tag(name), one)
        if version:
            given = registered.tags[tag(name)] if one is now else value
            client.set_model_version_tag("segops", "1", tag(name), given)
        if one is value:
            yield


@contextmanager
def replaced(pattern: str, content: bytes, root: Path) -> Iterator[None]:
    """Put other content into the file that fits a pattern; put it back at the end."""
    (path,) = root.glob(pattern)
    before = path.read_bytes()
    path.write_bytes(content)
    yield
    path.write_bytes(before)


@contextmanager
def other_line(root: Path) -> Iterator[None]:
    client = made.client(root)
    line = client.get_model_version("segops-ledger", "1").tags[ENTRY]
    client.set_model_version_tag("segops-ledger", "1", ENTRY, line.replace("0.8", "0.9", 1))
    yield
    client.set_model_version_tag("segops-ledger", "1", ENTRY, line)


MODEL = "mlartifacts/models/*/artifacts/artifacts/segmenter/"
RUN = "mlartifacts/*/artifacts/"
LOST = dict.fromkeys(("counts", "decision", "statement", "approval"), "not to be had")
Change = Callable[[Path], Any]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda root: flipped(f"{MODEL}weights.safetensors", root), {"artifact", "weights"}),
        (lambda root: flipped(f"{MODEL}runtime/predictor.py", root), {"artifact"}),
        (lambda root: flipped(f"{RUN}lineage/code.patch", root), {"patch"}),
        (lambda root: flipped(f"{RUN}lineage/environment.txt", root), {"environment"}),
        (lambda root: flipped(f"{RUN}lineage/*/params.yaml", root), {"parameters"}),
        (lambda root: flipped(f"{RUN}lineage/*/dvc.lock", root), {"dvc.lock"}),
        (lambda root: flipped(f"{RUN}metrics/counts.parquet", root), {"counts"}),
        (lambda root: flipped(f"{RUN}decisions/0001.statement.zip", root), {"statement"}),
        (other_line, {"ledger"}),
        (lambda root: other_tag(root, "seed"), {"run"}),
        (lambda root: other_tag(root, "miou"), {"counts"}),
        (lambda root: other_tag(root, "weights_sha256", run=True), {"weights", "statement"}),
        (lambda root: other_tag(root, "params", run=True), {"parameters", "statement"}),
        (lambda root: other_tag(root, "code_commit", run=True), {"statement"}),
        (lambda root: other_tag(root, "data_hash", run=True), {"data", "statement"}),
        (lambda root: set_tag(root, "code_differs", "false"), {"patch", "statement"}),
        (lambda root: set_tag(root, "package_code_differs", "false"), {"patch", "statement"}),
        (lambda root: flipped(f"{RUN}lineage/*/code.patch", root), {"patch"}),
        (lambda root: flipped(f"{RUN}lineage/*/environment.txt", root), {"environment"}),
        (lambda root: set_tag(root, "code_commit", "HEAD"), {"code", "statement"}),
        (lambda root: set_tag(root, "miou", "high", version=True), {"counts"}),
        (lambda root: set_tag(root, "params_changed", "{", version=False), {"parameters"}),
        (
            lambda root: set_tag(root, "evaluation_sha256", "0" * 64, version=False),
            {"run", "parameters", "counts"},
        ),
        (lambda root: replaced(f"{RUN}lineage/*/data.dvc", b"{", root), {"data"}),
        (lambda root: replaced(f"{RUN}lineage/*/data.dvc", b"[1]", root), {"data"}),
    ],
)
def test_a_change_is_found_at_its_link(released: Path, change: Change, expected: set[str]) -> None:
    with change(released):
        found = audit(released, "1")
    assert set(found.names("broken")) == expected, found
    missing = set(found.names("not to be had"))
    if expected == {"ledger"}:
        assert missing == LOST.keys()
    else:
        assert missing <= {"code"}, "only the commit that is named instead is not here"


def test_with_a_key_an_absent_statement_is_broken(
    released: Path, key: Path, tmp_path: Path
) -> None:
    (statement,) = statements(released)
    statement.rename(tmp_path / "kept.zip")
    with made.ledger_of(released) as ledger:
        version = versions.get(ledger.store, "segops", "1")
        why = vouched.why_not(ledger, version)
    public = tmp_path / "public.pem"
    public.write_bytes(signing.public_pem(signing_key(key)))
    alone, given = audit(released, "1"), audit(released, "1", public)
    (tmp_path / "kept.zip").rename(statement)
    assert why == "its run lacks the statement decisions/0001.statement.zip"
    assert alone.names("not to be had") == given.names("broken") == ["statement"]
    assert not audit(released, "1", public).names("broken")


def signing_key(path: Path) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(signing.KEY, str(path))
        return signing.signer()


def test_swapped_files_of_an_adopted_version_are_found(root: Path) -> None:
    challenge(root, seed=1, quality=0.7)
    client = made.client(root)
    client.set_registered_model_alias("segops", "champion", "1")
    adopt(root, "1", "it was tested in the field")
    assert "artifact" in audit(root, "1").names("verified")
    (bundle,) = root.glob(MODEL)
    with (bundle / "runtime/predictor.py").open("a") as file:
        file.write("# other\n")
    client.set_model_version_tag("segops", "1", tag("bundle_digest"), bundle_digest(bundle))
    assert "artifact" in audit(root, "1").names("broken")
    with pytest.raises(SegopsError, match="the ledger released"):
        reproduce(root, "1", 0.01, print)


def test_data_that_are_elsewhere_are_looked_up_in_the_cache(released: Path) -> None:
    picture = "data/voc/JPEGImages/*.jpg"
    with flipped(picture, released):
        cached = {link.name: link for link in audit(released, "1").links}["data"]
        assert cached.outcome == "verified"
        assert "DVC's cache" in cached.sentence
        place = sorted((released / ".dvc/cache/files/md5").rglob("*"))[-1]
        content = place.read_bytes()
        place.write_bytes(content + b"x")
        assert audit(released, "1").names("broken") == ["data"]
        place.unlink()
        link = {link.name: link for link in audit(released, "1").links}["data"]
        place.write_bytes(content)
    assert link.outcome == "not to be had"
    assert "dvc pull" in link.sentence


def test_data_are_read_as_the_version_read_them(root: Path) -> None:
    """Photographs without JPEG suffix too; the parameters of now belong to other data."""
    layout = Layout(root / "data/voc")
    path = layout.image_path(layout.ids("train")[0])
    Image.open(path).save(path.with_suffix(".png"))
    path.unlink()
    shutil.rmtree(root / paths.PACKED)
    pack(layout, root / paths.PACKED, VOC_CLASSES)
    store = PackedStore(root / paths.PACKED)
    verdict = files.read_json(root / paths.VERDICT)
    hashes = {f"{split}_hash": store.split_hash(split) for split in ("train", "val")}
    files.write_json(root / paths.VERDICT, {**verdict, "data_hash": store.data_hash, **hashes})
    fill_cache(root)
    release(root, seed=1, quality=0.8)
    present = yaml.safe_load((root / "params.yaml").read_text())
    present["data"] = {**present.get("data", {}), "ignore": [99], "bands": ["Depth"]}
    (root / "params.yaml").write_text(yaml.safe_dump(present))
    here = {link.name: link for link in audit(root, "1").links}["data"]
    shutil.rmtree(root / "data/voc")
    cached = {link.name: link for link in audit(root, "1").links}["data"]
    assert (here.outcome, cached.outcome) == ("verified", "verified"), (here, cached)
    assert "DVC's cache" in cached.sentence


def test_a_version_of_before_and_a_withdrawn_one_are_audited(root: Path) -> None:
    challenge(root, seed=1, quality=0.7)
    assert audit(root, "challenger").names("not to be had") == [*LOST]
    promotion.promote(root, promotion.gate(root))
    release(root, seed=2, quality=0.9)
    rollback(root, "halos")
    found = {link.name: link for link in audit(root, "2").links}
    assert "Withdrawn by a rollback: halos" in found["decision"].sentence
    assert "0123.dir" in found["data"].sentence or found["data"].outcome == "verified"
    # New data, a new evaluation of the same bundle: the run holds that of now.
    made.use_data(root, seed=5)
    made.evaluate(root, 0.8)
    record(root)
    again = {link.name: link for link in audit(root, "2").links}
    assert again["counts"].outcome == "not to be had"
    assert again["statement"].outcome == "verified"
    assert not [one for one in again.values() if one.outcome == "broken"], again


@pytest.mark.parametrize(
    ("version", "named"), [("9", "no version 9"), ("best", "alias 'best'"), ("", "alias ''")]
)
def test_an_unknown_version_gets_one_sentence(released: Path, version: str, named: str) -> None:
    with pytest.raises(SegopsError, match=named):
        audit(released, version)


def test_a_model_without_versions_gets_one_sentence(root: Path) -> None:
    for version in ("1", "champion"):
        with pytest.raises(SegopsError, match="no version"):
            audit(root, version)
    assert not (root / paths.LEDGER).exists()

"""Lineage: every field is there, and its absence shows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from segops import files
from segops.params.gate import GateParams
from segops.record import lineage
from segops.record.lineage import LINEAGE_FIELDS, tag
from segops.record.reproduce import reproduce_command
from segops.release.evidence import Challenger, Evidence, NoRelease, Score, ValidationVerdict
from segops.release.gate import decide

TRAINING = {
    "weights_sha256": "a" * 64,
    "train_hash": "c" * 64,
    "device": "cpu",
    "precision": "bf16",
    "seed": 0,
}
EVALUATION = {"bundle_digest": "b" * 64, "data_hash": "d" * 64, "val_hash": "e" * 64}


def git(root: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=root, check=True, capture_output=True, text=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A workspace under git with one commit, as far as the lineage looks at it."""
    for name, content in {
        "src/segops/model.py": "LAYERS = 3\n",
        "flows/retrain.py": "",
        "dvc.yaml": "stages: {}\n",
        "pyproject.toml": "",
        "constraints.txt": "torch==2.15.0\n",
        "params.yaml": "train: {seed: 0}\n",
        "dvc.lock": "schema: '2.0'\n",
        "data/voc.dvc": "outs:\n- md5: 0123.dir\n  path: voc\n",
        ".gitignore": "*.log\n",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content, encoding="utf-8")
    git(tmp_path, "init", "-q", "-b", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "-q", "-m", "first")
    return tmp_path


def collect(root: Path) -> dict[str, str]:
    """All tags; `reproduce` names the run and is added where the run is known."""
    parts = (
        lineage.origin(root),
        lineage.outcome(TRAINING),
        lineage.data(root, "data/voc", EVALUATION),
    )
    return {
        **{name: value for part in parts for name, value in part.tags.items()},
        tag("reproduce"): reproduce_command("0" * 32, "1" * 64, "http://tracking"),
    }


@pytest.mark.parametrize("field", LINEAGE_FIELDS)
def test_each_field_is_collected_and_its_absence_rejects(field: str, checkout: Path) -> None:
    tags = collect(checkout)
    assert tags[tag(field)]
    assert lineage.missing(tags) == []
    del tags[tag(field)]
    assert lineage.missing(tags) == [field]
    decision = decide(
        Evidence(
            challenger=Challenger("segops", "1", "run", "new"),
            score=Score(0.9, {}, 9, 0, "new", "d", "v"),
            validation=ValidationVerdict(True, "d"),
            lineage_missing=lineage.gaps(tags),
            champion=NoRelease(),
            best=NoRelease(),
        ),
        GateParams(),
    )
    assert decision.verdict == "rejected"
    assert f"The lineage lacks {field} ({lineage.REMEDIES[field]}). Then" in decision.reason


def test_fields_with_one_remedy_are_told_together() -> None:
    told = lineage.gaps({tag("code_differs"): "true"})
    assert told[0].startswith("code_commit (`git init` where")
    assert told[-2].startswith("reproduce (`git init`")
    assert [
        one
        for one in told
        if one.startswith("bundle_digest, data_hash, val_hash (`dvc repro --force")
    ]
    assert set(lineage.REMEDIES) == {*LINEAGE_FIELDS, lineage.PATCH_FIELD}
    assert sum(len(one.partition(" (")[0].split(", ")) for one in told) == len(LINEAGE_FIELDS)


@pytest.mark.parametrize("field", LINEAGE_FIELDS)
def test_an_empty_field_is_a_missing_one(field: str, checkout: Path) -> None:
    assert lineage.missing({**collect(checkout), tag(field): ""}) == [field]


def test_the_values_are_the_true_ones(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SEGOPS_STARTED_BY", "prefect flow run 42")
    tags = collect(checkout)
    assert tags[tag("code_commit")] == git(checkout, "rev-parse", "HEAD").strip()
    assert tags[tag("code_differs")] == "false"
    assert tags[tag("data_md5")] == "0123.dir"
    assert tags[tag("dvc_lock")] == files.sha256_file(checkout / "dvc.lock")
    assert tags[tag("params")] == files.sha256_file(checkout / "params.yaml")
    assert tags[tag("started_by")] == "prefect flow run 42"
    assert tags[tag("python")] == ".".join(map(str, sys.version_info[:3]))
    import torch

    assert torch.__version__.startswith(tags[tag("torch")])
    assert f"torch=={tags[tag('torch')]}" in lineage.installed()
    assert tags[tag("environment")] == files.sha256_lines(list(lineage.installed()))


@pytest.mark.parametrize("path", ["params.yaml", "dvc.lock", "data/voc.dvc", "README.md"])
def test_changed_parameters_and_data_are_no_dirt(path: str, checkout: Path) -> None:
    (checkout / path).write_text("outs: [{md5: 1}]\n", encoding="utf-8")
    assert collect(checkout)[tag("code_differs")] == "false"


def change(root: Path) -> None:
    (root / "src/segops/model.py").write_text("LAYERS = 4\n", encoding="utf-8")


def add(root: Path) -> None:
    (root / "src/segops/new.py").write_text("NEW = 1\n", encoding="utf-8")


def stage(root: Path) -> None:
    change(root)
    git(root, "add", ".")


def remove(root: Path) -> None:
    (root / "constraints.txt").unlink()


def binary(root: Path) -> None:
    (root / "flows/picture.bin").write_bytes(bytes(range(256)))


@pytest.mark.parametrize("edit", [change, add, stage, remove, binary])
def test_code_that_differs_is_told_and_its_patch_gives_it_back(
    edit: object, checkout: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    assert callable(edit)
    edit(checkout)
    status = git(checkout, "status", "--porcelain")
    objects = sorted((checkout / ".git" / "objects").rglob("*"))
    found = lineage.origin(checkout)
    assert found.tags[tag("code_differs")] == "true"
    patch = found.artifacts["code.patch"]
    assert found.tags[tag("code_patch")] == files.sha256_bytes(patch)
    assert git(checkout, "status", "--porcelain") == status
    assert sorted((checkout / ".git" / "objects").rglob("*")) == objects

    clone = tmp_path_factory.mktemp("clone") / "clone"
    git(checkout, "clone", "-q", str(checkout), str(clone))
    (clone / "code.patch").write_bytes(patch)
    git(clone, "apply", "code.patch")
    for name in lineage.CODE:
        ours, theirs = checkout / name, clone / name
        assert ours.exists() == theirs.exists()
        if ours.exists():
            digest = files.sha256_tree if ours.is_dir() else files.sha256_file
            assert digest(ours) == digest(theirs)


def test_a_patch_is_asked_for_where_the_code_differs(checkout: Path) -> None:
    change(checkout)
    tags = collect(checkout)
    assert lineage.missing(tags) == []
    del tags[tag("code_patch")]
    assert lineage.missing(tags) == ["code_patch"]


def test_outside_git_and_before_the_first_commit_the_code_is_missing(tmp_path: Path) -> None:
    lacking = ["code_commit", "code_differs", "data_md5", "dvc_lock", "params"]
    assert lineage.missing(collect(tmp_path)) == lacking
    git(tmp_path, "init", "-q")
    assert lineage.missing(collect(tmp_path)) == lacking


def test_a_user_without_a_name_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def nameless() -> str:
        raise OSError("No username set in the environment")

    monkeypatch.delenv("SEGOPS_STARTED_BY", raising=False)
    monkeypatch.setattr("getpass.getuser", nameless)
    assert lineage.started_by().startswith("uid ")

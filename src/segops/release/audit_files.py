"""Links of an audit to what a version was made from: code, parameters, ``dvc.lock``, data."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from segops import files, paths
from segops.params import yaml_guard
from segops.params.data import DataParams
from segops.params.file import load_params, parse_params
from segops.predict.bundle import read_model
from segops.record.kept_lineage import COMMIT
from segops.record.lineage import PATCH_FIELD, tag
from segops.record.runs import LINEAGE_DIRECTORY, spelled
from segops.record.update import CHANGED_PARAMS
from segops.release.audit_case import Absent, Case, require_same
from segops.runtime.errors import SegopsError
from segops.voc.cached import linked, listed
from segops.voc.hashes import files_hash
from segops.voc.layout import SPLITS, Layout

RECORDED = (paths.TRAINING, paths.EVALUATION, paths.COUNTS)
"""Outputs of stages that the run holds too."""


def code(case: Case) -> str:
    """The commits of the code are in this repository."""
    commits = [case.stated("code_commit")]
    packaged = case.tags.get(tag("package_commit"))
    commits += [packaged] if packaged and packaged not in commits else []
    for commit in commits:
        if not COMMIT.fullmatch(commit):
            raise SegopsError(f"The recorded commit {commit[:40]!r} is none: expected its hash.")
        environment = {key: value for key, value in os.environ.items() if key[:4] != "GIT_"}
        found = subprocess.run(
            ["git", "cat-file", "-e", f"{commit}^{{commit}}"],
            cwd=case.root,
            env=environment,
            capture_output=True,
            check=False,
        )
        if found.returncode != 0:
            raise Absent(f"Commit {commit} is not in this repository: `git fetch` may bring it.")
    return f"This repository has the commit {' and '.join(commits)}."


def patch(case: Case) -> str:
    """The patches are there where the code differed from its commit, and nowhere else."""
    differed = case.stated("code_differs") == "true"
    content = case.held(f"{LINEAGE_DIRECTORY}/code.patch")
    digest = case.tags.get(tag(PATCH_FIELD))
    told = _patch("code", differed, digest, content)
    packaged = case.tags.get(tag("package_code_differs"))
    if packaged is None:
        return told
    content = case.packaging_file("code.patch")
    # An earlier segops recorded no digest of this patch; mostly it is that of the training.
    digest = case.tags.get(tag("package_code_patch")) or (digest if packaged == "true" else None)
    try:
        return f"{told} {_patch('packaging code', packaged == 'true', digest, content)}"
    except SegopsError:
        _require_latest(case)
        raise


def _patch(what: str, differed: bool, digest: str | None, content: bytes | None) -> str:
    """Compare a patch with the tags that say whether there is one, and its digest."""
    if not differed:
        if digest or content:
            raise SegopsError(
                f"The {what} is said to be that of its commit, and there is a patch of it."
            )
        return f"The {what} was that of its commit."
    if not content:
        raise Absent(f"The run holds no code.patch of the {what}.")
    require_same(f"SHA-256 of code.patch of the {what}", digest, files.sha256_bytes(content))
    return f"The {what} differed from its commit by the patch {digest}."


def _require_latest(case: Case) -> None:
    if not case.is_latest:
        raise Absent("The run was evaluated again since, and holds the packaging of that bundle.")


def environment(case: Case) -> str:
    """The list of installed libraries is the recorded one."""
    content = case.held(f"{LINEAGE_DIRECTORY}/environment.txt")
    if content is None:
        raise Absent(f"The run holds no {LINEAGE_DIRECTORY}/environment.txt.")
    found = files.sha256_bytes(content)
    require_same("SHA-256 of environment.txt", case.stated("environment"), found)
    told = f"environment.txt lists {len(content.splitlines())} libraries."
    packaged = case.tags.get(tag("package_environment"))
    if packaged is None:
        return told
    content = case.packaging_file("environment.txt")
    if content is None:
        raise Absent("The run holds no environment.txt of the packaging.")
    found = files.sha256_bytes(content)
    if found != packaged:
        _require_latest(case)
    require_same("SHA-256 of environment.txt of the packaging", packaged, found)
    return f"{told} That of the packaging lists {len(content.splitlines())}."


def parameters(case: Case) -> str:
    """The parameters' file is the recorded one, and says what the run's parameters say."""
    content = case.lineage_file("params.yaml", "params")
    with files.scratch() as scratch:
        path = scratch / "params.yaml"
        path.write_bytes(content)
        try:
            flat = spelled(load_params(path).flat())
        except SegopsError:
            return "params.yaml is the recorded one; this segops cannot read it."
    if not case.is_latest:
        return "params.yaml is the recorded one."
    logged = case.run.data.params
    changed = json.loads(case.run.data.tags.get(CHANGED_PARAMS, "{}"))
    compared = [name for name in flat if name in logged and name not in changed]
    for name in compared:
        require_same(f"Parameter {name} of params.yaml and run", flat[name], logged[name])
    return f"params.yaml is the recorded one; the run has the same {len(compared)} parameters."


def dvc_lock(case: Case) -> str:
    """``dvc.lock`` is the recorded one, and names the data, the bundle and the scores."""
    lock = yaml.safe_load(case.lineage_file("dvc.lock", "dvc_lock"))
    agreed = []
    for path, md5 in _locked(lock):
        found = _found(case, path)
        if found is not None:
            require_same(f"{path}: MD5 in dvc.lock", md5, found)
            agreed.append(path)
    names = ", ".join(dict.fromkeys(agreed))
    return f"dvc.lock is the recorded one; it {f'agrees on {names}' if names else 'names no file'}."


def _locked(lock: Any) -> Iterator[tuple[str, str]]:
    """Yield path and MD5 of the files and directories in a ``dvc.lock``."""
    stages = lock.get("stages") if isinstance(lock, dict) else None
    for stage in (stages or {}).values():
        for part in (*stage.get("deps", ()), *stage.get("outs", ())):
            if "md5" in part:
                yield part["path"], part["md5"]


def _found(case: Case, path: str) -> str | None:
    """Return the MD5 of what is recorded of an output; None where it is not recorded here."""
    if path == case.settings.data.path:
        return case.tags.get(tag("data_md5"))
    if path == paths.SEGMENTER.as_posix():
        return _directory_md5(case.bundle)
    if Path(path) in RECORDED and case.is_latest:
        content = case.held(path)
        return None if content is None else _md5(content)
    return None


def _directory_md5(directory: Path) -> str:
    """Return the MD5 that DVC gives a directory: that of the list of its files."""
    listed = [
        {"md5": _md5(path.read_bytes()), "relpath": path.relative_to(directory).as_posix()}
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    ]
    listed.sort(key=lambda one: one["relpath"])
    return _md5(json.dumps(listed, sort_keys=True).encode()) + ".dir"


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def data(case: Case) -> str:
    """The data in the workspace, else those in DVC's cache, have the recorded hash."""
    stated, md5 = case.stated("data_hash"), case.stated("data_md5")
    pointer = yaml.safe_load(case.lineage_file("data.dvc"))
    require_same("MD5 in data.dvc", md5, str((pointer.get("outs") or [{}])[0].get("md5")))
    names, params = read_model(case.bundle)["class_names"], _data_params(case)
    layout = Layout(case.root / params.path, params.reading)
    if layout.root.is_dir():
        try:
            if files_hash(layout, names) == stated:
                return f"{params.path} has the hash {stated}."
        except SegopsError:
            pass  # other data, which are no data set
    if _cached_hash(case, md5, names, params) != stated:
        raise SegopsError(f"The data of {md5} in DVC's cache have another hash than {stated}.")
    return f"The data of {md5} in DVC's cache have the hash {stated}."


def _data_params(case: Case) -> DataParams:
    """Return section `data` of the version's parameters: it says how its files were read.

    Return the present one where this segops cannot read those; link `parameters` tells of that.
    """
    try:
        content = case.lineage_file("params.yaml", "params")
        return parse_params(yaml_guard.load(content.decode()) or {}, "params.yaml").data
    except (SegopsError, ValueError, yaml.YAMLError):
        return case.settings.data


def _cached_hash(case: Case, md5: str, class_names: list[str], params: DataParams) -> str:
    """Return the hash of the data in DVC's cache.

    Raises:
        Absent: A part of them is not there.
        SegopsError: The list of the data is damaged.
    """
    cache = paths.state_home(case.root) / ".dvc/cache/files/md5"
    missing = Absent(
        f"{params.path} holds other data or none, and DVC's cache lacks those of "
        f"{md5}: `dvc pull` with data.dvc of the run's lineage brings them."
    )
    index = cache / md5[:2] / md5[2:]
    if not index.is_file():
        raise missing
    content = index.read_bytes()
    require_same(f"MD5 of {index}", md5, f"{_md5(content)}.dir")
    places = {name: cache / own[:2] / own[2:] for name, own in listed(content).items()}
    if not all(place.is_file() for place in places.values()):
        raise missing
    with linked(places) as directory:
        layout = Layout(directory, params.reading)
        if not all(layout.list_path(split).is_file() for split in SPLITS):
            raise missing
        return files_hash(layout, class_names)

"""Lineage: the code, data, parameters, software and machine that made a model."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from segops import files, paths
from segops.record import machine

PREFIX = "segops."
CODE = ("src", "flows", "dvc.yaml", "pyproject.toml", "constraints.txt")
"""Paths that count as code. Parameters and data are recorded whole, so their changes are not
uncommitted code."""
LIBRARIES: dict[str, str] = {
    "torch": "torch",
    "smp": "segmentation-models-pytorch",
    "timm": "timm",
    "albumentations": "albumentations",
    "mlflow": "mlflow",
    "dvc": "dvc",
    "prefect": "prefect",
}
"""Lineage field -> distribution whose version it holds."""

_ITSELF = "nothing: segops records it itself"
_COMMIT = "`git init` where there is no repository, then `git add -A` and `git commit`"
_TRAIN = "`dvc repro --force --single-item train`"
_EVALUATE = "`dvc repro --force --single-item evaluate`"

ORIGIN_FIELDS: dict[str, str] = {
    "code_commit": _COMMIT,
    "code_differs": _COMMIT,
    "environment": _ITSELF,
    "python": _ITSELF,
    **dict.fromkeys(LIBRARIES, "install constraints.txt's libraries (`make install`)"),
    "started_by": _ITSELF,
}
"""Code, software and person, known when training starts. In this and the following tables each
field has its remedy: what to do before `segops promote` records it."""
TRAINING_FIELDS: dict[str, str] = dict.fromkeys(
    ("weights_sha256", "train_hash", "device", "precision", "seed"), _TRAIN
)
"""Hashes and settings that are known when training has ended."""
DATA_FIELDS: dict[str, str] = {
    "bundle_digest": _EVALUATE,
    "data_hash": _EVALUATE,
    "val_hash": _EVALUATE,
    "data_md5": "`dvc add` the directory that data.path in params.yaml names",
    "dvc_lock": "`dvc repro`, which writes dvc.lock",
    "params": "put params.yaml back (`git restore params.yaml`)",
    "reproduce": (
        "`git init` and `git commit` where the code has no commit; else `dvc repro --force "
        "--single-item package` and `dvc repro`, since the bundle was made by other code than this "
        "checkout's"
    ),
}
"""The evaluated bundle, its data and parameters, and the command that reproduces it. A new
evaluation replaces these."""
PACKAGE_FIELDS: dict[str, str] = {
    "package_commit": "code_commit",
    "package_code_differs": "code_differs",
    "package_environment": "environment",
    "package_code_patch": "code_patch",
}
"""Origin of the evaluated bundle -> origin field of the training. They differ when the weights were
packaged again after the code changed."""
FIRST_PARAMS_FIELD = "trained_with"
"""SHA-256 of the ``params.yaml`` that was first recorded with the training."""
START_FIELD = "start_sha256"
"""SHA-256 of the weights that the training started from; a random start has none."""
TEACHER_FIELD = "teacher_digest"
"""Digest of the bundle whose predictions the training learned; most have no teacher."""
MADE_FROM_FIELDS = (START_FIELD, TEACHER_FIELD, "teacher_model", "unlabelled_hash")
"""The other models that a training was made from, with the teacher's address, and the hash of the
images without masks."""
MACHINE_FIELDS = ("cpu", "gpu", "driver")
"""The machine, where it is known; see :mod:`segops.record.machine`. No version needs them."""
PROJECT_FIELD = "project"
"""The project, relative to the checkout; that of the checkout itself has none."""
RESULT_FIELD = "result_commit"
"""The commit of a run's result, over that of its code. No version needs it."""
LINEAGE_FIELDS: tuple[str, ...] = (*ORIGIN_FIELDS, *TRAINING_FIELDS, *DATA_FIELDS)
"""The fields of a complete lineage; each is a tag under the prefix ``segops.``."""
PATCH_FIELD = "code_patch"
"""SHA-256 of the patch stored with the run; required where the code differed from its commit."""
REMEDIES: dict[str, str] = {
    **ORIGIN_FIELDS,
    **TRAINING_FIELDS,
    **DATA_FIELDS,
    PATCH_FIELD: (
        "commit the code, change train.seed and train again, since the code that trained is not "
        "known"
    ),
}


@dataclass(frozen=True)
class Lineage:
    """Lineage fields and the files that support them, to be stored with the run.

    Attributes:
        tags: Tag name (with its prefix) -> value. Unknown fields are left out.
        artifacts: File name -> content.
    """

    tags: dict[str, str]
    artifacts: dict[str, bytes] = field(default_factory=dict)


def tag(name: str) -> str:
    """Return the tag name of a lineage field."""
    return PREFIX + name


def missing(tags: Mapping[str, str]) -> list[str]:
    """Return the fields that are missing from the tags, names with prefix, of a run or version."""
    absent = [name for name in LINEAGE_FIELDS if not tags.get(tag(name))]
    if tags.get(tag("code_differs")) == "true" and not tags.get(tag(PATCH_FIELD)):
        absent.append(PATCH_FIELD)
    return absent


def gaps(tags: Mapping[str, str]) -> tuple[str, ...]:
    """Return the fields that are :func:`missing` with their remedy, one text per remedy."""
    absent = missing(tags)
    remedies = dict.fromkeys(REMEDIES[name] for name in absent)
    return tuple(
        f"{', '.join(name for name in absent if REMEDIES[name] == remedy)} ({remedy})"
        for remedy in remedies
    )


def origin(root: Path) -> Lineage:
    """Return code, software and person: the fields that are known before training ends.

    Outside git, or before the first commit, the code's fields are left out, and the gate reports
    them as missing.
    """
    environment = installed()
    tags = {
        "environment": files.sha256_lines(list(environment)),
        "python": platform.python_version(),
        "started_by": started_by(),
        **machine.parts(),
    }
    versions = dict(line.split("==", 1) for line in environment)
    for name, distribution in LIBRARIES.items():
        if distribution in versions:
            tags[name] = versions[distribution]
    artifacts = {"environment.txt": "".join(f"{line}\n" for line in environment).encode()}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    patch = None if commit is None else _patch(root)
    if commit is not None and patch is not None:
        tags["code_commit"] = commit.decode().strip()
        tags["code_differs"] = "true" if patch else "false"
        if patch:
            tags[PATCH_FIELD] = files.sha256_bytes(patch)
            artifacts["code.patch"] = patch
    return Lineage(_prefixed(tags), artifacts)


def packaging(root: Path) -> Lineage:
    """Return code and software of the evaluated bundle, as :func:`origin` returns them now."""
    now = origin(root)
    tags = {
        name: now.tags[tag(field)]
        for name, field in PACKAGE_FIELDS.items()
        if tag(field) in now.tags
    }
    return Lineage(_prefixed(tags), now.artifacts)


def outcome(training: Mapping[str, Any]) -> Lineage:
    """Return what ``metrics/training.json`` says: weights, teacher, device, seed."""
    known = {name: training.get(name) for name in (*TRAINING_FIELDS, *MADE_FROM_FIELDS)}
    return Lineage(
        _prefixed({name: str(value) for name, value in known.items() if value is not None})
    )


def data(root: Path, data_path: str, evaluation: Mapping[str, Any]) -> Lineage:
    """Return bundle, data, parameters and ``dvc.lock`` as they were at the evaluation.

    `data_path` is relative to `root`, and its ``.dvc`` file lies beside it; `evaluation` is the
    content of ``metrics/evaluation.json``.
    """
    names = ("bundle_digest", "data_hash", "val_hash")
    tags = {name: str(evaluation[name]) for name in names if name in evaluation}
    artifacts: dict[str, bytes] = {}
    sources = {
        "params": ("params.yaml", root / "params.yaml"),
        "dvc_lock": ("dvc.lock", root / "dvc.lock"),
        "data_md5": ("data.dvc", root / f"{data_path}.dvc"),
    }
    for name, (file_name, path) in sources.items():
        if path.is_file():
            artifacts[file_name] = path.read_bytes()
            tags[name] = files.sha256_bytes(artifacts[file_name])
    tags.pop("data_md5", None)
    if "data.dvc" in artifacts:
        outputs = (yaml.safe_load(artifacts["data.dvc"]) or {}).get("outs") or [{}]
        tags["data_md5"] = str(outputs[0].get("md5") or "")
    if project := project_of(root):
        tags[PROJECT_FIELD] = project
    return Lineage(_prefixed({name: value for name, value in tags.items() if value}), artifacts)


def project_of(root: Path) -> str:
    """Return the place of a project within its checkout; empty for the checkout itself."""
    place = root.resolve().relative_to(paths.checkout(root)).as_posix()
    return "" if place == "." else place


@cache
def installed() -> tuple[str, ...]:
    """Return every distribution as ``name==version``, sorted, with normalised names (PEP 503)."""
    versions = {
        re.sub(r"[-_.]+", "-", distribution.metadata["Name"]).lower(): distribution.version
        for distribution in metadata.distributions()
        if distribution.metadata["Name"]
    }
    return tuple(f"{name}=={version}" for name, version in sorted(versions.items()))


def started_by() -> str:
    """Return who or what started this process: ``SEGOPS_STARTED_BY``, else user and host."""
    given = os.environ.get("SEGOPS_STARTED_BY")
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _prefixed(tags: dict[str, str]) -> dict[str, str]:
    return {tag(name): value for name, value in tags.items()}


def _git(root: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> bytes | None:
    """Return git's output, or None where it fails: no repository, no commit, no git."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        return subprocess.run(
            ["git", *arguments],
            cwd=root,
            env={**environment, **(extra or {})},
            capture_output=True,
            check=True,
        ).stdout
    except (FileNotFoundError, subprocess.CalledProcessError):
        return None


def _patch(root: Path) -> bytes | None:
    """Return the code's difference from its commit, untracked files included.

    A temporary index and object store hold the new objects, so the repository is not changed.
    """
    top, project = paths.checkout(root), project_of(root)
    names = [*CODE, f"{project}/dvc.yaml"] if project else CODE
    objects = _git(top, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    if objects is None:
        return None
    with files.scratch() as scratch:
        extra = {
            "GIT_INDEX_FILE": str(scratch / "index"),
            "GIT_OBJECT_DIRECTORY": str(scratch / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects.decode().strip(),
        }
        (scratch / "objects").mkdir()
        commands = [["read-tree", "HEAD"]]
        for name in names:
            if (top / name).exists():
                commands.append(["add", "--all", "--", name])
            else:
                gone = f":(literal){name}"
                commands.append(["rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", gone])
        if any(_git(top, *command, extra=extra) is None for command in commands):
            return None
        return _git(top, "diff", "--cached", "--binary", "--no-ext-diff", "HEAD", extra=extra)

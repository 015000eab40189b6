"""Lineage: from a model to the code, data, parameters, software and machine that made it."""

from __future__ import annotations

import getpass
import os
import platform
import re
import socket
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import yaml

from segops import files

PREFIX = "segops."
CODE = ("src", "flows", "dvc.yaml", "pyproject.toml", "constraints.txt")
"""What counts as code. Parameters and data are recorded whole; a change of them is no dirt."""
LIBRARIES: dict[str, str] = {
    "torch": "torch",
    "smp": "segmentation-models-pytorch",
    "timm": "timm",
    "albumentations": "albumentations",
    "mlflow": "mlflow",
    "dvc": "dvc",
    "prefect": "prefect",
}
"""Field of the lineage -> distribution whose version it holds."""

ORIGIN_FIELDS: tuple[str, ...] = (
    "code_commit",
    "code_differs",
    "environment",
    "python",
    *LIBRARIES,
    "started_by",
)
"""Where and by whom it was made: known when training starts."""
TRAINING_FIELDS: tuple[str, ...] = ("weights_sha256", "train_hash")
"""Known when training has ended."""
RUN_FIELDS: tuple[str, ...] = ("device", "precision", "seed")
"""Known when training has ended; words, not hashes."""
DATA_FIELDS: tuple[str, ...] = (
    "bundle_digest",
    "data_hash",
    "val_hash",
    "data_md5",
    "dvc_lock",
    "params",
    "reproduce",
)
"""What was evaluated, on what and with what, and the command that makes it again; these move on
when it is evaluated anew."""
PACKAGE_FIELDS: dict[str, str] = {
    "package_commit": "code_commit",
    "package_code_differs": "code_differs",
    "package_environment": "environment",
}
"""Where the evaluated bundle was made, by the field of the origin that it repeats: a training that
is packaged again, as after a change of the predicting code, has another origin than its bundle."""
LINEAGE_FIELDS: tuple[str, ...] = (*ORIGIN_FIELDS, *TRAINING_FIELDS, *RUN_FIELDS, *DATA_FIELDS)
"""Every field that a complete lineage has; each is a tag under the prefix ``segops.``."""
PATCH_FIELD = "code_patch"
"""SHA-256 of the patch stored with the run; asked for where the code differed from its commit."""

_COMMIT = "`git init` where there is no repository, then `git add -A` and `git commit`"
_INSTALL = "install constraints.txt's libraries (`make install`)"
_TRAIN = "`dvc repro --force --single-item train`"
_EVALUATE = "`dvc repro --force --single-item evaluate`"
_PARAMS = "put params.yaml back (`git restore params.yaml`)"
_DATA = "`dvc add` the directory that data.path in params.yaml names"
_LOCK = "`dvc repro`, which writes dvc.lock"
_PATCH = (
    "commit the code, change train.seed and train anew, since the code that trained is not known"
)
_AGAIN = "nothing: segops writes it down itself"
_PACKAGE = (
    "`git init` and `git commit` where the code has no commit; else `dvc repro --force "
    "--single-item package` and `dvc repro`, since the bundle holds copies of other code than is "
    "here"
)
REMEDIES: dict[str, str] = {
    **dict.fromkeys(("code_commit", "code_differs"), _COMMIT),
    **dict.fromkeys(LIBRARIES, _INSTALL),
    **dict.fromkeys((*TRAINING_FIELDS, *RUN_FIELDS), _TRAIN),
    **dict.fromkeys(("bundle_digest", "data_hash", "val_hash"), _EVALUATE),
    **dict.fromkeys(("environment", "python", "started_by"), _AGAIN),
    "data_md5": _DATA,
    "dvc_lock": _LOCK,
    "params": _PARAMS,
    PATCH_FIELD: _PATCH,
    "reproduce": _PACKAGE,
}
"""What to do about a field that is missing, before `segops promote` writes it down."""


@dataclass(frozen=True)
class Lineage:
    """What is known of a model's making.

    Attributes:
        tags: Tag name (with its prefix) -> value. What could not be established is left out.
        artifacts: File name -> content, to be stored with the run.
    """

    tags: dict[str, str]
    artifacts: dict[str, bytes] = field(default_factory=dict)


def tag(name: str) -> str:
    """The tag of a field of the lineage."""
    return PREFIX + name


def missing(tags: Mapping[str, str]) -> list[str]:
    """Names of the fields that a run's or a version's tags lack.

    Args:
        tags: Tag name (with its prefix) -> value.
    """
    absent = [name for name in LINEAGE_FIELDS if not tags.get(tag(name))]
    if tags.get(tag("code_differs")) == "true" and not tags.get(tag(PATCH_FIELD)):
        absent.append(PATCH_FIELD)
    return absent


def gaps(tags: Mapping[str, str]) -> tuple[str, ...]:
    """What a run's or a version's tags lack, and what to do about it, one text for each remedy.

    Args:
        tags: Tag name (with its prefix) -> value.
    """
    absent = missing(tags)
    remedies = dict.fromkeys(REMEDIES[name] for name in absent)
    return tuple(
        f"{', '.join(name for name in absent if REMEDIES[name] == remedy)} ({remedy})"
        for remedy in remedies
    )


def origin(root: Path) -> Lineage:
    """Code, software and person: what is known before a training has ended.

    Args:
        root: The workspace. Outside git, or before the first commit, the code's fields are left
            out, and the gate will say so.
    """
    environment = installed()
    tags = {
        "environment": files.sha256_lines(list(environment)),
        "python": platform.python_version(),
        "started_by": started_by(),
    }
    versions = dict(line.split("==", 1) for line in environment)
    for name, distribution in LIBRARIES.items():
        if distribution in versions:
            tags[name] = versions[distribution]
    artifacts = {"environment.txt": "".join(f"{line}\n" for line in environment).encode()}
    commit = _git(root, "rev-parse", "--verify", "HEAD")
    if commit is not None:
        patch = _patch(root)
        if patch is not None:
            tags["code_commit"] = commit.decode().strip()
            tags["code_differs"] = "true" if patch else "false"
            if patch:
                tags[PATCH_FIELD] = files.sha256_bytes(patch)
                artifacts["code.patch"] = patch
    return Lineage(_prefixed(tags), artifacts)


def packaging(root: Path) -> Lineage:
    """Code and software of the evaluated bundle, as :func:`origin` finds them now.

    Args:
        root: The workspace.
    """
    found = origin(root)
    tags = {
        name: found.tags[tag(field)]
        for name, field in PACKAGE_FIELDS.items()
        if tag(field) in found.tags
    }
    return Lineage(_prefixed(tags), found.artifacts)


def outcome(training: Mapping[str, Any]) -> Lineage:
    """Weights, device, precision and seed, from what the train stage wrote.

    Args:
        training: The content of ``metrics/training.json``.
    """
    names = (*TRAINING_FIELDS, *RUN_FIELDS)
    return Lineage(
        _prefixed({name: str(training[name]) for name in names if training.get(name) is not None})
    )


def data(root: Path, data_path: str, evaluation: Mapping[str, Any]) -> Lineage:
    """Bundle, data, parameters and ``dvc.lock`` as they stood when the model was evaluated.

    Args:
        root: The workspace.
        data_path: The data directory, relative to `root`; its ``.dvc`` file lies beside it.
        evaluation: The content of ``metrics/evaluation.json``.
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
    return Lineage(_prefixed({name: value for name, value in tags.items() if value}), artifacts)


def collect(
    root: Path, data_path: str, training: Mapping[str, Any], evaluation: Mapping[str, Any]
) -> dict[str, str]:
    """All tags of the lineage that a workspace can tell, `reproduce` apart: it names the run.

    Args:
        root: The workspace.
        data_path: The data directory, relative to `root`.
        training: The content of ``metrics/training.json``.
        evaluation: The content of ``metrics/evaluation.json``.
    """
    parts = (origin(root), outcome(training), data(root, data_path, evaluation))
    return {name: value for part in parts for name, value in part.tags.items()}


@cache
def installed() -> tuple[str, ...]:
    """Every installed distribution as ``name==version``, names normalised (PEP 503), sorted."""
    found = {
        re.sub(r"[-_.]+", "-", one.metadata["Name"]).lower(): one.version
        for one in metadata.distributions()
        if one.metadata["Name"]
    }
    return tuple(f"{name}=={version}" for name, version in sorted(found.items()))


def started_by() -> str:
    """Who or what started this: ``SEGOPS_STARTED_BY``, else user and host."""
    given = os.environ.get("SEGOPS_STARTED_BY")
    if given:
        return given
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user need not have a name
        user = f"uid {os.getuid()}"
    return f"{user}@{socket.gethostname()}"


def _prefixed(tags: dict[str, str]) -> dict[str, str]:
    return {tag(name): value for name, value in tags.items()}


def _git(root: Path, *arguments: str, extra: Mapping[str, str] | None = None) -> bytes | None:
    """What git prints, or None where it refuses: no repository, no commit, no git."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            env={**environment, **(extra or {})},
            capture_output=True,
            check=False,
        )
    except FileNotFoundError:
        return None
    return done.stdout if done.returncode == 0 else None


def _patch(root: Path) -> bytes | None:
    """How the code differs from its commit, files that git does not know yet included.

    A temporary index and object store hold what is new, so that the repository is not touched.
    """
    objects = _git(root, "rev-parse", "--path-format=absolute", "--git-path", "objects")
    if objects is None:
        return None
    with tempfile.TemporaryDirectory() as scratch:
        extra = {
            "GIT_INDEX_FILE": str(Path(scratch) / "index"),
            "GIT_OBJECT_DIRECTORY": str(Path(scratch) / "objects"),
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": objects.decode().strip(),
        }
        (Path(scratch) / "objects").mkdir()
        present = [name for name in CODE if (root / name).exists()]
        if _git(root, "read-tree", "HEAD", extra=extra) is None:
            return None
        if present and _git(root, "add", "--all", "--", *present, extra=extra) is None:
            return None
        gone = [f":(literal){name}" for name in CODE if name not in present]
        if (
            gone
            and _git(
                root, "rm", "-r", "-q", "--cached", "--ignore-unmatch", "--", *gone, extra=extra
            )
            is None
        ):
            return None
        return _git(root, "diff", "--cached", "--binary", "--no-ext-diff", "HEAD", extra=extra)

"""The lineage of a registered version, fetched from its run and checked against its tags."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from segops import files, paths
from segops.params.base import Sections
from segops.params.data import DataParams
from segops.params.model import ModelParams
from segops.params.train import TrainParams
from segops.record import lineage
from segops.record.lineage import PATCH_FIELD, tag
from segops.record.reproduce import (
    TRAINED_WITH,
    bundle_directory,
    encoder_start,
    worktree_params,
)
from segops.record.runs import LINEAGE_DIRECTORY
from segops.record.tracking import Store
from segops.runtime.errors import SegopsError

NEEDED = {
    "code_commit", "weights_sha256", "bundle_digest", "data_md5", "params", "reproduce",
    PATCH_FIELD,
}  # fmt: skip
"""Fields without which a version cannot be made again."""
ENVIRONMENT = "environment.txt"
COMMIT = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


class _Recorded(Sections):
    data: DataParams = DataParams()
    model: ModelParams = ModelParams()
    train: TrainParams = TrainParams()


@dataclass(frozen=True)
class KeptLineage:
    """All that it takes to make a version again.

    Each file has the digest that a tag names. Without one are `data.dvc`, which is compared with
    the tag of the data, and :data:`TRAINED_WITH` of an earlier segops.

    Attributes:
        commit: The commit of the code that trained.
        packaged_at: The commit of the code that packaged, where that was other code.
        project: The project, relative to the checkout; empty: the checkout itself.
        data_path: The data directory, relative to the workspace.
        replaced: As :func:`segops.record.reproduce.worktree_params` returns them.
        encoder: As :func:`segops.record.reproduce.encoder_start` returns it.
        environment: The libraries that it was trained with, as ``name==version``; perhaps empty.
        training: The content of its ``metrics/training.json``; perhaps empty.
        artifacts: Path below ``lineage/`` -> content.
    """

    commit: str
    packaged_at: str | None
    project: str
    data_path: str
    replaced: Mapping[str, str]
    encoder: tuple[str, str] | None
    environment: tuple[str, ...]
    training: Mapping[str, Any]
    artifacts: Mapping[str, bytes]


def fetch(store: Store, name: str, run_id: str, tags: Mapping[str, str], home: Path) -> KeptLineage:
    """Fetch a version's lineage and check it.

    Args:
        store: The record.
        name: What people call the version, for messages.
        run_id: The version's run.
        tags: The version's tags.
        home: The main checkout, in which untracked encoder weights may lie.

    Raises:
        SegopsError: A field or file is missing, or a file is not the one that was recorded.
        MlflowException: MLflow does not answer.
    """
    absent = sorted(NEEDED & set(lineage.missing(tags)))
    if absent or not run_id:
        lacking = ", ".join(absent) or "its run"
        raise SegopsError(
            f"{name} cannot be made again: its lineage lacks {lacking}. Choose a version that has "
            "it; `segops promote` records it for new ones."
        )
    source = _Source(store, name, run_id)
    directory = bundle_directory(tags[tag("bundle_digest")])
    kept = {
        f"{directory}/{file_name}": source.checked(f"{directory}/{file_name}", tags.get(tag(field)))
        for file_name, field in (("params.yaml", "params"), ("dvc.lock", "dvc_lock"))
    }
    parameters = _parameters(name, kept[f"{directory}/params.yaml"])
    data_path = parameters.data.path
    kept[f"{directory}/data.dvc"] = source.read(f"{directory}/data.dvc")
    _require_pointer(name, kept[f"{directory}/data.dvc"], data_path, tags[tag("data_md5")])

    project = tags.get(tag(lineage.PROJECT_FIELD), "")
    if PurePosixPath(project).is_absolute() or ".." in PurePosixPath(project).parts:
        raise SegopsError(f"{name}: its tag project is no directory of a checkout: {project}.")

    commit, patch = tags[tag("code_commit")], None
    if tags.get(tag("code_differs")) == "true":
        patch = tags[tag(PATCH_FIELD)]
        kept["code.patch"] = source.checked("code.patch", patch)
    packaged_at, package_patch = _packaging(source, tags, directory, patch)
    if package_patch is not None:
        kept[f"{directory}/code.patch"] = package_patch
    other_code = (packaged_at, _digest(package_patch)) != (commit, patch)
    for one in (commit, packaged_at):
        if not COMMIT.fullmatch(one):
            raise SegopsError(f"{name}: its tag code_commit or package_commit is no commit: {one}.")
    first = tags.get(tag(lineage.FIRST_PARAMS_FIELD))
    if other_code and first is not None:
        kept[TRAINED_WITH] = source.checked(TRAINED_WITH, first)
    elif other_code and source.has(TRAINED_WITH):
        kept[TRAINED_WITH] = source.read(TRAINED_WITH)

    training = source.training(tags[tag("weights_sha256")])
    named = {name: training.get(name) for name in ("start_model", "teacher_model")}
    known = {
        "precision": tags.get(tag("precision")),
        lineage.START_FIELD: tags.get(tag(lineage.START_FIELD)),
        **named,
    }
    return KeptLineage(
        commit=commit,
        packaged_at=packaged_at if other_code else None,
        project=project,
        data_path=data_path,
        replaced=worktree_params(home / project, parameters.model, parameters.train, known),
        encoder=encoder_start(home / project, parameters.model, known),
        environment=source.environment(tags.get(tag("environment"))),
        training=training,
        artifacts=kept,
    )


class _Source:
    """The files of a run's lineage."""

    def __init__(self, store: Store, name: str, run_id: str) -> None:
        self.store, self.name, self.run_id = store, name, run_id
        self.listed: dict[str, set[str]] = {}

    def has(self, path: str, root: str = LINEAGE_DIRECTORY) -> bool:
        """Whether the run has a file, given relative to `root`."""
        whole = f"{root}/{path}"
        parent = str(PurePosixPath(whole).parent)
        if parent not in self.listed:
            found = self.store.client.list_artifacts(self.run_id, parent)
            self.listed[parent] = {file.path for file in found if not file.is_dir}
        return whole in self.listed[parent]

    def read(self, path: str, root: str = LINEAGE_DIRECTORY) -> bytes:
        """Return a file's content.

        Raises:
            SegopsError: The run has no such file.
        """
        if not self.has(path, root):
            raise SegopsError(
                f"{self.name}: its run {self.run_id} lacks {root}/{path}. Restore the run's files "
                "from a backup, or choose another version."
            )
        with files.scratch() as scratch:
            local = self.store.client.download_artifacts(
                self.run_id, f"{root}/{path}", str(scratch)
            )
            return Path(local).read_bytes()

    def checked(self, path: str, expected: str | None) -> bytes:
        """Return the content of a file of the lineage that has the expected SHA-256.

        Raises:
            SegopsError: The run has no such file, or it has another digest.
        """
        content = self.read(path)
        actual = files.sha256_bytes(content)
        if actual != expected:
            raise SegopsError(
                f"{self.name}: {LINEAGE_DIRECTORY}/{path} of its run has the digest {actual[:12]}; "
                f"{(expected or '(none)')[:12]} was recorded. The file was changed, so it is not "
                "used. Restore it from a backup, or choose another version."
            )
        return content

    def environment(self, expected: str | None) -> tuple[str, ...]:
        """Return the training's libraries; empty where the list is missing or was changed."""
        if not self.has(ENVIRONMENT):
            return ()
        content = self.read(ENVIRONMENT)
        return tuple(content.decode().split()) if _digest(content) == expected else ()

    def training(self, weights: str) -> dict[str, Any]:
        """Return ``metrics/training.json``; empty where it is missing or of other weights."""
        place = str(paths.TRAINING.parent)
        if not self.has(paths.TRAINING.name, place):
            return {}
        try:
            tree = yaml.safe_load(self.read(paths.TRAINING.name, place))
        except yaml.YAMLError:
            return {}
        is_ours = isinstance(tree, dict) and tree.get("weights_sha256") == weights
        return tree if is_ours else {}


def _digest(content: bytes | None) -> str | None:
    return None if content is None else files.sha256_bytes(content)


def _parameters(name: str, content: bytes) -> _Recorded:
    with files.scratch() as scratch:
        path = scratch / "params.yaml"
        path.write_bytes(content)
        try:
            return _Recorded.read(path)
        except SegopsError as error:
            raise SegopsError(
                f"{name}: this segops cannot read its parameters, "
                f"{str(error).replace(f'{scratch}/', '')} The command in its tag "
                f"{tag('reproduce')} makes it again without reading them."
            ) from None


def _require_pointer(name: str, content: bytes, data_path: str, md5: str) -> None:
    """Require that a ``.dvc`` file names the recorded data, at their place, and runs nothing."""
    place = PurePosixPath(data_path)
    try:
        tree = yaml.safe_load(content)
        (output,) = tree["outs"]
        is_ours = output["path"] == place.name and str(output["md5"]) == md5
        is_ours = is_ours and not {"cmd", "deps", "params"} & set(tree)
    except (KeyError, TypeError, ValueError, yaml.YAMLError):
        is_ours = False
    if not is_ours or place.is_absolute() or ".." in place.parts:
        raise SegopsError(
            f"{name}: data.dvc of its lineage does not name the data {md5} at {data_path}. The "
            "file was changed, so it is not used. Restore it from a backup, or choose another "
            "version."
        )


def _packaging(
    source: _Source, tags: Mapping[str, str], directory: str, trained: str | None
) -> tuple[str, bytes | None]:
    """Return the commit of the code that packaged, and its patch where the code differed from it.

    `trained` is the digest of the patch of the code that trained. A version of an earlier segops
    has no digest of the patch of its packaging; mostly it is the same.
    """
    commit = tags.get(tag("package_commit")) or tags[tag("code_commit")]
    if tags.get(tag("package_code_differs"), "false") != "true":
        return commit, None
    expected = tags.get(tag("package_code_patch")) or trained
    return commit, source.checked(f"{directory}/code.patch", expected)

"""The data set as a commit has it, out of DVC's cache; nothing in the checkout changes."""

from __future__ import annotations

import logging
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from segops.operate.worktree import GitError, commit_of, git
from segops.params import yaml_guard
from segops.params.data import DataParams
from segops.params.file import parse_params
from segops.pipeline import cache
from segops.runtime.errors import SegopsError
from segops.voc.cached import MD5, linked, listed

log = logging.getLogger("segops")


@dataclass(frozen=True)
class DataVersion:
    """A data set of a commit.

    Attributes:
        commit: The commit, 40 hexadecimal digits.
        params: Section `data` of the parameters that it is read with.
        directory: Its files, in VOC layout.
    """

    commit: str
    params: DataParams
    directory: Path


@contextmanager
def opened(root: Path, revision: str, present: DataParams) -> Iterator[DataVersion]:
    """Open the data of a commit in a temporary directory of links into DVC's cache.

    Args:
        root: The workspace.
        revision: A commit, as git takes it.
        present: Section `data` of the present parameters; those of the commit count where this
            segops can read them.

    Raises:
        SegopsError: There is no such commit, it has no data, or DVC's cache lacks some of them.
    """
    commit = commit_of(root, revision)
    params = _params(root, revision, commit, present)
    held = _files(root, Path(params.path), revision, commit)
    with linked(held) as directory:
        yield DataVersion(commit, params, directory)


def tracked_md5(root: Path, revision: str, present: DataParams) -> tuple[str, str]:
    """Return a commit, and the MD5 that DVC gives its data; the data need not be here.

    Args:
        root: The workspace.
        revision: A commit, as git takes it.
        present: Section `data` of the present parameters, as for :func:`opened`.

    Raises:
        SegopsError: There is no such commit, or it has no data.
    """
    commit = commit_of(root, revision)
    data = Path(_params(root, revision, commit, present).path)
    return commit, _tracked(root, data, revision, commit)[0]


def _params(root: Path, revision: str, commit: str, present: DataParams) -> DataParams:
    """Return section `data` of the commit's parameters, else of the present ones."""
    try:
        found = git(root, "show", f"{commit}:./params.yaml")
    except GitError:
        return present
    try:
        tree = yaml_guard.load(found) or {}
        return parse_params(tree, f"params.yaml of {revision}").data
    except (SegopsError, ValueError, yaml.YAMLError) as error:
        log.warning(
            "The data of %s are read with section data of the present params.yaml: %s",
            revision,
            error,
        )
        return present


def _tracked(root: Path, data: Path, revision: str, commit: str) -> tuple[str, bool]:
    """Return the MD5 of the data directory, and whether its file is of DVC before 3.0."""
    pointer = data.with_name(f"{data.name}.dvc").as_posix()
    try:
        found = git(root, "show", f"{commit}:./{pointer}")
    except GitError:
        raise SegopsError(
            f"{pointer}: not in {revision}: that commit has no data that DVC tracks. "
            f"`git log --oneline -- {pointer}` lists the commits that have."
        ) from None
    damaged = SegopsError(
        f"{pointer} of {revision}: expected a file of DVC that names a directory. Choose another "
        "commit."
    )
    try:
        output = yaml_guard.load(found)["outs"][0]
        digest = str(output["md5"])
    except (ValueError, yaml.YAMLError, LookupError, TypeError):
        raise damaged from None
    if not re.fullmatch(rf"{MD5}\.dir", digest):
        raise damaged
    return digest, "hash" not in output


def _files(root: Path, data: Path, revision: str, commit: str) -> dict[str, Path]:
    """Return the files of the data directory in DVC's cache, by their path below it."""
    digest, is_legacy = _tracked(root, data, revision, commit)
    return cached_data(root, data, digest, f"of {revision}", is_legacy=is_legacy)


def cached_data(
    root: Path, data: Path, digest: str, whose: str, *, is_legacy: bool = False
) -> dict[str, Path]:
    """Return the files of a data directory in DVC's cache, by their path below it.

    Args:
        root: The workspace.
        data: The data directory, relative to the workspace.
        digest: DVC's MD5 of its content, which ends with ``.dir``.
        whose: Whose data they are, for messages: "of version 3".
        is_legacy: Whether DVC before 3.0 tracked them.

    Raises:
        SegopsError: DVC's cache lacks some of them.
    """
    cached = cache.cache_of(root, is_legacy=is_legacy)
    pointer = data.with_name(f"{data.name}.dvc").as_posix()
    fetch = (
        f"`dvc fetch --all-commits {shlex.quote(pointer)}` gets it from the remote, where one has "
        "it; then run this again."
    )
    try:
        entries = listed(cached(digest).read_bytes())
    except FileNotFoundError:
        raise SegopsError(f"{data} {whose}: DVC's cache does not hold it. {fetch}") from None
    except (ValueError, LookupError, TypeError):
        raise SegopsError(f"{cached(digest)}: damaged. Delete it; {fetch}") from None
    held = {name: cached(md5) for name, md5 in entries.items()}
    missing = sum(not path.is_file() for path in held.values())
    if missing:
        raise SegopsError(
            f"{data} {whose}: DVC's cache lacks {missing} of its {len(held)} files. {fetch}"
        )
    return held

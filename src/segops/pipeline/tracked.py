"""Tracks the data with DVC, and makes them agree with what is tracked."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Callable
from pathlib import Path

import yaml

from segops import files
from segops.pipeline import is_unchanged, opened, run_dvc
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")


def sync_data(root: Path, data: Path, on_line: Callable[[str], None]) -> None:
    """Make the data directory, relative to `root`, and its ``.dvc`` file agree without losing data.

    Missing data are pulled. If the ``.dvc`` file changed (as by `git pull`), its data are checked
    out. Content that is not in DVC's cache is new data and is tracked. `on_line` is called with
    every line that DVC prints.

    Raises:
        SegopsError: The data are neither in the workspace nor in a remote.
    """
    require_no_link(root, data)
    pointer = _pointer(data)
    if not (root / pointer).is_file():
        if not (root / data).is_dir():
            raise SegopsError(
                f"{data}: no such directory. `segops data use PATH` puts a data set there, "
                "`segops data fetch voc2012` gets PASCAL VOC, "
                "or set data.path in params.yaml to where it lies."
            )
        track_data(root, data, on_line)
        return
    if is_unchanged(root, str(pointer)):
        return
    status, lines = run_dvc(root, ["checkout", str(pointer)], log.debug)
    if status != 0 and not _unsaved(lines):
        status, lines = run_dvc(root, ["pull", str(pointer)], on_line)
    if status == 0:
        return
    if not _unsaved(lines):
        raise SegopsError(
            f"{data}: no such directory, and no remote provides it: {lines[-1].strip()}. "
            "`segops data use PATH` or `segops data fetch voc2012` puts data there."
        )
    on_line(f"{data} holds new content: it is tracked with DVC.")
    track_data(root, data, on_line)


def require_no_link(root: Path, data: Path) -> None:
    """Refuse a data directory that is a link, or lies behind one.

    Raises:
        SegopsError: It is, and DVC would refuse to track it.
    """
    for path in (data, *data.parents):
        if (root / path).is_symlink():
            raise SegopsError(
                f"{path}: a link to {(root / path).readlink()}; DVC tracks no directory behind a "
                "link. Remove the link; `segops data use PATH` then copies the files to "
                f"{data}, where the file system can without taking their space again."
            )


def require_tracked(root: Path, data: Path) -> None:
    """Raise if the data directory has content that DVC does not track and that would be lost.

    Raises:
        SegopsError: It holds content that DVC does not track, or git does.
    """
    pointer = _pointer(data)
    with opened(root) as repository:
        in_git = repository.scm.is_tracked(str(root / data))
    if in_git:
        raise SegopsError(
            f"{data}: git tracks files in it, so DVC cannot track it. Set data.path in params.yaml "
            "to a directory of its own, such as data/voc."
        )
    if not (root / data).exists():
        return
    if not (root / pointer).is_file() or not is_unchanged(root, str(pointer)):
        raise SegopsError(
            f"{data}: holds content that DVC does not track and that would be lost. "
            f"`dvc add {shlex.quote(str(data))}` tracks it; or move it away."
        )


def track_data(root: Path, data: Path, on_line: Callable[[str], None]) -> str:
    """Track the data directory with DVC, and return the MD5 that DVC gives it.

    The shipped sample comes from a remote inside the repository. Other data must never be pushed
    there, so the remote's name is removed from the ``.dvc`` file.

    Raises:
        SegopsError: DVC refuses.
    """
    pointer = root / _pointer(data)
    if pointer.is_file():
        tree = yaml.safe_load(pointer.read_text(encoding="utf-8"))
        for output in tree["outs"]:
            output.pop("remote", None)
            output.pop("push", None)
        pointer.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    files.require_files(root / data)
    status, lines = run_dvc(root, ["add", str(data)], on_line)
    if status != 0:
        raise SegopsError(f"{data}: DVC cannot track it: {lines[-1].strip()}")
    tracked: str = yaml.safe_load(pointer.read_text(encoding="utf-8"))["outs"][0]["md5"]
    return tracked


def directory_md5(root: Path, directory: Path) -> str:
    """Return the MD5 that DVC would give a directory; nothing is tracked.

    Raises:
        SegopsError: It holds what is no file, or is not readable.
    """
    from dvc.fs import localfs
    from dvc_data.hashfile.build import build

    files.require_files(directory)
    with opened(root) as repository:
        _, _, tree = build(
            repository.cache.local,
            str(directory.resolve()),
            localfs,
            "md5",
            dry_run=True,
            ignore=repository.dvcignore,
        )
        return str(tree.hash_info.value)


def _pointer(data: Path) -> Path:
    return data.with_name(f"{data.name}.dvc")


def _unsaved(lines: list[str]) -> bool:
    """Whether DVC refused because the directory has content that is not in its cache."""
    return any("unsaved files" in line for line in lines)

"""Git for runs of their own: revisions, worktrees, commits and refs.

No hook of the repository runs, and its index, its files and its branches stay as they are.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from segops import files
from segops.runtime.errors import SegopsError

REMOVE_SECONDS, PAUSE_SECONDS = 10.0, 0.1
"""How long, and how often, files are removed again that an ended process still wrote."""
PLACES = (
    "GIT_DIR", "GIT_WORK_TREE", "GIT_COMMON_DIR", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE", "GIT_PREFIX",
)  # fmt: skip
"""Variables that a hook of git has, and that would name another repository than the directory's."""
NOBODY = {
    f"GIT_{role}_{part}": value
    for role in ("AUTHOR", "COMMITTER")
    for part, value in (("NAME", "segops"), ("EMAIL", "segops@localhost"))
}
"""Identity of commits where the user has set none."""
NEW = "0" * 40
log = logging.getLogger("segops")


class GitError(SegopsError):
    """Git refuses."""


def git(
    root: Path,
    *arguments: str,
    content: bytes | None = None,
    extra: Mapping[str, str] | None = None,
    timeout: float | None = None,
) -> str:
    """Run git without the repository's hooks, and return what it prints, stripped.

    Args:
        root: The directory to run it in.
        arguments: Its arguments.
        content: Its standard input.
        extra: Environment variables.
        timeout: Seconds that it may take.

    Raises:
        GitError: It fails, takes longer, or is not installed.
    """
    environment = {name: value for name, value in os.environ.items() if name not in PLACES}
    command = ["git", "-c", f"core.hooksPath={os.devnull}", *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=root,
            env={**environment, "GIT_TERMINAL_PROMPT": "0", **(extra or {})},
            input=content or b"",
            capture_output=True,
            check=False,
            timeout=timeout,
        )
    except subprocess.TimeoutExpired:
        raise GitError(f"{root}: git {arguments[0]}: no end within {timeout:.0f} s") from None
    except FileNotFoundError:
        raise GitError("git: no such command. Install git.") from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines()
        raise GitError(f"{root}: git {arguments[0]}: {said[-1] if said else done.returncode}")
    return done.stdout.decode(errors="surrogateescape").strip()


def commit_of(root: Path, revision: str) -> str:
    """Return the commit, 40 hexadecimal digits, of a revision as git takes it.

    Raises:
        SegopsError: `root` is in no repository, or git knows no such commit.
    """
    try:
        return git(root, "rev-parse", "--verify", "--end-of-options", f"{revision}^{{commit}}")
    except GitError as error:
        if "not a git repository" in str(error):
            raise SegopsError(
                f"{root}: not a git repository, which earlier data and a run in a worktree need: "
                "`git init`."
            ) from None
        raise SegopsError(
            f"{revision}: git knows no such commit, tag or branch. `git log --oneline` lists the "
            "commits."
        ) from None


def head(root: Path) -> str | None:
    """Return the commit of a checkout; None outside git and before the first commit."""
    try:
        return commit_of(root, "HEAD")
    except SegopsError:
        return None


def has(root: Path, commit: str, path: str) -> bool:
    """Whether a commit holds a path, relative to `root`."""
    try:
        git(root, "cat-file", "-e", f"{commit}:./{path}")
    except GitError:
        return False
    return True


def has_commit(root: Path, commit: str) -> bool:
    """Whether the repository holds a commit, by its full name."""
    try:
        git(root, "cat-file", "-e", "--end-of-options", f"{commit}^{{commit}}")
    except GitError:
        return False
    return True


def top(root: Path) -> Path:
    """Return the root of the checkout that a directory lies in."""
    return Path(git(root, "rev-parse", "--path-format=absolute", "--show-toplevel"))


def place(root: Path) -> Path:
    """Return where a directory lies within its checkout, relative to it."""
    return Path(git(root, "rev-parse", "--show-prefix"))


def uncommitted(root: Path, *names: str) -> list[str]:
    """Return those of the paths, relative to `root`, that hold changes or untracked files."""
    lines = git(root, "status", "--porcelain", "--no-renames", "--", *names).splitlines()
    changed = [line[2:].strip().strip('"') for line in lines]
    changed = [one.removeprefix(f"{place(root).as_posix()}/") for one in changed]
    return [name for name in names if any(f"{one}/".startswith(f"{name}/") for one in changed)]


def add(home: Path, tree: Path, commit: str) -> None:
    """Make a worktree of the repository `home` at a commit, with no branch.

    Raises:
        GitError: Git refuses.
    """
    git(home, "worktree", "add", "--quiet", "--force", "--detach", str(tree), commit)


def others(home: Path) -> list[Path]:
    """Return the other git worktrees of a main checkout that are workspaces."""
    return [one for one in every(home) if one != home and (one / "dvc.yaml").is_file()]


def workspaces(home: Path) -> list[Path]:
    """Return the main checkout, its worktrees, and the projects in each that git knows."""
    tops = [home, *others(home)]
    found = dict.fromkeys(tops)
    for top in tops if head(home) is not None else ():
        known = ("ls-files", "-z", "--cached", "--others", "--exclude-standard", "--", "*dvc.yaml")
        for name in filter(None, git(top, *known).split("\0")):
            path = top / name
            if path.name == "dvc.yaml" and path.with_name("params.yaml").is_file():
                found[path.parent] = None
    return list(found)


def remove(home: Path, folder: Path) -> None:
    """Remove a folder with its worktree from the repository `home`.

    Other worktrees stay known, also those on a disk that is away.

    Raises:
        SegopsError: Something in it cannot be removed.
    """
    own = [tree for tree in every(home) if tree.is_relative_to(folder.resolve())]
    end = time.monotonic() + REMOVE_SECONDS
    while folder.exists():
        # A stage that was ended may write its last file while the folder is being removed.
        is_last = time.monotonic() >= end
        try:
            shutil.rmtree(folder, ignore_errors=not is_last)
        except OSError as error:
            raise SegopsError(
                f"{error.filename}: cannot be removed: {error.strerror}. Remove {folder} yourself."
            ) from error
        if folder.exists():
            time.sleep(PAUSE_SECONDS)
    for tree in own:
        git(home, "worktree", "remove", "--force", "--force", str(tree))


def put_away(home: Path, folder: Path) -> None:
    """Remove as :func:`remove` does; what hinders is a warning."""
    try:
        remove(home, folder)
    except SegopsError as error:
        log.warning("%s", error)


def every(home: Path) -> list[Path]:
    """Return the worktrees of a repository, the main one first; none outside of a repository."""
    start = "worktree "
    try:
        lines = git(home, "worktree", "list", "--porcelain", "-z").split("\0")
    except GitError:
        return []
    return [Path(one.removeprefix(start)) for one in lines if one.startswith(start)]


def has_ref(root: Path, ref: str) -> bool:
    """Whether the repository has a ref, by its full name."""
    return bool(git(root, "for-each-ref", "--format=%(refname)", ref))


def set_ref(root: Path, ref: str, commit: str) -> bool:
    """Create a ref; return whether it names the commit. One that exists is never moved.

    Raises:
        GitError: The name is not one that git takes.
    """
    try:
        git(root, "update-ref", ref, commit, NEW)
    except GitError:
        if not has_ref(root, ref):
            raise
    return git(root, "rev-parse", "--verify", f"{ref}^{{commit}}") == commit


def remove_ref(root: Path, ref: str, commit: str) -> None:
    """Remove a ref, by its full name, that names a commit.

    Raises:
        GitError: It names another commit now.
    """
    git(root, "update-ref", "-d", ref, commit)


def commit_files(root: Path, parent: str, held: Mapping[str, Path], message: str) -> str:
    """Commit files over a parent commit, and return the new commit; no ref names it yet.

    Args:
        root: A directory of the repository.
        parent: The parent commit; its other files stay.
        held: Path within the commit, relative to `root` -> file with the content.
        message: The message.

    Raises:
        GitError: Git refuses.
    """
    below = place(root)
    with files.scratch() as scratch:
        index = {"GIT_INDEX_FILE": str(scratch / "index")}
        git(root, "read-tree", parent, extra=index)
        entries = []
        for name, path in held.items():
            blob = git(root, "hash-object", "-w", f"--path={name}", "--", str(path))
            entries.append(f"100644 {blob}\t{(below / name).as_posix()}\0")
        git(root, "update-index", "--add", "-z", "--index-info",
            content="".join(entries).encode(), extra=index)  # fmt: skip
        tree = git(root, "write-tree", extra=index)
    return git(
        root, "commit-tree", tree, "-p", parent, content=message.encode(), extra=_identity(root)
    )


def _identity(root: Path) -> Mapping[str, str]:
    """Return author and committer of a commit, each where the user has set none."""
    missing: dict[str, str] = {}
    for role in ("GIT_AUTHOR", "GIT_COMMITTER"):
        try:
            git(root, "-c", "user.useConfigOnly=true", "var", f"{role}_IDENT")
        except GitError:
            missing |= {name: value for name, value in NOBODY.items() if name.startswith(role)}
    return missing

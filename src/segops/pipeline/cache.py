"""DVC's cache: where it keeps a file, who shares it, and what in it nothing uses."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from segops.pipeline import opened
from segops.runtime.errors import SegopsError


def cache_of(root: Path, *, is_legacy: bool = False) -> Callable[[str], Path]:
    """Return what tells where DVC's cache keeps, or would keep, the file of an MD5.

    `is_legacy`: that of DVC before 3.0, whose ``.dvc`` files name no hash.
    """
    with opened(root) as repository:
        cache = repository.cache.legacy if is_legacy else repository.cache.local
        return lambda digest: Path(cache.oid_to_path(digest))


def share(root: Path, tree: Path, top: Path) -> None:
    """Let a worktree use DVC's cache, remotes and credentials of a checkout.

    No lock of the checkout's DVC is taken.

    Args:
        root: A workspace of the checkout.
        tree: The worktree.
        top: The root of the checkout.

    Raises:
        SegopsError: The checkout or the worktree is no repository of DVC, or a path has characters
            that DVC cannot write.
    """
    from dvc.config import Config
    from dvc.exceptions import DvcException
    from dvc.repo import Repo

    try:
        with Repo(str(root)) as repository:
            directory = tree / Path(repository.root_dir).relative_to(top) / Repo.DVC_DIR
            local = repository.config.load_one("local")
            local["cache"]["dir"] = str(repository.cache.local_cache_dir)
        # DVC's files for this worktree alone go when it goes.
        local["core"]["site_cache_dir"] = str(directory / "tmp" / "site")
        if not directory.is_dir():
            raise SegopsError(f"{directory}: no such directory. `dvc init`, and commit .dvc.")
        (directory / Config.CONFIG_LOCAL).touch(mode=0o600)  # it may hold credentials
        with Config(str(directory)).edit("local") as written:
            written.update(local)
    except UnicodeEncodeError:
        raise SegopsError(
            f"{top}: DVC writes no configuration with other than ASCII characters, which a run in "
            "a worktree needs. Move the checkout to a path without them; `segops run` without "
            "--isolated works here."
        ) from None
    except DvcException as error:
        raise SegopsError(f"{root}: DVC cannot read its configuration: {error}") from error


@contextlib.contextmanager
def unused_objects(
    root: Path,
    worktrees: Sequence[Path],
    kept: Collection[str],
    commits: Sequence[str] | None = None,
) -> Iterator[list[Path]]:
    """Yield the files of DVC's cache that nothing uses; no DVC process adds any in the block.

    Used is what the workspace, a worktree, a branch, a tag or an experiment names.

    Args:
        root: The main checkout.
        worktrees: Its git worktrees.
        kept: MD5 of further files to keep, as DVC writes it.
        commits: The tips of the branches that count; None: of all branches.

    Raises:
        DvcBusyError: Another DVC process holds a lock.
        SegopsError: DVC cannot read a branch, a tag or a worktree.
    """
    from dvc.repo import Repo, lock_repo

    with opened(root) as repository, contextlib.ExitStack() as held:
        others = [held.enter_context(Repo(str(one))) for one in worktrees]
        for one in (repository, *others):
            held.enter_context(lock_repo(one))
        # DVC warns of each output of a branch that never ran.
        held.callback(logging.getLogger("dvc").setLevel, logging.getLogger("dvc").level)
        logging.getLogger("dvc").setLevel(logging.ERROR)
        branches = {"all_branches": True} if commits is None else {"revs": list(commits)}
        everywhere = {**branches, "all_tags": True, "all_experiments": True}
        found = [repository.used_objs(force=True, **everywhere)]
        found += [one.used_objs(force=True) for one in others]
        used = {one.value for each in found for part in each.values() for one in part}
        cache = repository.cache.local
        used |= set(kept)
        yield [Path(cache.oid_to_path(one)) for one in cache.all() if one not in used]

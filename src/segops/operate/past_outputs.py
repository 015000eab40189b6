"""An output of a stage as the workspace or a commit has it, out of git or DVC's cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import yaml

from segops import paths
from segops.operate import worktree
from segops.operate.results import DIRECTORY
from segops.params import yaml_guard
from segops.pipeline import cache
from segops.runtime.errors import SegopsError

WORKSPACE = "this checkout"


@dataclass(frozen=True)
class Outputs:
    """The outputs of the stages at one side of a comparison.

    Attributes:
        root: The workspace.
        name: What people call the side.
        commit: Its commit; None: the workspace, whose files come first, and its HEAD.
    """

    root: Path
    name: str
    commit: str | None
    _notes: list[str] = field(default_factory=list)

    def read(self, path: Path) -> bytes | None:
        """Return the content of an output; None where neither git nor DVC's cache has it.

        The file that the side's ``dvc.lock`` names comes first.
        """
        if self.commit is None and (self.root / path).is_file():
            return (self.root / path).read_bytes()
        digest = self._digests.get(path.as_posix())
        if digest is not None and self._cached is not None:
            with suppress(OSError):
                return self._cached(digest).read_bytes()
        for name in (DIRECTORY / path, path):
            if worktree.has(self.root, self._commit, name.as_posix()):
                text = worktree.git(self.root, "cat-file", "blob", f"{self._commit}:./{name}")
                content = f"{text}\n".encode(errors="surrogateescape")
                md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
                if digest not in (None, md5):
                    self._notes.append(
                        f"{name} of {self.name} is of an earlier run than its dvc.lock."
                    )
                return content
        return None

    def text(self, path: str) -> str | None:
        """Return a file that git tracks; None where there is none."""
        if self.commit is None and (self.root / path).is_file():
            return (self.root / path).read_text(encoding="utf-8").strip()
        if not worktree.has(self.root, self._commit, path):
            return None
        return worktree.git(self.root, "cat-file", "blob", f"{self._commit}:./{path}")

    @property
    def notes(self) -> list[str]:
        """What was found of files that were read, in sentences."""
        return list(dict.fromkeys(self._notes))

    @cached_property
    def _commit(self) -> str:
        return self.commit or worktree.commit_of(self.root, "HEAD")

    @cached_property
    def _cached(self) -> Callable[[str], Path] | None:
        try:
            return cache.cache_of(paths.state_home(self.root))
        except SegopsError:
            return None  # no repository of DVC

    @cached_property
    def _digests(self) -> Mapping[str, str]:
        """Path -> MD5 of each output in ``dvc.lock``."""
        try:
            tree = yaml_guard.load(self.text("dvc.lock") or "") or {}
            outputs = [out for one in tree["stages"].values() for out in one.get("outs", ())]
            return {str(out["path"]): str(out["md5"]) for out in outputs if "md5" in out}
        except (ValueError, LookupError, TypeError, AttributeError, yaml.YAMLError):
            return {}

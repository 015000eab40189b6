"""Reads DVC's configuration files without DVC."""

from __future__ import annotations

import configparser
import os
import re
from pathlib import Path

from segops.operate.surroundings import in_home

SECRETS = re.compile(
    r"password|secret|token|account_key|connection_string|passphrase|sas|auth_header"
)
"""Keys whose values are secrets."""


def tracked(root: Path) -> Path:
    """Return the file that git tracks."""
    return root / ".dvc/config"


def local(root: Path) -> Path:
    """Return the file of this checkout that git ignores."""
    return root / ".dvc/config.local"


def remotes(root: Path) -> dict[str, dict[str, str]]:
    """Return the options of each remote; later files override earlier ones."""
    config = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    found: dict[str, dict[str, str]] = {}
    for path in (in_home(config) / "dvc/config", tracked(root), local(root)):
        for section, options in _sections(path).items():
            if named := re.fullmatch(r"'?remote \"(.+)\"'?", section):
                found.setdefault(named[1], {}).update(options)
    return found


def secrets(path: Path) -> list[str]:
    """Return the names of the options in a file that hold secrets."""
    return [
        f"{section} {key}"
        for section, options in _sections(path).items()
        for key, value in options.items()
        if value
        and (
            (SECRETS.search(key) and not key.endswith("_path")) or re.search(r"://[^/]*:.*@", value)
        )
    ]


def _sections(path: Path) -> dict[str, dict[str, str]]:
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(path.read_text("utf-8"))
    except (OSError, ValueError, configparser.Error):
        return {}
    return {name: dict(parser[name]) for name in parser.sections()}

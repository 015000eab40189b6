"""Whether the servers and stores that the configuration names answer."""

from __future__ import annotations

import configparser
import os
import sqlite3
import tomllib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from segops import faults, reach
from segops.operate import dvc_config
from segops.operate.surroundings import (
    DoubtError,
    UnfitError,
    in_home,
    prefect_home,
    require_prefect,
)
from segops.record import tracking
from segops.words import counted

RUNS = "/api/2.0/mlflow/experiments/search?max_results=1"
"""A small question to MLflow's server that needs credentials where the server asks for any."""
DRIVERS = {"postgresql": "psycopg2"}
STORES = {"s3": "dvc_s3", "gs": "dvc_gs", "azure": "dvc_azure", "ssh": "dvc_ssh"}


def mlflow(root: Path) -> str:
    """Check that MLflow's record answers and takes the credentials."""
    uri = tracking.tracking_uri(root)
    where = tracking.without_credentials(uri)
    if uri.startswith(tracking.SQLITE):
        return _sqlite(Path(uri.removeprefix(tracking.SQLITE).partition("?")[0]))
    driver = DRIVERS.get(uri.partition("://")[0])
    if driver and find_spec(driver) is None:
        raise UnfitError(faults.without_package(driver))
    tracking.require_answer(root)
    if not uri.startswith(("http://", "https://")):
        return f"{where} answers"
    status = _status(f"{uri.rstrip('/')}{RUNS}", auth=_mlflow_login(uri))
    if status in (401, 403):
        raise UnfitError(
            f"{where}: the server refuses you ({status}). Set MLFLOW_TRACKING_USERNAME and "
            "MLFLOW_TRACKING_PASSWORD to your credentials."
        )
    if status != 200:
        raise UnfitError(f"{where}: it answers with status {status}. Is it an MLflow server?")
    return f"{where} answers"


def prefect(_: Path) -> str:
    """Check that the configured Prefect server answers and takes the credentials."""
    settings: dict[str, str] = {**_profile(), **os.environ}
    url = settings.get("PREFECT_API_URL")
    if not url:
        return "no server is configured: a run starts one of its own"
    shown = tracking.without_credentials(url)
    require_prefect(url)
    name, _colon, password = settings.get("PREFECT_API_AUTH_STRING", "").partition(":")
    key = settings.get("PREFECT_API_KEY")
    status = _status(
        f"{url.rstrip('/')}/flows/count",
        json={},
        auth=(name, password) if name else None,
        headers={"Authorization": f"Bearer {key}"} if key else {},
    )
    if status in (401, 403) and not name and not key and (prefect_home() / "segops-auth").exists():
        return f"{shown} answers, and asks for credentials; segops has those of its own server"
    if status in (401, 403):
        raise UnfitError(
            f"{shown}: the server refuses you ({status}). Set PREFECT_API_AUTH_STRING to its "
            "credentials, NAME:PASSWORD."
        )
    if status != 200:
        raise UnfitError(f"{shown}: it answers with status {status}. Is it a Prefect server?")
    return f"{shown} answers"


def remotes(root: Path) -> str:
    """Check that DVC's remotes answer; no credentials are sent."""
    found: list[str] = []
    silent: list[str] = []
    for name, options in dvc_config.remotes(root).items():
        url = options.get("url", "")
        shown = tracking.without_credentials(url)
        reason = _remote(root, url, options)
        (silent if reason else found).append(f"{name} ({shown}{f': {reason}' if reason else ''})")
    if silent:
        raise DoubtError(
            f"{', '.join(silent)}. Data are neither pulled from there nor pushed; check the "
            "remote (`dvc remote list`)."
        )
    return ", ".join(found) or "no remote is configured: data have no copy elsewhere"


def _remote(root: Path, url: str, options: Mapping[str, str]) -> str | None:
    scheme = url.partition("://")[0] if "://" in url else ""
    if not scheme:
        path = in_home(url)
        place = path if path.is_absolute() else root / ".dvc" / path
        return None if place.is_dir() else "no such directory"
    if (driver := STORES.get(scheme)) and find_spec(driver) is None:
        return f"{driver} is not installed"
    return reach.silence(options.get("endpointurl", url))


def _sqlite(database: Path) -> str:
    if not database.is_file():
        return f"{database}: no record yet; the first run makes it"
    try:
        with sqlite3.connect(f"{database.as_uri()}?mode=ro", uri=True, timeout=2) as connection:
            (runs,) = connection.execute("SELECT count(*) FROM runs").fetchone()
    except sqlite3.Error as error:
        raise UnfitError(
            f"{database}: {error}. End what uses it, or put a backup in its place."
        ) from None
    return f"{database}, {counted(runs, 'run')}"


def _status(url: str, **options: Any) -> int:
    import httpx

    method = "POST" if "json" in options else "GET"
    try:
        return httpx.request(method, url, timeout=reach.SECONDS, **options).status_code
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        where = tracking.without_credentials(url)
        raise UnfitError(f"{where}: {str(error) or type(error).__name__}.") from None


def _mlflow_login(uri: str) -> tuple[str, str] | None:
    parts = urlsplit(uri)
    kept = configparser.ConfigParser(interpolation=None)
    kept.read(in_home("~/.mlflow/credentials"))
    section = kept["mlflow"] if kept.has_section("mlflow") else {}
    user, password = (
        os.environ.get(key.upper()) or section.get(key) or given
        for key, given in (
            ("mlflow_tracking_username", parts.username),
            ("mlflow_tracking_password", parts.password),
        )
    )
    return (user, password or "") if user else None


def _profile() -> dict[str, str]:
    """Return the settings of Prefect's active profile, read without Prefect."""
    try:
        tree = tomllib.loads((prefect_home() / "profiles.toml").read_text("utf-8"))
        active = os.environ.get("PREFECT_PROFILE") or tree.get("active")
        return {key: str(value) for key, value in tree["profiles"][active].items()}
    except (OSError, ValueError, KeyError, AttributeError):
        return {}

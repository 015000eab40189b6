"""Whether others can read secrets, or use servers that ask for no credentials."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import psutil

from segops.operate import dvc_config
from segops.operate.surroundings import UnfitError, in_home, prefect_home

ASKED = {
    "MLflow": ("GET", "/api/2.0/mlflow/experiments/search?max_results=1"),
    "Prefect": ("POST", "/api/flows/count"),
}
"""Per kind of server: a question that needs credentials."""
SECONDS = 2.0


def files(root: Path) -> str:
    """Check that only their owner can read the files of credentials."""
    present = [path for path in _credentials(root) if path.is_file()]
    open_to_others = [path for path in present if stat.S_IMODE(path.stat().st_mode) & 0o077]
    if open_to_others:
        names = " ".join(map(str, open_to_others))
        raise UnfitError(f"{names}: others can read these credentials. `chmod 600 {names}`")
    return f"only their owner reads: {', '.join(map(str, present))}" if present else "none is kept"


def dvc_secrets(root: Path) -> str:
    """Check that the DVC configuration that git tracks holds no secret."""
    path = dvc_config.tracked(root)
    if found := dvc_config.secrets(path):
        raise UnfitError(
            f"{path}: git tracks this file, and it holds secrets ({', '.join(found)}). Move them "
            "with `dvc remote modify --local NAME OPTION VALUE`, and change them: the history of "
            "git keeps them."
        )
    return f"no secret in {path.relative_to(root)}"


def servers(_: Path) -> str:
    """Check that servers on this machine that others reach ask for credentials."""
    seen, unsafe = [], []
    for kind, host, port in sorted(set(_listening())):
        where = f"{kind} on {host}:{port}"
        seen.append(where)
        is_here = host != "localhost" and ipaddress.ip_address(host).is_loopback
        # A page in a browser reaches loopback too; MLflow refuses other pages, Prefect does not.
        if (kind == "Prefect" or not is_here) and _answers_anybody(kind, host, port):
            unsafe.append(where)
    if unsafe:
        raise UnfitError(
            f"{', '.join(unsafe)}: anybody who reaches it may use it. Stop it; `segops up` and "
            "`segops ui` start servers that are guarded."
        )
    return ", ".join(seen) or "none runs"


def _credentials(root: Path) -> Iterator[Path]:
    yield prefect_home() / "segops-auth"
    profiles = prefect_home() / "profiles.toml"
    with contextlib.suppress(OSError, ValueError):
        if any(word in profiles.read_text("utf-8") for word in ("AUTH_STRING", "API_KEY")):
            yield profiles
    if dvc_config.secrets(dvc_config.local(root)):
        yield dvc_config.local(root)
    if key := os.environ.get("SEGOPS_SIGNING_KEY"):
        yield in_home(key)
    for name in ("~/.mlflow/credentials", "~/.aws/credentials", "~/.pgpass"):
        yield in_home(name)


def _listening() -> Iterator[tuple[str, str, int]]:
    """Yield kind, address and port of each server whose process this user may look at."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline()[:8])
            kind = _kind(command)
            for one in process.net_connections("tcp") if kind else ():
                if one.status == psutil.CONN_LISTEN:
                    yield kind, one.laddr.ip, one.laddr.port


def _kind(command: str) -> str:
    """Return the kind of server that a command starts; empty for another command."""
    is_ours = "flows.server_process" in command
    if "--mlflow" in command if is_ours else "mlflow" in command:
        return "MLflow"
    return "Prefect" if is_ours or "prefect" in command else ""


def _answers_anybody(kind: str, host: str, port: int) -> bool:
    import httpx

    method, path = ASKED[kind]
    address = ipaddress.ip_address(host)
    if address.is_unspecified:
        host = "::1" if address.version == 6 else "127.0.0.1"
    url = f"http://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        body: dict[str, str] | None = {} if method == "POST" else None
        answer = httpx.request(method, url, json=body, timeout=SECONDS, trust_env=False)
    except httpx.HTTPError:
        return False
    return answer.status_code == 200

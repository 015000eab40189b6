"""What a run needs of the machine, the user and the environment, checked before its first stage.

`segops doctor` shows the same checks in a table.
"""

from __future__ import annotations

import os
import resource
import shutil
import tempfile
from collections.abc import Callable, Collection
from pathlib import Path
from urllib.parse import urlsplit

from segops import faults, paths, reach
from segops.runtime.errors import SegopsError

LOOPBACK = ("127.0.0.1", "localhost", "::1")
PROXIES = ("http_proxy", "https_proxy", "all_proxy")
FILES_WANTED = 4096
FILES_NEEDED = 128
"""Open files of one process: a run needs about 60, and each worker of a loader a few."""
MEMORY_NEEDED = 4 << 30
"""Bytes of address space; torch alone maps about 3 GiB."""
ROOM_NEEDED = 64 << 20
"""Free bytes on a disk without which not even a log can be written."""
SHARED_MEMORY = Path("/dev/shm")
READ_AHEAD = 2
"""Batches that each worker is asked for in advance; :mod:`segops.data.workers` has the same."""


class UnfitError(SegopsError):
    """The machine, the user or the environment does not let a run end well."""


class DoubtError(SegopsError):
    """What `segops doctor` warns of; a run may go well."""


spared: list[str] = []
"""The variables whose proxies :func:`spare_loopback` kept from loopback calls."""


def proxied() -> list[str]:
    """Return the variables that name a proxy which loopback calls would take."""
    spared = {
        name.strip() for key in ("no_proxy", "NO_PROXY") for name in os.getenv(key, "").split(",")
    }
    if "*" in spared or spared.issuperset(LOOPBACK[:2]):
        return []
    return [name for one in PROXIES for name in (one, one.upper()) if os.environ.get(name)]


def spare_loopback() -> None:
    """Let calls to this machine take no proxy of the environment, here and in child processes."""
    if not (found := proxied()):
        return
    spared[:] = found
    kept = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    names = [name.strip() for name in kept.split(",") if name.strip()]
    value = ",".join([*names, *(name for name in LOOPBACK if name not in names)])
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = value


def raise_file_limit() -> None:
    """Raise the soft limit of open files, which many systems set to 1024, as far as allowed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = FILES_WANTED if hard == resource.RLIM_INFINITY else min(FILES_WANTED, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def require(root: Path, but: Collection[str] = ()) -> None:
    """Adapt what may be adapted, and check all of `CHECKS`.

    Args:
        root: The workspace.
        but: Names of checks to leave out.

    Raises:
        TransientError: MLflow's server does not answer.
        SegopsError: Another check failed; it says what to do.
    """
    spare_loopback()
    raise_file_limit()
    for name, check in CHECKS.items():
        if name not in but:
            check(root)


def ownership(root: Path) -> str:
    """Check that git reads the checkout: it refuses one of another user."""
    home = paths.state_home(root)
    return "git reads the checkout" if home == root else f"a worktree of {home}"


def require_home() -> None:
    """Check that this user has a home: without one Prefect cannot be imported.

    Raises:
        UnfitError: ``HOME`` is not set, and the system knows no home of this user.
    """
    if os.path.expanduser("~") == "~":  # noqa: PTH111 - of pathlib's it is an error
        raise UnfitError(
            f"HOME is not set, and the system knows no home of user {os.getuid()}; Prefect and DVC "
            "need one. Set HOME to a directory that you may write."
        )


def in_home(path: str | Path) -> Path:
    """Return a path with a `~` at its start resolved.

    Raises:
        UnfitError: It has one, and the user has no home.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        require_home()
        raise UnfitError(f"{path}: there is no such user. Write the path in full.") from None


def prefect_home() -> Path:
    """Return the directory of Prefect's database and of the credentials of its server.

    Raises:
        UnfitError: It would lie in the home of this user, who has none.
    """
    return in_home(os.environ.get("PREFECT_HOME") or "~/.prefect")


def home(_: Path) -> str:
    """Check that Prefect's home can be written; its database lies there."""
    require_home()
    setting, path = os.environ.get("PREFECT_HOME"), prefect_home()
    if reason := _unwritable(path):
        source = f"PREFECT_HOME={setting}" if setting else f"HOME={os.environ.get('HOME', '')}"
        raise UnfitError(
            f"{source}: Prefect keeps its database in {path}, and {reason}. Set PREFECT_HOME to a "
            "directory that you may write."
        )
    return f"Prefect's home is {path}"


def require_prefect_address(url: str) -> None:
    """Check that a Prefect server's address is one; Prefect cannot be imported where it is none.

    Raises:
        UnfitError: It is no address.
    """
    try:
        parts = urlsplit(url)
        is_address = parts.scheme in ("http", "https") and parts.port != 0
    except ValueError:  # of brackets or the port
        is_address = False
    if not is_address:
        from segops.record.tracking import without_credentials

        raise UnfitError(
            f"PREFECT_API_URL is {without_credentials(url)}; expected an address such as "
            "http://127.0.0.1:4200/api."
        )


def require_prefect(url: str) -> None:
    """Check that a Prefect server answers at an address, in ten seconds at the most.

    Raises:
        UnfitError: The address is none, or nothing answers there.
    """
    from segops.record.tracking import without_credentials

    shown = without_credentials(url)
    require_prefect_address(url)
    if reason := reach.silence(url, "/health"):
        raise UnfitError(
            f"{shown}: no Prefect server answers ({reason}). Start it, or unset PREFECT_API_URL."
        )


def workspace(root: Path) -> str:
    """Check that the checkout can be written and that its disk is not full."""
    for path in (root, Path(tempfile.gettempdir())):
        if reason := _unwritable(path):
            raise UnfitError(
                f"{path}: {reason}. Change its rights or owner, or work in a checkout of yours."
            )
        if (free := shutil.disk_usage(path).free) < ROOM_NEEDED:
            raise UnfitError(
                f"{path}: {free >> 20} MiB are free on its disk. Free space on it; "
                "`segops doctor` shows the room of each place."
            )
    return f"{root} can be written"


def open_files(_: Path) -> str:
    """Check how many files this process may open."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if limit != resource.RLIM_INFINITY and limit < FILES_NEEDED:
        raise UnfitError(
            f"A process may open {limit} files here; a run needs {FILES_NEEDED}. Raise the limit: "
            f"`ulimit -n {FILES_WANTED}`, or in /etc/security/limits.conf."
        )
    return f"{_shown(limit)} open files"


def address_space(_: Path) -> str:
    """Check how much memory this process may map."""
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    if limit != resource.RLIM_INFINITY and limit < MEMORY_NEEDED:
        raise UnfitError(
            f"A process may map {limit >> 20} MiB of memory here; torch needs "
            f"{MEMORY_NEEDED >> 20}. Raise the limit: `ulimit -v unlimited`."
        )
    return f"{_shown(limit if limit < 0 else limit >> 20, ' MiB of')} address space"


def shared_memory(root: Path) -> str:
    """Check that the batches of the processes that make samples find room in shared memory.

    torch ends such a process without a word where they do not.
    """
    from segops.params.file import load_params

    if not SHARED_MEMORY.is_dir():
        return "this system has no /dev/shm"
    free = shutil.disk_usage(SHARED_MEMORY).free
    params = load_params(root)
    workers = params.hardware.workers
    if workers is None:  # a training on the CPU then starts none
        workers = params.hardware.worker_count if Path("/dev/nvidiactl").exists() else 0
    height, width = params.augment.crop
    pixel = params.data.reading.bands.total + 1  # bytes of image and mask
    batches = (READ_AHEAD * workers + 1) * bool(workers)
    needed = batches * params.train.batch_size * height * width * pixel
    if free < needed:
        raise UnfitError(
            f"{SHARED_MEMORY}: {free >> 20} MiB are free, and {batches} batches of "
            f"hardware.workers take {needed / (1 << 20):.1f}. Enlarge it (a container: "
            f"--shm-size=2g), or {faults.LESS}."
        )
    return f"{free >> 20} MiB free in {SHARED_MEMORY}; the batches take {needed >> 20}"


def record(root: Path) -> str:
    """Check that MLflow's server answers."""
    from segops.record import tracking

    tracking.require_answer(root)
    return f"MLflow's record is {tracking.without_credentials(tracking.tracking_uri(root))}"


def prefect(_: Path) -> str:
    """Check that the Prefect server of the environment answers."""
    url = os.environ.get("PREFECT_API_URL")
    if url:
        require_prefect(url)
    return "the Prefect server answers" if url else "a run starts a Prefect server of its own"


CHECKS: dict[str, Callable[[Path], str]] = {
    "git": ownership,
    "checkout": workspace,
    "home": home,
    "open files": open_files,
    "address space": address_space,
    "MLflow": record,
    "Prefect": prefect,
}
"""Per name: a function that returns what it found, or raises what is wrong.

:func:`shared_memory` is checked where a training is due.
"""


def _unwritable(path: Path) -> str:
    """Return why no file can be made in a directory, or in that in which it will be made."""
    while not os.path.lexists(path):
        path = path.parent
    if not path.is_dir():
        return f"{path} is no directory"
    try:
        with tempfile.TemporaryFile(dir=path):
            return ""
    except OSError as error:
        return f"{path} cannot be written: {error.strerror}"


def _shown(limit: int, unit: str = "") -> str:
    return "unlimited" if limit == resource.RLIM_INFINITY else f"{limit}{unit}"

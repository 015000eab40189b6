"""How the processes of a training over several devices, its ranks, are started and end."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segops import params
from segops.errors import SegopsError

LAUNCHED = "SEGOPS_LAUNCHED"
"""Set for ranks that segops started itself: whoever started them holds the lock and reports."""

SECONDS_TO_END = 10
"""What a rank is given to end when another one has failed, before it is killed."""

SECONDS_BEFORE_BLAME = 2.0
"""A rank that lost another one ends this much later, so that the other one is found to be first."""

_LOST = "lost"
_NO_MESSAGE = "<NONE>"
"""What torch's agent puts in place of the message of a rank that left none."""

_SIGNS_OF_LOSS = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")
_PR_SET_PDEATHSIG = 1


def rank() -> int:
    """Rank of this process, 0 where there is one process."""
    return int(os.environ.get("RANK", "0"))


def is_rank() -> bool:
    """Whether something (`torchrun`, or :func:`launch`) started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_ranks() -> int:
    """Ranks on this machine, which share its cores."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def takes_lock() -> bool:
    """Whether this process is the one to lock the workspace: rank zero, or who started it."""
    return rank() == 0 and LAUNCHED not in os.environ


def require_ranks(devices: int, nodes: int) -> None:
    """Check that this process is a rank of as many as parameters ask for.

    Raises:
        SegopsError: It is none, or of another number.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != devices * nodes:
        raise SegopsError(
            f"train.devices: {devices} and train.nodes: {nodes} make {devices * nodes} processes, "
            f"but {world} run(s). {_how(devices, nodes)}"
        )


def launch(root: Path) -> bool:
    """Run the stage in one process for each device of this machine, where there are several.

    torch's elastic agent, the one of `torchrun`, starts them and ends all when one fails.

    Args:
        root: The workspace.

    Returns:
        Whether it was: with one device, or in a process that is a rank, the stage is the caller's.

    Raises:
        SegopsError: A rank failed; with its own message, or the rank and what ended it.
    """
    settings = params.load(root).train
    if is_rank() or (settings.devices == 1 and settings.nodes == 1):
        return False
    from segops.train.devices import choose_device, choose_world

    device = choose_device(settings.device)
    devices, nodes = choose_world(settings, device)
    if nodes > 1:
        raise SegopsError(f"train.nodes: {nodes}, but one process runs. {_how(devices, nodes)}")
    if devices > 1:
        _launch(root, devices, device)
    return devices > 1


def _launch(root: Path, devices: int, device: str) -> None:
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # what they say is told below
    added = {LAUNCHED: "1"}
    if device == "cpu" and sys.platform == "linux":  # no other interface is needed
        added["GLOO_SOCKET_IFNAME"] = os.environ.get("GLOO_SOCKET_IFNAME", "lo")
    with TemporaryDirectory() as scratch, contextlib.chdir(root), _environment(added):
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=devices,
            run_id=f"segops-{os.getpid()}",
            rdzv_backend="c10d",
            rdzv_endpoint="127.0.0.1:0",
            local_addr="127.0.0.1",
            max_restarts=0,
            shutdown_timeout=SECONDS_TO_END,
            logs_specs=DefaultLogsSpecs(log_dir=scratch),
        )
        try:
            elastic_launch(config, sys.executable)("-m", "segops", "stage", "train")
        except ChildFailedError as error:
            raise _told(error.failures) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None


@contextlib.contextmanager
def as_rank() -> Iterator[None]:
    """Be a rank for a while: quiet but for the first, gone with the starter, errors told once."""
    if not is_rank():
        yield
        return
    _end_with_starter()
    if rank():
        logging.getLogger("segops").setLevel(logging.ERROR)
    try:
        yield
    except SegopsError as error:
        if LAUNCHED not in os.environ:
            raise
        _leave({"message": str(error)})
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        time.sleep(SECONDS_BEFORE_BLAME)
        _leave({"message": f"rank {rank()} lost another rank: {error}", _LOST: True})


def _leave(message: Mapping[str, Any]) -> None:
    """End this rank, leaving the agent that started it a message."""
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        raise SegopsError(str(message["message"]))
    Path(path).write_text(json.dumps({**message, "timestamp": int(time.time())}), encoding="utf-8")
    raise SystemExit(1)


def _told(failures: Mapping[int, Any]) -> SegopsError:
    """The one failure of several that the others followed from."""
    first = min(failures, key=lambda one: (_order(failures[one]), failures[one].timestamp, one))
    failure = failures[first]
    if failure.exitcode < 0:
        killed = failure.exitcode == -signal.SIGKILL
        hint = " The system kills a process that takes too much memory." if killed else ""
        return SegopsError(
            f"Rank {first} of the training (process {failure.pid}) was ended by "
            f"{failure.signal_name()}, so the others were ended too.{hint} Start the stage again: "
            "it goes on from the last checkpoint."
        )
    if _message(failure):
        return SegopsError(_message(failure))
    return SegopsError(
        f"Rank {first} of the training (process {failure.pid}) ended with exit status "
        f"{failure.exitcode}; its own messages stand above. The others were ended too."
    )


def _order(failure: Any) -> int:
    """Causes first: the agent ends with SIGTERM whom the failure left, NCCL ends with SIGABRT."""
    if failure.exitcode in (-signal.SIGTERM, -signal.SIGABRT):
        return 3
    if failure.error_file_data.get(_LOST):
        return 2
    return 0 if failure.exitcode < 0 or _message(failure) else 1


def _message(failure: Any) -> str:
    """What the rank itself had to say; empty where it left nothing."""
    message = str(failure.error_file_data.get("message", ""))
    return "" if message == _NO_MESSAGE else message


def _how(devices: int, nodes: int) -> str:
    if nodes == 1:
        return "`segops stage train` starts them."
    return (
        f"Start it on each of the {nodes} machines: torchrun --nnodes {nodes} --nproc-per-node "
        f"{devices} --rdzv-backend c10d --rdzv-endpoint FIRST_MACHINE:29400 -m segops stage train"
    )


@contextlib.contextmanager
def _environment(added: Mapping[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in added}
    os.environ.update(added)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _end_with_starter() -> None:
    """Have the kernel end this process when the one that started it is gone (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

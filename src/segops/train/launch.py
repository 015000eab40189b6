"""Starts and ends the ranks, the processes of a training over several devices."""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from segops import files
from segops.params.base import Sections
from segops.params.train import TrainParams
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")

RUN_ID = "TORCHELASTIC_RUN_ID"
"""Begins with :data:`OURS` in ranks that segops, not `torchrun`, started."""

OURS = "segops"
MAIN = "SEGOPS_MAIN"
"""Rendezvous of the machines: ``HOST:PORT``, a free port of the first machine."""

NODE = "SEGOPS_NODE"
"""Number of this machine, from 0. Machine 0 has rank zero, the only rank that writes files."""

SECONDS_TO_END = 10
"""Time for a rank to end after another rank failed, before it is killed."""

SECONDS_TO_MEET = 300
"""Time that the first machine waits for the others, and the others for the first."""

SECONDS_BEFORE_BLAME = 2.0
"""Delay of a rank that lost another rank, so that the lost rank is the first to fail."""

_LOST = "lost"
_SIGNS_OF_LOSS = (
    "Connection closed by peer",
    "Connection reset by peer",
    "Connection was likely closed",
    "Broken pipe",
    "NCCL",
)
_PR_SET_PDEATHSIG = 1


class Settings(Sections):
    """The parameters that decide the number of ranks."""

    train: TrainParams = TrainParams()


def rank() -> int:
    """Rank of this process; 0 for a single process."""
    return int(os.environ.get("RANK", "0"))


def is_rank() -> bool:
    """Whether `torchrun` or :func:`launch` started this process as a rank."""
    return "RANK" in os.environ and "WORLD_SIZE" in os.environ


def local_ranks() -> int:
    """Number of ranks on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _is_launched() -> bool:
    """Whether segops started this rank: the process that started it holds the lock and reports."""
    return os.environ.get(RUN_ID, "").startswith(OURS)


def takes_lock(root: Path, stage: str) -> bool:
    """Whether this process locks the workspace `root`: rank zero, or the process that starts it."""
    if rank() or _is_launched():
        return False
    if stage != "train" or os.environ.get(NODE, "0") == "0":
        return True
    return Settings.read(root).train.nodes == 1  # else the lock is the first machine's


def require_ranks(devices: int, nodes: int) -> None:
    """Check that this process is a rank and that their number is the one of the parameters.

    Raises:
        SegopsError: It is no rank, or the number differs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world != devices * nodes:
        raise SegopsError(
            f"train.devices: {devices} and train.nodes: {nodes} make {devices * nodes} processes, "
            f"but {world} run(s). "
            f"{_how_to_start() if nodes > 1 else '`segops stage train` starts them.'}"
        )


def launch(root: Path) -> bool:
    """Run stage train in a rank for each device of this machine, if there are several devices.

    Each of several machines starts the ranks of its own devices and waits for the other machines.
    torch's elastic agent, as in `torchrun`, starts the ranks and ends all of them when one fails.

    Returns:
        Whether it ran; with one device, or in a rank, the caller runs the stage.

    Raises:
        SegopsError: A rank failed; the message is the rank's own, or names the rank and the signal.
    """
    settings = Settings.read(root).train
    if is_rank() or (settings.devices == 1 and settings.nodes == 1):
        return False
    from segops.train.devices import choose_device, choose_world

    device = choose_device(settings.device)
    devices, nodes = choose_world(settings, device)
    if devices * nodes == 1:
        return False
    _launch(root, devices, nodes, device, _rendezvous(nodes))
    return True


def _rendezvous(nodes: int) -> dict[str, Any]:
    """How the machines find each other: keys of torch's `LaunchConfig`."""
    if nodes == 1:
        here = "127.0.0.1"
        return {"rdzv_backend": "c10d", "rdzv_endpoint": f"{here}:0", "local_addr": here}
    main, node = os.environ.get(MAIN, ""), os.environ.get(NODE, "0")
    host, _, port = main.rpartition(":")
    if not host or not _is_number(port, 65535):
        raise SegopsError(
            f"train.nodes: {nodes}, and {MAIN} is {main or 'not set'}; expected HOST:PORT of the "
            f"first machine. {_how_to_start()}"
        )
    if not _is_number(node, nodes - 1):
        raise SegopsError(f"{NODE} is {node}; expected 0 to {nodes - 1}. {_how_to_start()}")
    log.info("Machine %s of %d: meeting the others at %s.", int(node) + 1, nodes, main)
    if int(node):
        _wait_for_first_machine(host, int(port))
    return {
        "rdzv_backend": "static",
        "rdzv_endpoint": main,
        "rdzv_configs": {"rank": int(node), "timeout": SECONDS_TO_MEET},
    }


def _is_number(text: str, most: int) -> bool:
    return text.isascii() and text.isdigit() and int(text) <= most


def _wait_for_first_machine(host: str, port: int) -> None:
    """Wait for the first machine; a user can interrupt this, but not a wait inside torch."""
    end = time.monotonic() + SECONDS_TO_MEET
    while True:
        try:
            return socket.create_connection((host, port), timeout=5).close()
        except OSError as error:
            if time.monotonic() > end:
                raise SegopsError(
                    f"{host}:{port}: the first machine did not answer within {SECONDS_TO_MEET} s: "
                    f"{error}. {_how_to_start()}"
                ) from None
            time.sleep(1)


def _launch(root: Path, devices: int, nodes: int, device: str, rendezvous: dict[str, Any]) -> None:
    from torch.distributed import DistError
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.elastic.rendezvous import RendezvousError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in list(logging.root.manager.loggerDict):
        if name.startswith("torch.distributed.elastic"):
            logging.getLogger(name).setLevel(logging.CRITICAL)  # reported below
    is_single = "local_addr" in rendezvous
    if is_single and device == "cpu" and sys.platform == "linux":  # no other interface is needed
        os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    with files.scratch() as scratch, contextlib.chdir(root):
        config = LaunchConfig(
            min_nodes=nodes,
            max_nodes=nodes,
            nproc_per_node=devices,
            run_id=f"{OURS}-{os.getpid()}" if is_single else OURS,
            max_restarts=0,
            shutdown_timeout=SECONDS_TO_END,
            logs_specs=DefaultLogsSpecs(log_dir=str(scratch)),
            **rendezvous,
        )
        try:
            elastic_launch(config, sys.executable)("-m", "segops", "stage", "train")
        except ChildFailedError as error:
            raise _first_failure(error.failures) from None
        except (DistError, RendezvousError) as error:
            raise SegopsError(
                f"The machines did not meet at {rendezvous['rdzv_endpoint']}: {error}. "
                f"{_how_to_start()}"
            ) from None
        except SignalException as error:
            if error.sigval == signal.SIGINT:
                raise KeyboardInterrupt from None
            raise SystemExit(128 + error.sigval) from None


@contextlib.contextmanager
def as_rank() -> Iterator[None]:
    """Run the body as a rank, if this process is one.

    A rank ends with the process that started it. Only rank zero logs more than errors, and the
    agent gets the first error of a rank for :func:`launch` to raise.
    """
    if not is_rank():
        yield
        return
    _end_with_parent()
    if rank():
        logging.getLogger("segops").setLevel(logging.ERROR)
    try:
        yield
    except SegopsError as error:
        if not _is_launched():
            raise
        _end_rank(error, lost=False)
    except RuntimeError as error:
        if not any(sign in str(error) for sign in _SIGNS_OF_LOSS):
            raise
        time.sleep(SECONDS_BEFORE_BLAME)
        _end_rank(SegopsError(f"rank {rank()} lost another rank: {error}"), lost=True)


def _end_rank(error: SegopsError, *, lost: bool) -> None:
    """End this rank and leave the error to the agent that started it.

    `lost`: the cause is that another rank ended.
    """
    path = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if path is None:
        raise error
    report = {"message": str(error), "timestamp": int(time.time()), _LOST: lost}
    Path(path).write_text(json.dumps(report), encoding="utf-8")
    raise SystemExit(1)


def _first_failure(failures: Mapping[int, Any]) -> SegopsError:
    """The error of the failure that caused the others."""
    first = min(failures, key=lambda rank: (_order(failures[rank]), failures[rank].timestamp, rank))
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
    """Causes before effects: the agent ends the remaining ranks with SIGTERM, NCCL with SIGABRT."""
    if failure.exitcode in (-signal.SIGTERM, -signal.SIGABRT):
        return 3
    if failure.error_file_data.get(_LOST):
        return 2
    return 0 if failure.exitcode < 0 or _message(failure) else 1


def _message(failure: Any) -> str:
    """The rank's own message; empty if it left none, for which torch's agent writes `<NONE>`."""
    return str(failure.error_file_data.get("message", "")).removeprefix("<NONE>")


def _how_to_start() -> str:
    """How to start the training on several machines, for a message."""
    return (
        f"Set {MAIN}=FIRST_MACHINE:29400 on all machines and {NODE} to 0, 1, ... on each; start "
        "`segops run` or `segops stage train` on the first and `segops stage train` on the others."
    )


def _end_with_parent() -> None:
    """Let the kernel end this process when its parent has ended (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)

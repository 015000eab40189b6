"""Runs a module in a process that ends, with all that it started, when its starter ends.

The starter hands over the reading end of a pipe, holds the other end and calls this as
``python -m segops.tied DESCRIPTOR MODULE ARGUMENTS``, in a process group of its own. The kernel
closes the other end when the starter ends, however it ends.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def main() -> None:
    """Run the module that the arguments name, tied to the pipe."""
    pipe = int(sys.argv.pop(1))
    threading.Thread(target=_end_with_starter, args=(pipe,), daemon=True).start()
    sys.argv.pop(0)
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


def _end_with_starter(pipe: int) -> None:
    os.read(pipe, 1)  # nobody writes: it returns when the other end is closed
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    main()

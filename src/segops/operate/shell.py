"""Runs a shell script: ``python -m segops.operate.shell SCRIPT``, for :mod:`segops.tied`."""

from __future__ import annotations

import subprocess
import sys

if __name__ == "__main__":
    sys.exit(subprocess.call(["sh", *sys.argv[1:]]))

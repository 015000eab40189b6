"""``python -m tools.sample TARGET`` writes the sample; options change its size and seed."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import SHIPPED, generate

parser = argparse.ArgumentParser(prog="python -m tools.sample")
parser.add_argument("target", type=Path, help="directory that the data set replaces")
for name, value in (*SHIPPED.items(), ("width", 160), ("height", 128)):
    parser.add_argument(f"--{name}", type=int, default=value, help=f"default: {value}")
given = parser.parse_args()
generate(given.target, given.train, given.val, given.seed, (given.width, given.height))

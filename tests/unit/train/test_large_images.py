"""Training's memory does not depend on the size of the images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import large_training


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("height", "width", "copies", "part", "most"),
    [
        pytest.param(3000, 3000, 0, 256, 3 * 3000 * 3000, marks=pytest.mark.slow),  # the image
        pytest.param(
            12_000,
            9_000,
            1,
            512,
            12_000 * 9_000,  # its mask
            marks=[pytest.mark.long, pytest.mark.timeout(1200)],
        ),
    ],
)
def test_a_larger_image_takes_no_more_memory(
    height: int, width: int, copies: float, part: int, most: int, tmp_path: Path
) -> None:
    large_training.write(tmp_path / "small", *large_training.SMALL)
    large_training.write(tmp_path / "large", height, width)
    done = subprocess.run(
        [sys.executable, "-m", large_training.__name__, *map(str, (tmp_path, copies, part))],
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    assert int(done.stdout) < most

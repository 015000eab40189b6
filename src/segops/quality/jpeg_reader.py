"""A process that decodes JPEG files and lets libjpeg say on its standard error what is wrong.

Pillow keeps what libjpeg warns of to itself; OpenCV prints it without the name of the file.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np

from segops.runtime.signatures import LENGTH, image_format

END = b"<end of file>\n"
"""What the process prints when it has started, and after each file."""


def main() -> None:
    """Decode the files whose paths come as JSON, one a line, at an eighth of their size."""
    os.write(2, END)
    for line in sys.stdin.buffer:
        with suppress(OSError, cv2.error), Path(json.loads(line)).open("rb") as file:
            start = file.read(LENGTH)
            if image_format(start) == "JPEG":
                pixels = np.frombuffer(start + file.read(), np.uint8)
                cv2.imdecode(pixels, cv2.IMREAD_REDUCED_GRAYSCALE_8)
        os.write(2, END)


if __name__ == "__main__":
    main()

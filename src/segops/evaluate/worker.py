"""The child process that loads a bundle and scores it. Started by :mod:`segops.evaluate.score`.

It gets the path of a request (JSON) and says on its standard output, line by line as JSON, which
image is done, or what is wrong. Whatever the bundle's code prints goes to standard error.
"""

from __future__ import annotations

import gc
import json
import os
import sys
from pathlib import Path
from typing import TextIO

from segops.runtime.errors import SegopsError


def main() -> int:
    """Do what the request says; the exit status is 0 if it was done."""
    channel = _claim_standard_output()
    gc.disable()  # while libraries load, it finds nothing to free, again and again
    from segops.evaluate.scoring import score_images  # takes seconds

    try:
        request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
        for image_id in score_images(request):
            gc.enable()
            _say(channel, {"done": image_id})
    except SegopsError as error:
        _say(channel, {"error": str(error)})
        return 1
    except BrokenPipeError:  # the parent is gone
        return 1
    return 0


def _claim_standard_output() -> TextIO:
    """Keep the pipe to the parent for the protocol; send everything else to standard error."""
    channel = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return channel


def _say(channel: TextIO, message: dict[str, str]) -> None:
    channel.write(json.dumps(message) + "\n")
    channel.flush()


if __name__ == "__main__":
    status = main()
    # What was done is on the disk; to take down all that torch set up would take a second or two.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)

"""The child process that loads a bundle and scores it. Started by :mod:`segops.evaluate.score`.

Its argument is the path of a request (JSON). It writes lines of JSON to standard output: the id of
each image that is done, or an error. What the bundle's code prints goes to standard error.
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
    """Carry out the request; return the exit status."""
    channel = _claim_standard_output()
    gc.disable()  # collecting during the imports scans many objects and frees none
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
    # The results are on disk; an ordinary exit would spend a second or two on torch's clean-up.
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    os._exit(status)

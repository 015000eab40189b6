"""Loads a model and predicts images in a fresh process, as a consumer of the model does.

The process is this module, started with the path of a request (JSON).
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from segops import faults, files
from segops.children import child_environment
from segops.runtime.errors import SegopsError, TransientError

ANSWER = "answer.json"
SYNTHETIC_SIDE = 64
"""Side of the black image that is predicted where there is no other."""
GPU = re.compile(r"CUDA|cuDNN|cuBLAS|HIP error", re.IGNORECASE)
"""What torch writes about a GPU that is busy, full or lost."""


class NotUsableError(SegopsError):
    """The model does not load, or does not predict."""


@dataclass(frozen=True)
class Predicted:
    """What a fresh process predicted.

    Attributes:
        masks: One for each image, uint8 (H, W), class ids.
        machine: What predicted; see :func:`segops.predict.machine.describe`.
    """

    masks: tuple[NDArray[np.uint8], ...]
    machine: dict[str, Any]


def predict(
    root: Path,
    model: str,
    digest: str,
    images: Sequence[NDArray[np.uint8]] = (),
    *,
    device: str = "auto",
    threads: int | None = None,
) -> Predicted:
    """Load a model in a fresh process and predict images.

    Args:
        root: The workspace.
        model: As :func:`segops.release.resolve.resolved` takes it.
        digest: SHA-256 that its bundle must have; it is checked before its code is run.
        images: uint8 (H, W, B), of the model's channels; none: a black one.
        device: A torch device, or `auto`.
        threads: CPU threads of torch; None: its own choice.

    Raises:
        NotUsableError: The model does not load, has another digest, or does not predict.
        TransientError: The process was killed, lacked memory, disk space or a GPU, or could not
            fetch the model, whatever the reason: that is not the model's fault.
    """
    # The process runs in an empty directory: nothing in it is importable.
    with files.scratch() as place, files.scratch() as empty:
        for number, image in enumerate(images):
            np.save(place / f"image{number}.npy", image, allow_pickle=False)
        request = {
            "root": str(root.resolve()),
            "model": model,
            "digest": digest,
            "images": len(images),
            "device": device,
            "threads": threads,
        }
        files.write_json(place / "request.json", request)
        done = subprocess.run(
            [sys.executable, "-P", "-m", "segops.release.fresh", str(place / "request.json")],
            cwd=empty,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        if done.returncode < 0 or (done.returncode and not (place / ANSWER).is_file()):
            raise TransientError(
                f"The process that loads {model} ended with status {done.returncode}: {last} "
                "Try again."
            )
        answer = files.read_json(place / ANSWER)
        if answer["lacking"]:
            raise TransientError(f"{model} could not be tried: {answer['lacking']}")
        if answer["error"]:
            raise NotUsableError(answer["error"])
        masks = (
            np.load(place / f"mask{number}.npy", allow_pickle=False)
            for number in range(max(1, len(images)))
        )
        return Predicted(tuple(masks), answer["machine"])


def main(path: Path) -> None:
    """Carry out a request, and write the answer beside it."""
    request = json.loads(path.read_text(encoding="utf-8"))
    answer: dict[str, Any] = {"error": "", "lacking": "", "machine": {}}
    kind = "lacking"
    try:
        from segops.release.resolve import resolved

        with resolved(request["model"], Path(request["root"])) as bundle:
            kind = "error"
            answer["machine"] = _predict(bundle, request, path.parent)
    except Exception as error:
        answer["lacking" if is_lack(error) else kind] = _words(error)
    files.write_json(path.parent / ANSWER, answer)


def is_lack(error: BaseException) -> bool:
    """Whether this machine lacked something, so that the model is not to blame."""
    if isinstance(error, TransientError | OSError) or faults.is_shortage(error):
        return True
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RuntimeError) and GPU.search(str(cause)):
            return True
        cause = cause.__cause__
    return False


def _words(error: Exception) -> str:
    if isinstance(error, SegopsError):
        return str(error)
    kind, text = type(error).__name__, str(error).strip()
    return f"{kind}: {text.splitlines()[0]}" if text else kind


def _predict(bundle: Path, request: dict[str, Any], place: Path) -> dict[str, Any]:
    import torch

    from segops.predict.bundle import load_bundle
    from segops.predict.machine import describe

    if request["threads"] is not None:
        torch.set_num_threads(request["threads"])
    predictor = load_bundle(bundle, request["device"], request["digest"])
    if not request["images"]:
        black = np.zeros((SYNTHETIC_SIDE, SYNTHETIC_SIDE, predictor.channels), np.uint8)
        np.save(place / "image0.npy", black, allow_pickle=False)
    for number in range(max(1, request["images"])):
        image = np.load(place / f"image{number}.npy", allow_pickle=False)
        np.save(place / f"mask{number}.npy", predictor.predict_mask(image), allow_pickle=False)
    return describe(predictor.device, torch.get_num_threads())


if __name__ == "__main__":
    main(Path(sys.argv[1]))

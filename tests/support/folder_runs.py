"""Photographs, a small model's bundle and what a prediction of them wrote."""

from __future__ import annotations

import json
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import nn

from segops import files
from segops.predict import video_file
from segops.predict.journal import FORMAT, FinishedImage
from segops.predict.table import TABLE
from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.bundles import write_bundle

NAMES = ("background", "cat", "dog")
CODECS = {".mp4": "mp4v", ".mov": "mp4v", ".avi": "MJPG", ".mkv": "FFV1", ".webm": "VP80"}
"""What OpenCV writes into a video of a suffix."""

SPEC = ModelSpec("plain_cnn", "", 3, {"width": 8})


def make_bundle(
    target: Path, seed: int = 0, predict: dict[str, Any] | None = None, bias: float = 0.0
) -> Path:
    """A bundle whose masks have areas of all three classes; with `bias`, of background alone."""
    torch.manual_seed(seed)
    network = build(SPEC)
    convolutions = [one for one in network.modules() if isinstance(one, nn.Conv2d)]
    for module in convolutions:
        nn.init.kaiming_normal_(module.weight)
    last = convolutions[-1]
    assert last.bias is not None
    with torch.no_grad():
        last.bias[0] += bias
    write_bundle(target, network, SPEC, NAMES, {}, {}, predict)
    return target


def picture(seed: int = 0, height: int = 37, width: int = 50) -> NDArray[np.uint8]:
    """Coloured patches."""
    patches = np.random.default_rng(seed).integers(0, 256, (6, 7, 3), dtype=np.uint8)
    found = np.kron(patches, np.ones((-(-height // 6), -(-width // 7), 1), np.uint8))
    return np.ascontiguousarray(found[:height, :width])


def save(path: Path, seed: int = 0, height: int = 37, width: int = 50, **options: Any) -> Path:
    """An image file of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(seed, height, width)).save(path, **options)
    return path


def save_photos(folder: Path, count: int) -> Path:
    """So many images of different heights in two directories below `folder`."""
    for seed in range(count):
        save(folder / f"{seed % 2}/{seed}.png", seed, height=30 + seed)
    return folder


def film(path: Path, count: int = 11, height: int = 38, width: int = 50, rate: float = 25) -> Path:
    """A video of the kind that its ending says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fourcc = cv2.VideoWriter.fourcc(*CODECS[path.suffix])
    with video_file._quiet():  # FFmpeg asks at its first use how much it may say
        writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, fourcc, rate, (width, height))
    for seed in range(count):
        writer.write(picture(seed // 3, height, width)[..., ::-1].copy())
    writer.release()
    return path


def start(work: Callable[..., None], *arguments: object) -> BaseProcess:
    """Start a process apart, which runs a function of a test's module with one thread.

    It is forked from a process that only imported: in a fork of one that has multiplied matrices
    MKL waits for ever for a lock that no thread holds any more.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["segops.predict.folder", "segops.runtime.load"])
    process = context.Process(target=_alone, args=(work, *arguments))
    process.start()
    return process


def _alone(work: Callable[..., None], *arguments: object) -> None:
    torch.set_num_threads(1)
    work(*arguments)


def contents(output: Path) -> dict[str, str]:
    """SHA-256 of every file below a directory but locks, by its relative path."""
    return {
        path.relative_to(output).as_posix(): files.sha256_file(path)
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def shown(output: Path) -> set[str]:
    """The files that a person sees."""
    return {name for name in contents(output) if not name.startswith(".")}


def table(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of the table by image; numbers as floats, None where nothing stands."""
    frame = pd.read_csv(output / TABLE, keep_default_na=False, na_values=[""])
    rows = frame.set_index("image").to_dict("index")
    return {
        str(image): {str(name): None if value != value else value for name, value in row.items()}
        for image, row in rows.items()
    }


def finished_image(
    size: tuple[int, int], confidence: float, pixels: tuple[int, ...]
) -> FinishedImage:
    """An entry of the journal for ``a.png`` of that width and height."""
    return FinishedImage(
        format=FORMAT,
        mask="a.png",
        image="image",
        model="model",
        device="cpu",
        width=size[0],
        height=size[1],
        confidence=confidence,
        pixels=list(pixels),
        outputs={"mask": "sha"},
    )


def awaited(condition: Callable[[], bool]) -> None:
    """Wait until a condition holds, three minutes at most."""
    end = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


def leave(path: Path, machine: str, owner: str = "far:1") -> bytes:
    """A lease of another machine."""
    path.parent.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"owner": owner, "machine": machine, "token": "t", "count": "1"}).encode()
    path.write_bytes(content)
    return content

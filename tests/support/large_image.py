"""A very large image, and what predicting it takes; run as a script, in a process of its own."""

from __future__ import annotations

import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from segops.runtime.images import MASK_FORMATS, load_image
from segops.runtime.inference import Inference
from segops.runtime.predict_settings import PredictSettings
from segops.runtime.torch_predictor import TorchPredictor

HEIGHT, WIDTH = 12_000, 9_000


class Brightest(nn.Module):
    """Says class c where colour channel c is the brightest; further classes nowhere."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.classes = classes

    def forward(self, images: Tensor) -> Tensor:
        logits = torch.zeros(1, self.classes, *images.shape[2:])
        logits[:, :3] = images
        return logits


class Peak:
    """By how many bytes this process grew at most while the context was open.

    Not `getrusage`: its peak cannot be set back, and counts what a parent held.
    """

    def __enter__(self) -> Peak:
        Path("/proc/self/clear_refs").write_text("5")  # sets the peak back
        self.before = self._read("VmRSS")
        return self

    def __exit__(self, *_: object) -> None:
        self.growth = self._read("VmHWM") - self.before

    @staticmethod
    def _read(key: str) -> int:
        lines = Path("/proc/self/status").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith(key))


def windowed(network: Brightest, window: int) -> TorchPredictor:
    names = [str(one) for one in range(network.classes)]
    settings = PredictSettings(mode="window", window=(window, window), overlap=0.25)
    return TorchPredictor(network, names, inference=Inference(settings))


def strips(height: int, width: int) -> None:
    """Predict an image by windows; print its growth, and that of holding every class's plane."""
    torch.set_num_threads(1)
    blocks = np.random.default_rng(0).integers(1, 256, (height // 100, width // 100, 3), np.uint8)
    image = blocks.repeat(100, axis=0).repeat(100, axis=1)
    predictor = windowed(Brightest(21), 100)
    predictor.predict(image[:150, :150])
    with Peak() as peak:
        mask = predictor.predict(image).mask
    assert (mask == blocks.argmax(axis=2).repeat(100, axis=0).repeat(100, axis=1)).all()
    with Peak() as held:
        np.ones((21, height, width), np.float32)
    sys.stdout.write(f"{peak.growth} {held.growth}")


def whole() -> None:
    """Predict a PNG of 108 million pixels by windows; print by how many bytes that grew."""
    torch.set_num_threads(1)
    shape = (HEIGHT // 100, WIDTH // 100, 3)
    blocks = np.random.default_rng(0).integers(1, 256, shape, np.uint8)
    image = blocks.repeat(100, axis=0).repeat(100, axis=1)
    expected = blocks.argmax(axis=2).astype(np.uint8)
    buffer = BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=1)
    del image
    with Peak() as peak:
        content = windowed(Brightest(3), 1000).predict_bytes(buffer.getvalue())[0]
    mask = np.asarray(load_image(content, "mask", MASK_FORMATS, HEIGHT * WIDTH))
    assert mask.shape == (HEIGHT, WIDTH)
    mask = mask.reshape(HEIGHT // 100, 100, WIDTH // 100, 100)
    assert (mask == expected[:, None, :, None]).all()
    sys.stdout.write(str(peak.growth))


if __name__ == "__main__":
    strips(*map(int, sys.argv[1:])) if len(sys.argv) > 1 else whole()

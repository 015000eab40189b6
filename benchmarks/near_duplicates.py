"""How the search for near-duplicates grows, and what its hashes cost beside a decode.

The search runs over random hashes, a tenth of which have a twin that differs by a few bits, and
over hashes that all differ by 12 bits at most. Hashing runs on a
photograph of 500 x 375 pixels, one thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from segops.quality.duplicates import candidates, halved, perceptual_hash
from segops.runtime.images import decode_image, load_photograph
from segops.voc.hashes import pixel_hash

COUNTS = (1_000, 10_000, 100_000)
PASSES = 100


def hashes(count: int) -> NDArray[np.uint64]:
    """Random hashes; the last tenth are twins of the first."""
    random = np.random.default_rng(0)
    made = random.integers(0, 2**64, count, dtype=np.uint64)
    made[-count // 10 :] = made[: count // 10] ^ np.uint64(0b101001)
    return made


def alike(count: int) -> NDArray[np.uint64]:
    """Hashes of one scene: 12 of their bits are random."""
    return np.random.default_rng(0).integers(0, 2**12, count, dtype=np.uint64)


def seconds(work: Callable[[], object], passes: int = 1) -> float:
    """Mean seconds of a call."""
    start = time.perf_counter()
    for _ in range(passes):
        work()
    return (time.perf_counter() - start) / passes


def main() -> None:
    """Measure and print."""
    for name, make in (("random", hashes), ("all alike", alike)):
        before = 0.0
        for count in COUNTS:
            spent = seconds(partial(candidates, make(count)))
            growth = f", {spent / before:.1f} times the row above" if before else ""
            print(f"{name}: {count} images {spent:.2f} s{growth}")
            before = spent
    blocks = np.random.default_rng(0).integers(0, 256, (15, 20, 3)).astype(np.uint8)
    stream = BytesIO()
    Image.fromarray(blocks).resize((500, 375)).save(stream, "JPEG", quality=90)
    image = decode_image(stream.getvalue(), "photograph")
    loaded = load_photograph(stream.getvalue(), "photograph")
    decode = seconds(lambda: decode_image(stream.getvalue(), "photograph"), PASSES)
    pixels = seconds(lambda: pixel_hash([image], 500, 375), PASSES)
    picture = seconds(lambda: perceptual_hash(halved(loaded)), PASSES)
    print(
        f"one photograph: decode {decode * 1e3:.2f} ms, hash of the pixels {pixels * 1e3:.2f} ms "
        f"({pixels / decode:.2f}), perceptual hash {picture * 1e3:.2f} ms ({picture / decode:.2f})"
    )


if __name__ == "__main__":
    main()

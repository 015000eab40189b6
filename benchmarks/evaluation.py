"""Time of the whole evaluation against the same predictor alone, over the same images.

The whole evaluation is the evaluate stage: it counts, follows contours, looks at objects and
calibration, keeps masks and errors, explains the worst images, and writes the page with its
gallery; speed and memory, whose measurement takes the same time for any number of images, are left
out. Alone, the same bundle predicts the same packed images to their masks (reading, upsampling
and argmax included) and throws the masks away. Each is a process of its own from start to end, so
that imports and the loading of the network count in both; they are run in turn, so that both see
the same machine. The images are generated ones of the size of VOC's photographs.

The default network is that of the demo, which is cheap and so the hard case; it is not trained,
so that most pixels are wrong and judging takes as long as it can. Another model can be given with
--bundle. torch has all cores, as by default, unless --threads says otherwise. The evaluation
predicts several images at a time on a CPU. So there are two predictions alone: one that does the
same, and one that has all cores work on one image after another, as for whoever calls the
predictor.
Run: ``python benchmarks/evaluation.py [--images 300] [--threads 1] [--heavy] [--bundle DIR]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from segops import paths
from segops.data.packing import pack
from segops.params.file import load_params
from segops.params.hardware import HardwareParams
from segops.runtime.classes import VOC_CLASSES
from segops.train.hardware import choose_threads
from segops.voc.layout import Layout, open_layout
from tools.sample import generate

REPOSITORY = Path(__file__).resolve().parents[1]
SIZE = (500, 375)
DISTINCT = 60
"""Generated photographs; more images are these again under other names."""
ROUNDS = 5

WHOLE = """
import sys
from pathlib import Path
from segops.stages import evaluate
evaluate.run(Path(sys.argv[1]))
"""
ALONE = """
import sys
from pathlib import Path
import torch
from segops import paths
from segops.data.store import PackedStore
from segops.predict.bundle import load_bundle
from segops.predict.parallel import images_at_once, predict_parallel
torch.set_num_threads(int(sys.argv[2]))
root = Path(sys.argv[1])
store = PackedStore(root / paths.PACKED)
predictor = load_bundle(root / paths.SEGMENTER, "auto")
at_once = {at_once}
def predict(one):
    return predictor.predict_mask(store.image(one))
for _ in predict_parallel(predict, store.ids("val"), at_once):
    pass
"""
AT_ONCE = ALONE.format(
    at_once=f"images_at_once(predictor.device, {SIZE[0] * SIZE[1]}, len(store.ids('val')))"
)
ONE_BY_ONE = ALONE.format(at_once=1)


def workspace(root: Path, images: int, heavy: bool, bundle: Path | None) -> None:
    """Put packed images and a bundle where the evaluate stage looks for them."""
    generate(root / "voc", train=1, val=min(images, DISTINCT), seed=0, size=SIZE)
    layout = open_layout(root / "voc")
    _repeat(layout, images)
    pack(open_layout(root / "voc"), root / paths.PACKED, VOC_CLASSES, workers=2)
    if bundle is not None:
        shutil.copytree(bundle, root / paths.SEGMENTER)
        return
    import torch

    from segops.predict.package import package
    from segops.predict.trained import write_trained
    from segops.runtime.networks.zoo import ModelSpec, build

    model = load_params(REPOSITORY).model
    spec = ModelSpec(model.architecture, model.encoder, len(VOC_CLASSES), dict(model.options))
    if heavy:
        spec = ModelSpec("deeplabv3plus", "resnet50", len(VOC_CLASSES))
    torch.manual_seed(0)
    write_trained(root / paths.SEGMENTER, build(spec), spec, VOC_CLASSES, {}, {})
    package(root / paths.SEGMENTER, root / paths.SEGMENTER)


def _repeat(layout: Layout, images: int) -> None:
    """Give the images of val further names, until there are as many as wanted."""
    ids = layout.ids("val")
    names = [*ids, *(f"again_{number:05d}" for number in range(images - len(ids)))]
    for number, name in enumerate(names[len(ids) :]):
        source = ids[number % len(ids)]
        for path in (layout.image_path(source), layout.mask_path(source)):
            shutil.copy(path, path.with_name(f"{name}{path.suffix}"))
    layout.list_path("val").write_text("".join(f"{name}\n" for name in names))


def seconds(program: str, root: Path, threads: int) -> float:
    """Wall time of a process that runs `program`."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    command = [sys.executable, "-c", program, str(root), str(threads)]
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def compare(root: Path, images: int, threads: int, rounds: int) -> None:
    """Run both in turn and print the medians and their ratio."""
    changes = {"hardware": {"threads": threads}, "evaluate": {"speed": False}}
    (root / "params.yaml").write_text(yaml.safe_dump(changes), encoding="utf-8")
    programs = {
        "evaluation": WHOLE,
        "prediction alone, as many at a time": AT_ONCE,
        "prediction alone, one after another": ONE_BY_ONE,
    }
    times: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            times[name].append(seconds(program, root, threads))
    print(f"{threads} thread(s) of torch, {images} images, median of {rounds}:")
    for name, taken in times.items():
        median = statistics.median(taken)
        text = f"  {name:>36}: {median:7.2f} s  ({1000 * median / images:6.1f} ms an image)"
        if name != "evaluation":
            ratios = [
                whole / alone for whole, alone in zip(times["evaluation"], taken, strict=True)
            ]
            text += (
                f"  ratio {statistics.median(times['evaluation']) / median:.2f} "
                f"(single rounds {min(ratios):.2f} to {max(ratios):.2f})"
            )
        print(text, flush=True)


def main() -> None:
    """Make a workspace and compare in it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--images", type=int, default=300)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    threads = [choose_threads(HardwareParams())]
    parser.add_argument("--threads", type=int, nargs="+", default=threads, help="of torch")
    parser.add_argument("--heavy", action="store_true", help="DeepLabV3+ with a ResNet-50")
    parser.add_argument("--bundle", type=Path, help="a model to take, as models/segmenter")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        workspace(root, arguments.images, arguments.heavy, arguments.bundle)
        for threads in arguments.threads:
            compare(root, arguments.images, threads, arguments.rounds)


if __name__ == "__main__":
    main()

"""Everything that a GPU has to show, in one visit of a few minutes: ``make bench-gpu``.

DeepLabV3+ with ResNet-50 at 512 px, batches of 16 and 64: images a second of our loop in bf16 and
channels-last, compiled and not, deterministic and not, against loops as torchvision's references
have them in fp32 and fp16, on one cached batch and in turns; operations a second and their share of
what a large bf16 matrix product reaches on this card; memory of a step; then real data of VOC's
size from a packed store, augmented by all cores and by the card, as a share of the cached batch's
speed; and a confusion matrix, counted on the card and through the processor, against torchmetrics'.
Run: ``python -m benchmarks.gpu [--json FILE]``; ``--device cpu --quick`` runs all of it in small.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from benchmarks.common import generated_store, matmul_peak
from benchmarks.gpu import measure
from benchmarks.gpu.training_loops import Plan
from segops.threads import cores

FULL = Plan(
    device="cuda",
    precision="bf16",
    encoder="resnet50",
    crop=512,
    batch_sizes=(16, 64),
    warm_up=3,
    rounds=5,
    seconds=1.5,
    compile=True,
    images=96,
    size=(500, 375),
    matmul=8192,
)
QUICK = FULL._replace(
    precision="fp32",
    encoder="resnet18",
    crop=32,
    batch_sizes=(2,),
    warm_up=1,
    rounds=1,
    seconds=0.01,
    compile=False,
    images=6,
    size=(80, 64),
    matmul=128,
)


def run(plan: Plan) -> dict[str, Any]:
    """Measure all of it; prints each part as it is done."""
    started = time.monotonic()
    peaks = {
        str(dtype): matmul_peak(torch.device(plan.device), plan.matmul, dtype)
        for dtype in (torch.bfloat16, torch.float32)
    }
    result: dict[str, Any] = {"machine": _machine(plan), "plan": plan._asdict()}
    result["matmul_tflops"] = {name: value / 1e12 for name, value in peaks.items()}
    print(f"{result['machine']['card']}, {result['machine']['cores']} cores")
    for name, value in result["matmul_tflops"].items():
        print(f"  {name}: {value:.2f} TFLOP/s in products of {plan.matmul} x {plan.matmul}")
    with tempfile.TemporaryDirectory() as directory:
        store = generated_store(Path(directory), plan.images, plan.size)
        result["steps"], result["feeding"] = [], []
        for size in plan.batch_sizes:
            rows = measure.steps(plan, store, Path(directory), size, peaks["torch.bfloat16"])
            _print_steps(size, rows)
            result["steps"] += rows
            _release(plan)
        for size in plan.batch_sizes:
            failed = any("error" in row for row in result["steps"] if "compiled" in row["name"])
            eager = plan._replace(compile=plan.compile and not failed)
            rows = measure.feeding(eager, store, Path(directory), size)
            _print_feeding(size, rows)
            result["feeding"] += rows
            _release(plan)
    result["confusion"] = measure.confusion(plan)
    for row in result["confusion"]:
        counts = "same counts" if row["same"] else "DIFFERENT counts"
        print(
            f"confusion matrix, {row['way']}: {row['milliseconds']:.3f} ms, "
            f"{row['ratio']:.1f} times as fast as torchmetrics, {counts}"
        )
    result["minutes"] = (time.monotonic() - started) / 60
    return result


def _machine(plan: Plan) -> dict[str, Any]:
    card = torch.cuda.get_device_name() if plan.device == "cuda" else platform.processor() or "CPU"
    memory = torch.cuda.get_device_properties(0).total_memory if plan.device == "cuda" else 0
    return {
        "card": card,
        "memory_gib": memory / 2**30,
        "cores": cores(),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def _print_steps(size: int, rows: list[dict[str, Any]]) -> None:
    print(f"batch of {size}, one cached batch:")
    fp32 = [row for row in rows if row["name"].endswith("style, fp32") and "error" not in row]
    for row in rows:
        if "error" in row:
            print(f"  {row['name']:>27}: {row['error']}")
            continue
        times = ""
        if fp32:
            times = f", {row['images_per_second'] / fp32[0]['images_per_second']:4.2f} x fp32"
        print(
            f"  {row['name']:>27}: {row['images_per_second']:8.1f} images/s{times}, "
            f"{row['tflops']:6.2f} TFLOP/s, {100 * row['share_of_peak']:4.1f} % of the bf16 peak, "
            f"{row['step_gib']:5.1f} GiB a step, first step {row['first_seconds']:.1f} s"
        )


def _print_feeding(size: int, rows: list[dict[str, Any]]) -> None:
    print(f"batch of {size}, real data (0.95 of the cached batch is wanted):")
    for row in rows:
        alone = "" if row["loader_alone"] is None else f", alone {row['loader_alone']:8.1f}"
        workers = "" if row["workers"] is None else f" ({row['workers']} workers)"
        print(
            f"  {row['executor'] + workers:>27}: {row['images_per_second']:8.1f} images/s, "
            f"{row['share_of_cached']:.3f} of the cached batch{alone}"
        )


def _release(plan: Plan) -> None:
    if plan.compile:
        torch._dynamo.reset()
    if plan.device == "cuda":
        torch.cuda.empty_cache()


def main(arguments: list[str] | None = None) -> int:
    """Run the benchmark; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to try the script")
    parser.add_argument("--json", type=Path, help="file that takes all figures")
    given = parser.parse_args(arguments)
    if given.device == "cuda" and not torch.cuda.is_available():
        print(
            "torch sees no GPU here, so there is nothing to measure. Check the driver with "
            "nvidia-smi; `--device cpu --quick` tries the script without one.",
            file=sys.stderr,
        )
        return 1
    if given.json and (given.json.is_dir() or not given.json.absolute().parent.is_dir()):
        parser.error(f"--json {given.json}: expected a file in a directory that exists")
    # Read when CUDA starts; the deterministic runs need it.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    result = run((QUICK if given.quick else FULL)._replace(device=given.device))
    print(f"{result['minutes']:.1f} minutes")
    if given.json:
        given.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

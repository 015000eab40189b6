"""Training speed by how long idle threads of OpenMP spin: as segops has it, and as libgomp has it.

A process for each side trains the network of ``params.yaml`` in fp32 on one batch, on all cores
that this process may use. They take their steps in turn, so that both see the same machine; the one
whose turn it is not sleeps. Every other round has busy processes beside them, as many as cores.
The ratios are medians of those of the rounds; the machine's load says how quiet it was otherwise.
At the end both sides must have the same weights, by their SHA-256.
Run: ``python -m benchmarks.openmp_spin``.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

OURS, THEIRS = "segops", "libgomp's default"
SIDES: dict[str, dict[str, str]] = {OURS: {}, THEIRS: {"GOMP_SPINCOUNT": "300000"}}
"""What each side's environment holds; 300,000 is what libgomp takes where nobody says anything."""
CHOICES = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
QUIET, BUSY = "nothing beside it", "busy processes beside it"
ROUNDS = 7
STEPS = 3
SIDE = "--side"
Worker = subprocess.Popen[str]


def train() -> None:
    """Be a side: take as many steps as each line asks for, say images/s; at the end the digest."""
    importlib.import_module("segops")  # before anything loads torch, as in all that segops starts
    import safetensors.torch

    from benchmarks.common import generated_store, job_of, random_batch, settings_of
    from segops.files import sha256_bytes
    from segops.params.hardware import HardwareParams
    from segops.runtime.classes import VOC_CLASSES
    from segops.train.engine import Engine
    from segops.train.hardware import build_fabric, choose_threads, reproducible

    settings = settings_of(device="cpu", precision="fp32")
    params = settings.train
    images, masks = random_batch(params.batch_size, settings.augment.crop, len(VOC_CLASSES))
    with tempfile.TemporaryDirectory() as directory:
        job = job_of(settings, generated_store(Path(directory), 1), Path(directory))
        fabric, device, _ = build_fabric(params)
        engine = Engine(job, fabric)
    engine.train_mode()
    number = 0
    with reproducible(device, choose_threads(HardwareParams())):
        for line in sys.stdin:
            started = time.perf_counter()
            for _ in range(int(line)):
                engine.step(images, masks, number, params.lr)
                number += 1
            print(int(line) * params.batch_size / (time.perf_counter() - started), flush=True)
    state = {name: one.contiguous() for name, one in engine.network.state_dict().items()}
    print(sha256_bytes(safetensors.torch.save(state)))


@contextlib.contextmanager
def side(added: dict[str, str]) -> Iterator[Worker]:
    """A process that trains when it is told to."""
    free = {name: value for name, value in os.environ.items() if name not in CHOICES}
    with subprocess.Popen(
        [sys.executable, "-m", "benchmarks.openmp_spin", SIDE],
        env={**free, **added},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Processes that take whatever the system gives them."""
    with contextlib.ExitStack() as stack:
        for _ in range(count):
            process = stack.enter_context(
                subprocess.Popen([sys.executable, "-c", "while True: pass"])
            )
            stack.callback(process.kill)
        yield


def speed(process: Worker, steps: int) -> float:
    """Images a second of its next steps."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{steps}\n")
    process.stdin.flush()
    return float(process.stdout.readline())


def digest(process: Worker) -> str:
    """SHA-256 of the weights that it has come to."""
    return process.communicate()[0].strip()


def report(name: str, speeds: dict[str, list[float]], loads: list[float]) -> None:
    """Print medians of both sides, and their ratio."""
    print(f"{name} (load {min(loads):.1f} to {max(loads):.1f}), medians of {len(loads)} rounds")
    ratios = [ours / theirs for ours, theirs in zip(speeds[OURS], speeds[THEIRS], strict=True)]
    for label, values in speeds.items():
        print(f"{label:>20}: {statistics.median(values):6.1f} images/s")
    print(
        f"{'ratio':>20}: {statistics.median(ratios):6.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
    )


def main() -> None:
    """Compare; exits with 1 if the weights differ."""
    from segops.threads import cores  # sets for this process what its children choose themselves

    found: dict[str, dict[str, list[float]]] = {
        one: {label: [] for label in SIDES} for one in (QUIET, BUSY)
    }
    loads: dict[str, list[float]] = {one: [] for one in found}
    with contextlib.ExitStack() as stack:
        sides = {label: stack.enter_context(side(added)) for label, added in SIDES.items()}
        for process in sides.values():
            speed(process, 2)  # memory and kernels are found once
        for turn in range(ROUNDS):
            order = list(sides.items())[:: 1 if turn % 2 else -1]
            for name, speeds in found.items():
                with busy(cores() if name == BUSY else 0):
                    for label, process in order:
                        speeds[label].append(speed(process, STEPS))
                loads[name].append(os.getloadavg()[0])
        digests = {digest(process) for process in sides.values()}
    print(f"{cores()} cores, {STEPS} steps a turn")
    for name, speeds in found.items():
        report(name, speeds, loads[name])
    print(f"{'weights':>20}: {' and '.join(sorted(digests))}")
    if len(digests) > 1:
        raise SystemExit("The weights differ.")


if __name__ == "__main__":
    train() if SIDE in sys.argv else main()

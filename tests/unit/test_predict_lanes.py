"""How many images are predicted at a time, and on how many threads each."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from segops.predict import lanes
from segops.predict.bundle import BundledPredictor
from segops.predict.folder import predict_folder
from segops.predict.lanes import Lanes
from segops.predict.outputs import Options
from segops.predict.predictor import Prediction

from .folder_runs import contents, make_bundle, save


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("model") / "bundle")


def threads_of_a_new_thread() -> int:
    """Threads of torch that a thread has which did not call it before."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


@pytest.mark.parametrize(
    ("explain", "room", "expected"),
    [
        (None, 1 << 20, {(4, 1)}),
        (None, 2 * 37 * 50 + 1, {(2, 2)}),
        (None, 37 * 50 + 1, {(1, 4)}),
        ("auto", 1 << 20, {(1, 4)}),
    ],
)
def test_as_many_images_at_a_time_as_there_are_threads_and_room(
    explain: str | None,
    room: int,
    expected: set[tuple[int, int]],
    bundle: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    one_thread: None,
) -> None:
    """Also, what comes of it is what comes of one after another."""
    for seed in range(12):
        save(tmp_path / f"photos/{seed}.png", seed)
    predict_folder(tmp_path / "photos", bundle, tmp_path / "one", Options(explain=explain))
    lock, under_way, seen = Lock(), 0, list[tuple[int, int]]()
    predict = BundledPredictor.predict

    def watch(self: BundledPredictor, image: NDArray[np.uint8]) -> Prediction:
        nonlocal under_way
        with lock:
            under_way += 1
            seen.append((under_way, torch.get_num_threads()))
        try:
            time.sleep(0.02)
            return predict(self, image)
        finally:
            with lock:
                under_way -= 1

    monkeypatch.setattr(BundledPredictor, "predict", watch)
    monkeypatch.setattr(lanes, "PIXELS_AT_ONCE", room)
    torch.set_num_threads(4)
    predict_folder(tmp_path / "photos", bundle, tmp_path / "out", Options(explain=explain))
    assert threads_of_a_new_thread() == torch.get_num_threads() == 4
    assert len(seen) == 12
    assert {(max(at_once for at_once, _ in seen), threads) for _, threads in seen} == expected
    assert contents(tmp_path / "out") == contents(tmp_path / "one")


def test_a_large_image_goes_alone_on_all_threads(
    monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setattr(lanes, "PIXELS_AT_ONCE", 1000)
    torch.set_num_threads(4)
    found, lock = Lanes("cpu"), Lock()
    under_way: list[int] = []
    seen: list[tuple[int, list[int], int]] = []

    def predict(pixels: int) -> None:
        with found.taken(pixels):
            with lock:
                under_way.append(pixels)
            time.sleep(0.01)
            with lock:
                seen.append((pixels, list(under_way), torch.get_num_threads()))
                under_way.remove(pixels)

    sizes = [100, 100, 5000, 100, 400, 100, 501, 100, 400, 400] * 3
    threads = [threading.Thread(target=predict, args=(pixels,)) for pixels in sizes]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(seen), under_way) == (len(sizes), [])
    share = {100: 1, 400: 2, 501: 4, 5000: 4}
    for pixels, beside, used in seen:
        assert used == share[pixels]
        assert sum(share[one] for one in beside) <= 4
    assert max(len(beside) for _, beside, _ in seen) > 1
    found.close()
    assert threads_of_a_new_thread() == 4
    assert Lanes("cuda").count == Lanes("cpu", most=1).count == 1

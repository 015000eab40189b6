"""The benchmark that needs a GPU: all of it runs here in small; without one it says so."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from benchmarks.gpu.__main__ import main


@pytest.mark.slow
@pytest.mark.long
def test_all_of_it_runs_in_small_on_the_cpu(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--device", "cpu", "--quick", "--json", str(tmp_path / "figures.json")]) == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert set(figures["matmul_tflops"]) == {"torch.bfloat16", "torch.float32"}
    assert [row["name"] for row in figures["steps"]] == [
        "segops fp32",
        "segops fp32, deterministic",
        "torchvision style, fp16",
        "torchvision style, fp32",
    ]
    assert all(row["images_per_second"] > 0 < row["tflops"] for row in figures["steps"])
    assert [row["executor"] for row in figures["feeding"]] == ["cpu", "gpu", "cached"]
    assert figures["feeding"][-1]["share_of_cached"] == 1
    assert [row["way"] for row in figures["confusion"]] == [
        "segops through the CPU",
        "segops on the device",
        "torchmetrics on the device",
    ]
    assert all(row["same"] and row["ratio"] > 0 for row in figures["confusion"])
    assert figures["confusion"][-1]["ratio"] == 1
    printed = capsys.readouterr().out
    assert "of the bf16 peak" in printed
    assert "of the cached batch" in printed
    assert printed.count("same counts") == 3


def test_a_file_that_cannot_take_the_figures_is_refused_before_anything_is_measured(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for place in (tmp_path, tmp_path / "missing" / "figures.json"):
        with pytest.raises(SystemExit):
            main(["--device", "cpu", "--quick", "--json", str(place)])
        shown = capsys.readouterr()
        assert f"--json {place}: expected a file in a directory that exists" in shown.err
        assert shown.out == ""


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 1
    assert "torch sees no GPU here" in capsys.readouterr().err

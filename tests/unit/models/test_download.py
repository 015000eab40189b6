"""Published weights, downloaded from a server on the loopback device that answers as the hub does.

In a process of its own, because the hub's address and cache are read when its library is imported.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from segmentation_models_pytorch.encoders import encoders

from segops.runtime.networks.zoo import ModelSpec, build
from tests.support.loopback import Server, serve

PROGRAM = """
import sys
import torch
from segops.models.pretrained import check_download
from segops.models.pretrained import build_pretrained, normalisation
from segops.runtime.networks.zoo import ModelSpec, build
check_download(sys.argv[1])
network = build_pretrained(ModelSpec("unet", sys.argv[1], 3), "imagenet")
torch.save(network.encoder.state_dict(), sys.argv[2])
"""
pytestmark = pytest.mark.slow  # each starts a process that imports torch and timm
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def server() -> Iterator[Server]:
    with serve() as state:
        state.digests = True
        state.headers = {"X-Repo-Commit": COMMIT}
        yield state


def encoder_state(name: str) -> dict[str, torch.Tensor]:
    torch.manual_seed(7)
    network = build(ModelSpec("unet", name, 3))
    assert network.encoder is not None
    return dict(network.encoder.state_dict())


def publish(server: Server, repository: str, revision: str, state: dict[str, torch.Tensor]) -> str:
    path = f"/{repository}/resolve/{revision}/model.safetensors"
    server.files[path] = save({name: one.contiguous() for name, one in state.items()})
    config = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4], "input_range": [0, 1]}
    server.files[path.replace("model.safetensors", "config.json")] = json.dumps(config).encode()
    return path


def download(server: Server, encoder: str, directory: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: v for name, v in os.environ.items() if not name.startswith("HF_")}
    environment |= {"HF_ENDPOINT": server.address, "HF_HOME": str(directory / "hub")}
    return subprocess.run(
        [sys.executable, "-c", PROGRAM, encoder, str(directory / "encoder.pt")],
        env=environment,
        capture_output=True,
        text=True,
    )


def loaded(directory: Path) -> dict[str, Any]:
    state: dict[str, Any] = torch.load(directory / "encoder.pt", weights_only=True)
    return state


def test_weights_that_smp_publishes(server: Server, tmp_path: Path) -> None:
    published = encoder_state("resnet18")
    settings = encoders["resnet18"]["pretrained_settings"]["imagenet"]
    server.headers["X-Repo-Commit"] = settings["revision"]
    path = publish(server, settings["repo_id"], settings["revision"], published)
    done = download(server, "resnet18", tmp_path)
    assert done.returncode == 0, done.stderr
    found = loaded(tmp_path)
    assert found.keys() == published.keys()
    assert all(torch.equal(found[name], one) for name, one in published.items())
    assert [one.status for one in server.requests if one.path == path][-1] == 200

    # The second time they come from the cache, and nobody is asked.
    server.requests.clear()
    assert download(server, "resnet18", tmp_path).returncode == 0
    assert server.requests == []


def test_weights_that_timm_publishes(server: Server, tmp_path: Path) -> None:
    published = {
        name.removeprefix("model."): one for name, one in encoder_state("tu-resnet18").items()
    }
    path = publish(server, "timm/resnet18.a1_in1k", "main", published)
    done = download(server, "tu-resnet18", tmp_path)
    assert done.returncode == 0, done.stderr
    found = loaded(tmp_path)
    assert all(torch.equal(found[f"model.{name}"], one) for name, one in published.items())
    assert [one.status for one in server.requests if one.path == path][-1] == 200


@pytest.mark.parametrize("encoder", ["resnet18", "tu-resnet18"])
def test_a_download_that_fails_is_not_blamed_on_the_architecture(
    encoder: str, server: Server, tmp_path: Path
) -> None:
    server.statuses = [None, *[403] * 20]  # the server answers, but does not hand them out
    server.files["/"] = b""
    done = download(server, encoder, tmp_path)
    assert done.returncode != 0
    last = done.stderr.strip().splitlines()[-1]
    assert f"SegopsError: model.encoder_weights: imagenet weights of {encoder} cannot be" in last
    assert server.address in last
    assert "set it to null" in last

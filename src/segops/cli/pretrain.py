"""`segops pretrain`: an encoder learns from images without masks."""

from __future__ import annotations

import logging
from typing import Annotated

import typer

from segops.cli.common import checkout, console
from segops.runtime.errors import SegopsError

log = logging.getLogger("segops")


def pretrain(
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start from the beginning, whatever there is.")
    ] = False,
) -> None:
    """Pretrain the encoder of params.yaml on images without masks, as section pretrain says.

    Writes models/pretrained: encoder.safetensors for model.encoder_weights, a page of restored
    images, and pretraining.json; MLflow gets a run. A killed pretraining continues where it was.
    """
    from segops.operate import turns
    from segops.params.file import load_params
    from segops.pretrain.run import run
    from segops.record.pretraining import record_pretraining

    root = checkout()
    with turns.card(load_params(root).train.device):
        found = run(root, fresh)
    rows = found.result["epochs"]
    if not found.is_new:
        console.say("Nothing changed since the last pretraining; its weights are kept.")
    console.say(
        f"{found.result['encoder']}: loss {rows[0]['train_loss']:.4f} in the first epoch, "
        f"{rows[-1]['train_loss']:.4f} in the last.\nSet model.encoder_weights in params.yaml to "
        f"{found.weights.relative_to(root)}; look at {found.page.relative_to(root)}."
    )
    try:
        record_pretraining(root, found.result)
    except SegopsError as error:
        log.warning("MLflow has no run of it yet: %s The same command records it later.", error)

"""`train.pruning`: what is refused when parameters are read."""

from __future__ import annotations

from typing import Any

import pytest

from segops.params.compatibility import MASKS, NOT_PRUNED
from segops.params.file import parse_params
from segops.runtime.errors import SegopsError

CHAMPION = "models:/segops@champion"


def tree(share: Any, **model: Any) -> dict[str, Any]:
    return {"model": model, "train": {"pruning": share}}


def test_nothing_is_pruned_unless_asked_for() -> None:
    assert parse_params({}).train.pruning is None
    assert parse_params(tree(0.3, start_from=CHAMPION)).train.pruning == 0.3


@pytest.mark.parametrize("share", [0, 1, -0.5, 30, "a third"])
def test_a_share_lies_between_none_and_all(share: Any) -> None:
    with pytest.raises(SegopsError, match=r"train\.pruning"):
        parse_params(tree(share, start_from=CHAMPION))


def test_a_model_to_prune_must_be_named() -> None:
    with pytest.raises(SegopsError, match=r"train\.pruning: model\.start_from is null.*set it"):
        parse_params(tree(0.3))


@pytest.mark.parametrize("architecture", sorted(NOT_PRUNED))
def test_an_architecture_of_the_table_is_refused_with_its_reason(architecture: str) -> None:
    encoder = "resnet18" if architecture == "manet" else "tu-vit_tiny_patch16_224"
    model = {"architecture": architecture, "encoder": encoder, "start_from": CHAMPION}
    own = {"loss": "mask_classification"} if architecture == MASKS else {}
    parse_params({"model": model, "train": own})
    reason = rf"train\.pruning: model\.architecture {architecture} cannot be pruned: \w+"
    with pytest.raises(SegopsError, match=reason):
        parse_params({"model": model, "train": own | {"pruning": 0.3}})

"""A champion of other classes: it is told of before a training, and by the gate with what to do."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from segops import paths
from segops.data.packing import pack
from segops.data.store import PackedStore
from segops.evaluate import kept_champion
from segops.evaluate.bootstrap import COLUMNS
from segops.evaluate.kept_champion import ChampionEvaluation
from segops.params.gate import GateParams
from segops.release import champion_evaluation, paired_counts, pairing
from segops.release.pairing import PairedCounts
from segops.release.versions import Version
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.voc.layout import open_layout

OWN = ("background", "crack")
TOLD = r"set registry\.model in params\.yaml to another name"


def test_the_gate_says_so_before_anything_is_scored(generated_voc: Path, tmp_path: Path) -> None:
    pack(open_layout(generated_voc), tmp_path / paths.PACKED, VOC_CLASSES)
    val = PackedStore(tmp_path / paths.PACKED).split_hash("val")
    version = Version("3", "0" * 32, {})
    with pytest.raises(SegopsError, match=TOLD) as caught:
        paired_counts._scored(tmp_path, tmp_path / "bundle", version, OWN, val, None)
    assert "version 3 has the classes background, crack, the challenger" in str(caught.value)
    assert "bundle" not in str(caught.value)
    ours = PairedCounts("4", "1" * 64, OWN, frozenset(), pd.DataFrame(columns=list(COLUMNS)))
    with pytest.raises(SegopsError, match=TOLD):
        pairing.compare(ours, replace(ours, class_names=VOC_CLASSES), val, GateParams())


def test_it_is_told_before_a_training(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    counts = pd.DataFrame(columns=list(COLUMNS))
    champion = ChampionEvaluation("segops", "3", "1" * 64, OWN, frozenset(), "2" * 64, {}, counts)
    with caplog.at_level("WARNING", "segops"):
        champion_evaluation.warn_of_other_classes(tmp_path, VOC_CLASSES)
        kept_champion.write(tmp_path, champion)
        champion_evaluation.warn_of_other_classes(tmp_path, OWN)
        assert not caplog.records
        champion_evaluation.warn_of_other_classes(tmp_path, VOC_CLASSES)
    (record,) = caplog.records
    assert "champion, version 3 has the classes background, crack" in record.message
    assert "set registry.model" in record.message

"""What an edit costs: the stages that DVC runs again after it, where all have run."""

from __future__ import annotations

import ast
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from dvc.repo import Repo

from segops import code, pipeline
from segops.stages import code as stage
from tests.integration.conftest import set_params

pytestmark = pytest.mark.slow

Edit = Callable[[str], str]


def say(old: str, new: str) -> Edit:
    """Replace words that must be there."""

    def edited(text: str) -> str:
        assert old in text
        return text.replace(old, new, 1)

    return edited


def add(text: str) -> Edit:
    return lambda before: f"{before}\n{text}\n"


def laid_out_anew(text: str) -> str:
    assert "#" in text
    return ast.unparse(ast.parse(text))


DEED = add("ANOTHER = 1")
EVERYTHING = {"validate", "prepare", "augment", "train", "package", "export", "evaluate"}

EDITS: list[tuple[str, Edit, set[str]]] = [
    # Words and layout.
    ("params/gate.py", say("Least mIoU on val.", "The least mIoU on val."), set()),
    ("params/train.py", say("Learning rate after warm-up.", "The learning rate."), set()),
    ("train/loop.py", say('"""', '"""In other words. '), set()),
    ("metrics/iou.py", add("# a comment"), set()),
    ("stages/train.py", say("Trained %d steps", "%d steps were trained"), set()),
    ("data/store.py", say("raise SegopsError(\n", 'raise SegopsError("Look: "\n'), set()),
    ("voc/layout.py", say("-> Layout", "-> object"), set()),
    ("voc/layout.py", say("is no image id", "cannot be an id"), set()),
    ("runtime/predict_settings.py", say("Package the model again", "Package it anew"), set()),
    ("models/pretrained.py", say("does not fit this encoder", "is another's"), set()),
    ("models/loading.py", say("that model is another network", "it differs"), set()),
    ("augment/proof.py", say("appear that the mask does not hold", "are new"), set()),
    ("train/checkpoint.py", say("There is none yet", "None so far"), set()),
    ("evaluate/scoring.py", say("cannot be judged", "stopped the scoring"), set()),
    ("train/loop.py", laid_out_anew, set()),
    ("runtime/networks/zoo.py", laid_out_anew, set()),
    ("__init__.py", say("__version__ = ", '__version__ = "9" + '), set()),
    # Code that decides no stage's result.
    ("release/gate.py", DEED, set()),
    ("release/resolve.py", DEED, set()),
    ("params/gate.py", DEED, set()),
    ("params/tune.py", DEED, set()),
    ("params/compatibility.py", DEED, set()),
    ("params/compatibility.json", add(""), set()),
    ("pipeline/__init__.py", DEED, set()),
    ("cli/life.py", DEED, set()),
    ("paths.py", DEED, set()),
    # Code that decides some.
    ("quality/file_facts.py", DEED, {"validate"}),
    ("report/templates/validation.html", add("<!-- -->"), {"validate"}),
    ("report/templates/evaluation.js", add(";"), {"evaluate"}),
    ("report/evaluation_page.py", DEED, {"evaluate"}),
    ("metrics/boundary.py", DEED, {"evaluate"}),
    ("evaluate/scoring.py", DEED, {"evaluate"}),
    ("report/html.py", DEED, {"validate", "evaluate"}),
    ("report/augmentation.py", DEED, {"augment"}),
    ("augment/geometry.py", DEED, {"augment", "train"}),
    ("runtime/predict_settings.py", DEED, {"package", "export", "evaluate"}),
    ("runtime/windows.py", DEED, {"package", "export"}),
    ("runtime/pyfunc_model.py", DEED, {"package", "export"}),
    ("runtime/exported/onnx_network.py", DEED, {"export"}),
    ("export/graph.py", DEED, {"export"}),
    ("models/losses/regions.py", DEED, {"train"}),
    ("train/schedules.py", DEED, {"train"}),
    ("params/train.py", say("Field(1e-3", "Field(2e-3"), {"train"}),
    ("runtime/networks/zoo.py", DEED, {"train", "package", "export"}),
    ("params/data.py", DEED, EVERYTHING),
    ("files.py", DEED, EVERYTHING),
]
LIBRARIES = [
    ("prefect", set()),
    ("pydantic", {"package", "export"}),  # the bundle needs it
    ("mlflow", {"package", "export"}),  # it writes down what the model needs to be served
    ("great-expectations", {"validate"}),
    ("albumentations", {"augment", "train"}),
    ("torch", {"train", "package", "export", "evaluate"}),
    ("onnxscript", {"export"}),
]
PARAMETERS = [
    ({"gate": {"min_miou": 0.1}}, set()),
    ({"tune": {"trials": 3}}, set()),
    ({"hardware": {"threads": 2}}, set()),
    ({"validate": {"max_void_fraction": 0.8}}, {"validate"}),
    ({"evaluate": {"seed": 1}}, {"evaluate"}),
    ({"registry": {"model": "cracks"}}, {"evaluate"}),
    ({"registry": {"experiment": "cracks"}}, set()),
    ({"predict": {"flip": True}}, {"package"}),
    ({"export": {"calibration_images": 9}}, {"export"}),
    ({"gate": {"export": {"max_mib": 9.0}}}, set()),
    ({"train": {"lr": 0.5}}, {"train"}),
]


@pytest.fixture(scope="module")
def tree(reproduced: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the reproduced workspace, with the code that this process runs."""
    target = tmp_path_factory.mktemp("edits") / "workspace"
    shutil.copytree(reproduced, target, symlinks=True)
    return target


@pytest.fixture
def edited(tree: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(code, "ROOT", tree / "src" / "segops")
    monkeypatch.chdir(tree)  # where DVC looks for stages
    return tree


def stale(root: Path) -> set[str]:
    """What DVC says has changed, once the stage code has run."""
    stage.run(root)
    with Repo(str(root)) as repository:
        found = repository.status()
    assert "always changed" in found.pop("code")
    return set(found)


def test_nothing_is_stale_where_nothing_changed(edited: Path) -> None:
    assert stale(edited) == set()
    assert {one.state for one in pipeline.states(edited)} == {"up to date"}
    assert all(pipeline.is_unchanged(edited, one.name) for one in pipeline.states(edited))


@pytest.mark.parametrize(("path", "edit", "expected"), EDITS)
def test_an_edit_of_the_code(path: str, edit: Edit, expected: set[str], edited: Path) -> None:
    file = edited / "src" / "segops" / path
    before = file.read_text()
    after = edit(before)
    assert after != before
    file.write_text(after)
    try:
        assert stale(edited) == expected
    finally:
        file.write_text(before)


@pytest.mark.parametrize(("library", "expected"), LIBRARIES)
def test_another_version_of_a_library(
    library: str, expected: set[str], edited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    metadata = tmp_path / f"{library.replace('-', '_')}-999.dist-info" / "METADATA"
    metadata.parent.mkdir()
    metadata.write_text(f"Metadata-Version: 2.1\nName: {library}\nVersion: 999\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert stale(edited) == expected


@pytest.mark.parametrize(("sections", "expected"), PARAMETERS)
def test_another_value_of_a_parameter(
    sections: dict[str, dict[str, object]], expected: set[str], edited: Path
) -> None:
    before = (edited / "params.yaml").read_text()
    set_params(edited, **sections)
    try:
        assert stale(edited) == expected
    finally:
        (edited / "params.yaml").write_text(before)


def test_a_missing_or_spoilt_file_of_the_code_is_no_change_of_it(edited: Path) -> None:
    stage.run(edited)
    (edited / "code" / "train.json").write_text("{")
    (edited / "code" / "prepare.json").unlink()
    try:
        found = {one.name: one.state for one in pipeline.states(edited)}
    finally:
        stage.run(edited)
    assert found.pop("code") == "stale"
    assert set(found.values()) == {"up to date"}


def test_what_lies_below_a_stale_stage_is_stale_before_anything_runs(edited: Path) -> None:
    file = edited / "src" / "segops" / "models" / "losses" / "regions.py"
    before = file.read_text()
    stage.run(edited)
    file.write_text(DEED(before))
    try:
        found = {one.name: (one.state, one.why) for one in pipeline.states(edited)}
        assert not pipeline.is_unchanged(edited, "code")
    finally:
        file.write_text(before)
    assert found["augment"] == ("up to date", "")
    assert found["train"] == ("stale", "changed code")
    assert found["package"] == ("perhaps", "if train gives another result")
    assert found["evaluate"][0] == "perhaps"

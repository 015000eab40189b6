"""What MLflow would run beside a bundle is what the bundle holds; else nothing of it is run."""

from __future__ import annotations

import py_compile
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from segops.params.registry import RegistryParams
from segops.predict.bundle import bundle_digest, load_bundle
from segops.record import artifact, wrapping
from segops.record.tracking import session
from segops.release import promotion
from segops.release.resolve import resolved, resolved_version
from segops.release.rollback import rollback
from segops.runtime.errors import SegopsError
from tests.support import registry_workspace as made
from tests.support.registry_workspace import aliases, release

CHAMPION = "models:/segops@champion"
FORMAT1 = Path(__file__).parents[1] / "bundles/format1"


@pytest.fixture(autouse=True)
def _embedded_database(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What MLflow saves of a bundle, by the bundle's format."""
    root = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.chdir(root)
        (root / "uv.lock").write_text("")
        (root / "pyproject.toml").write_text("")
        made.put_database(root)
        made.make(root / "checkout")
        made.train(root / "checkout", seed=1, quality=None)
        found = {}
        with session(root, RegistryParams()) as store:
            run = store.client.create_run(store.experiment_id).info.run_id
            for name, bundle in (("1", FORMAT1), ("2", root / "checkout/models/segmenter")):
                digest = bundle_digest(bundle)
                model = artifact.log_bundle(store, run, bundle, digest, {})
                assert artifact.fetch_logged(store, model, root / f"fetched{name}").is_dir()
                found[name] = root / f"mlartifacts/models/{model.model_id}/artifacts"
    return found


def faults(directory: Path) -> list[str]:
    description = yaml.safe_load((directory / "MLmodel").read_text())
    flavor = description["flavors"]["python_function"]
    bundle = directory / flavor["artifacts"]["bundle"]["path"]
    return list(wrapping.faults(directory, bundle, description))


def edit(path: Path, **values: Any) -> None:
    tree = yaml.safe_load(path.read_text())
    target = tree["flavors"]["python_function"] if path.name == "MLmodel" else tree
    target.update(values)
    path.write_text(yaml.safe_dump(tree))


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("version", ["1", "2"])
def test_what_mlflow_saves_of_a_bundle_has_no_fault(saved: dict[str, Path], version: str) -> None:
    assert faults(saved[version]) == []


CHANGES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "script": (lambda one: flip(one / "pyfunc_model.py"), "pyfunc_model.py is not the bundle's"),
    "module": (lambda one: (one / "pandas.py").touch(), "pandas.py does not belong"),
    "folder": (lambda one: (one / "code").mkdir(), "code does not belong"),
    "artifact": (lambda one: (one / "artifacts/x").touch(), "artifacts/x does not belong"),
    "link": (lambda one: (one / "uv.lock").symlink_to("x"), "uv.lock does not belong"),
    "requirement": (
        lambda one: (one / "requirements.txt").write_text("evil==1"),
        "requirements.txt names 'evil==1'",
    ),
    "conda": (
        lambda one: edit(one / "conda.yaml", dependencies=[{"pip": ["evil"]}]),
        "conda.yaml names 'evil'",
    ),
    "channel": (lambda one: edit(one / "conda.yaml", channels=["evil"]), "conda.yaml names 'evil'"),
    "python": (
        lambda one: edit(one / "python_env.yaml", build_dependencies=["pip @ http://evil"]),
        "python_env.yaml names 'pip @ http://evil'",
    ),
    "loader": (lambda one: edit(one / "MLmodel", loader_module="os"), "'os' as its loader_module"),
    "code": (lambda one: edit(one / "MLmodel", code="artifacts"), "'artifacts' as its code"),
    "pickle": (lambda one: edit(one / "MLmodel", python_model="x.pkl"), "as its python_model"),
    "path": (lambda one: edit(one / "MLmodel", model_code_path="x.py"), "as its model_code_path"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_beside_the_bundle_is_named(
    saved: dict[str, Path], tmp_path: Path, change: str
) -> None:
    directory = shutil.copytree(saved["2"], tmp_path / "model")
    deed, words = CHANGES[change]
    deed(directory)
    (fault,) = faults(directory)
    assert words in fault


def test_what_mlflow_adds_when_it_loads_a_model_is_no_fault(
    saved: dict[str, Path], tmp_path: Path
) -> None:
    directory = shutil.copytree(saved["2"], tmp_path / "model")
    (directory / "registered_model_meta").touch()
    compiled = Path(py_compile.compile(str(directory / "pyfunc_model.py"), doraise=True))
    assert faults(directory) == []
    content = compiled.read_bytes()
    evil = directory / "evil.py"
    evil.write_text((directory / "pyfunc_model.py").read_text().replace("Photographs", "Evil"))
    unchecked = py_compile.PycInvalidationMode.UNCHECKED_HASH
    py_compile.compile(str(evil), str(compiled), invalidation_mode=unchecked)
    evil.unlink()
    for wrong in (compiled.read_bytes(), content[:-9], content + b"N", content[:16], b""):
        compiled.write_bytes(wrong)
        (fault,) = faults(directory)
        assert "pyc is not what this Python compiles from pyfunc_model.py" in fault
    compiled.write_bytes(content)
    assert faults(directory) == []
    compiled.rename(compiled.with_name("pyfunc_model.cpython-399.pyc"))
    assert len(faults(directory)) == 1


def test_a_version_is_used_as_it_was_checked_whatever_is_put_in_its_place_then(
    tmp_path: Path,
) -> None:
    root = made.make(tmp_path / "checkout")
    release(root, seed=1, quality=0.7)
    (stored,) = root.glob("mlartifacts/models/*/artifacts/artifacts/segmenter")
    with resolved_version(CHAMPION, root) as (bundle, version):
        assert version is not None
        shutil.rmtree(stored)
        shutil.copytree(FORMAT1, stored)
        loaded = load_bundle(bundle)
        assert loaded.digest == version.bundle_digest != bundle_digest(stored)
    with pytest.raises(SegopsError, match="is not the bundle's"), resolved(CHAMPION, root):
        pass


@pytest.mark.slow
def test_every_command_refuses_a_version_with_another_script(tmp_path: Path) -> None:
    root = made.make(tmp_path / "checkout")
    release(root, seed=1, quality=0.7)
    release(root, seed=2, quality=0.8)
    for script in root.glob("mlartifacts/models/*/artifacts/pyfunc_model.py"):
        flip(script)
    before = aliases(root)
    refused = r"segops version \d: pyfunc_model\.py is not the bundle's"
    with pytest.raises(SegopsError, match=refused), resolved(CHAMPION, root):
        pass
    with pytest.raises(SegopsError, match=refused):
        rollback(root, "halos")
    decision = promotion.gate(root)
    assert decision.verdict == "rejected"
    assert "pyfunc_model.py is not the bundle's" in decision.reason
    promotion.promote(root, decision)
    assert aliases(root) == before

"""The model as an MLflow artifact: logging a bundle, and fetching one back.

Logged as models-from-code with the bundle's own script, so nothing is pickled. MLflow's
`log_model` works on the thread's active run; here the same steps are taken with explicit ids.
"""

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path

import yaml
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from segops.predict.bundle import bundle_digest
from segops.record.lineage import tag
from segops.record.tracking import Store
from segops.runtime.errors import SegopsError

NAME = "segmenter"
SCRIPTS = ("runtime/pyfunc_model.py", "pyfunc_model.py")
"""Where a bundle's script for MLflow lies: in format 2, in format 1."""
KEY = "bundle"
"""Under this key the bundle's script finds the bundle in MLflow's context."""
DIGEST = tag("bundle_digest")
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema([ColSpec(DataType.binary, "mask"), ColSpec(DataType.double, "confidence")]),
)
"""In: JPEG or PNG bytes. Out: palette PNG bytes of class ids, and the mean top probability."""


def find(store: Store, run_id: str, digest: str) -> LoggedModel | None:
    """The model of a run that holds a bundle and was logged to the end, or None.

    Args:
        store: The record.
        run_id: The run.
        digest: The bundle's digest.
    """
    found = store.client.search_logged_models(
        [store.experiment_id], f"source_run_id = '{run_id}' AND tags.`{DIGEST}` = '{digest}'"
    )
    ready = [one for one in found if one.status == LoggedModelStatus.READY]
    return ready[0] if ready else None


def of_run(store: Store, run: Run) -> LoggedModel | None:
    """The model of a run: the one that was evaluated last, else the latest; None without any.

    The same weights may be packaged in several ways, each of which is a model of their run.

    Args:
        store: The record.
        run: The run.
    """
    found = store.client.search_logged_models(
        [store.experiment_id], f"source_run_id = '{run.info.run_id}'"
    )
    ready = [one for one in found if one.status == LoggedModelStatus.READY and DIGEST in one.tags]
    evaluated = run.data.tags.get(DIGEST)
    ready.sort(key=lambda one: (one.tags[DIGEST] == evaluated, one.creation_timestamp))
    return ready[-1] if ready else None


def log_bundle(
    store: Store, run_id: str, bundle: Path, digest: str, params: dict[str, str]
) -> LoggedModel:
    """Log a bundle as the model of a run; remains of an interrupted attempt are removed.

    Args:
        store: The record.
        run_id: The run.
        bundle: The bundle's directory.
        digest: Its digest.
        params: The bundle's parameters as MLflow holds them; its model page shows them.

    Raises:
        MlflowException: MLflow refuses.
    """
    from mlflow import pyfunc

    for left in store.client.search_logged_models(
        [store.experiment_id], f"source_run_id = '{run_id}'"
    ):
        if left.status != LoggedModelStatus.READY:
            store.client.delete_logged_model(left.model_id)
    model = store.client.create_logged_model(
        store.experiment_id, NAME, run_id, tags={DIGEST: digest}, params=params
    )
    scripts = (one for one in SCRIPTS if (bundle / one).is_file())
    script = next(scripts, SCRIPTS[0])
    requirements = (bundle / "requirements.txt").read_text(encoding="utf-8").splitlines()
    with tempfile.TemporaryDirectory() as scratch:
        local = Path(scratch) / "model"
        # MLflow asks for an input example; the signature is explicit and needs none.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pyfunc.save_model(
                path=str(local),
                python_model=str(bundle / script),
                artifacts={KEY: str(bundle)},
                signature=SIGNATURE,
                # Whoever loads the model has its digest checked before its code is run.
                model_config={"device": "auto", "bundle_digest": digest},
                pip_requirements=[line for line in requirements if line.strip()],
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=run_id,
                    model_id=model.model_id,
                ),
            )
        store.client.log_model_artifacts(model.model_id, str(local))
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def fetch_bundle(store: Store, model: str, version: str, target: Path) -> Path:
    """Download a version's artifact and lead to the bundle in it. Nothing of it is run.

    Args:
        store: The record.
        model: Name of the registered model.
        version: Its version.
        target: A directory for the download; where the artifacts lie on this machine, they are
            used in place.

    Raises:
        SegopsError: The artifact holds no bundle.
        MlflowException: The registry does not answer.
    """
    uri = store.client.get_model_version_download_uri(model, version)
    return _fetch(store, uri, f"{model} version {version}", target)


def fetch_logged(store: Store, model: LoggedModel, target: Path) -> Path:
    """Download a run's model and lead to the bundle in it, whose digest is the one logged.

    Args:
        store: The record.
        model: The model, as :func:`of_run` found it.
        target: As :func:`fetch_bundle`.

    Raises:
        SegopsError: The artifact holds no bundle, or was changed since.
        MlflowException: MLflow does not answer.
    """
    name = f"the model of run {model.source_run_id}"
    bundle = _fetch(store, model.artifact_location, name, target)
    found, logged = bundle_digest(bundle), model.tags[DIGEST]
    if found != logged:
        raise SegopsError(
            f"{name}: its artifact has the digest {found[:12]}, logged was {logged[:12]}. "
            "It was changed since; its code is not run. Restore it from a backup, or choose "
            "another."
        )
    return bundle


def _fetch(store: Store, uri: str, name: str, target: Path) -> Path:
    from mlflow.artifacts import download_artifacts

    target.mkdir(parents=True, exist_ok=True)
    try:
        local = Path(
            download_artifacts(artifact_uri=uri, dst_path=str(target), tracking_uri=store.uri)
        )
        tree = yaml.safe_load((local / "MLmodel").read_text(encoding="utf-8"))
        place = tree["flavors"]["python_function"]["artifacts"][KEY]["path"]
    except (OSError, KeyError, TypeError, yaml.YAMLError) as error:
        raise SegopsError(
            f"{name}: its artifact at {uri} holds no bundle of segops ({error}). "
            "Choose a version that segops registered."
        ) from None
    bundle: Path = (local / str(place)).resolve()
    if not bundle.is_relative_to(local.resolve()) or not bundle.is_dir():
        raise SegopsError(f"{name}: its artifact names no directory {place!r}.")
    return bundle


def checked_bundle(
    store: Store, model: str, version: str, expected_digest: str, target: Path
) -> Path:
    """As :func:`fetch_bundle`, and the bundle's digest is the one that was registered.

    Raises:
        SegopsError: The artifact was changed since, or nobody wrote its digest down.
        MlflowException: The registry does not answer.
    """
    bundle = fetch_bundle(store, model, version, target)
    found = bundle_digest(bundle)
    if not expected_digest or found != expected_digest:
        raise SegopsError(
            f"{model} version {version}: its artifact has the digest {found[:12]}, registered was "
            f"{expected_digest[:12] or '(none)'}. It was changed since; its code is not run. "
            "Restore it from a backup, or choose another version."
        )
    return bundle

"""Logs a bundle as an MLflow model (models-from-code, so nothing is pickled) and downloads it.

MLflow's `log_model` needs an active run; this module takes the same steps with explicit run ids.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import yaml
from mlflow.entities import LoggedModel, LoggedModelOutput, LoggedModelStatus, Run
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from segops import files
from segops.predict.bundle import bundle_digest
from segops.predict.package import REQUIREMENTS
from segops.record import wrapping
from segops.record.lineage import tag
from segops.record.tracking import Store, is_missing, public_line, without_credentials
from segops.runtime.errors import SegopsError, TransientError

NAME = "segmenter"
DIGEST = tag("bundle_digest")
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]),
    outputs=Schema([ColSpec(DataType.binary, "mask"), ColSpec(DataType.double, "confidence")]),
)
"""Input: JPEG or PNG bytes. Output: palette PNG bytes of class ids, and the mean top
probability."""


class ArtifactError(SegopsError):
    """A model's artifact is gone, is no bundle, or is not the bundle that was logged."""


def find(store: Store, run_id: str, digest: str) -> LoggedModel | None:
    """Return the run's completely logged model with the bundle of this digest, or None."""
    models = (model for model in _ready(store, run_id) if model.tags[DIGEST] == digest)
    return next(models, None)


def of_run(store: Store, run: Run) -> LoggedModel | None:
    """Return the run's model that was evaluated last, else its latest model, else None.

    A run has several models when its weights were packaged with several prediction settings.
    """
    evaluated = run.data.tags.get(DIGEST)
    return max(
        _ready(store, run.info.run_id),
        key=lambda model: (model.tags[DIGEST] == evaluated, model.creation_timestamp),
        default=None,
    )


def _ready(store: Store, run_id: str) -> list[LoggedModel]:
    """Return the run's models that are bundles and were logged completely."""
    condition = f"source_run_id = '{run_id}'"
    return [
        model
        for model in store.client.search_logged_models([store.experiment_id], condition)
        if model.status == LoggedModelStatus.READY and DIGEST in model.tags
    ]


def log_bundle(
    store: Store, run_id: str, bundle: Path, digest: str, params: dict[str, str]
) -> LoggedModel:
    """Log a bundle as the model of a run.

    MLflow shows `params`, the bundle's parameters as MLflow stores them, on the model's page.

    Raises:
        SegopsError: The bundle lacks its script.
        MlflowException: MLflow refuses.
    """
    from mlflow import pyfunc

    script = wrapping.script(bundle)
    if script is None:
        raise SegopsError(
            f"{bundle}: the bundle is damaged: it lacks {wrapping.SCRIPTS[0]}. `dvc repro "
            "package` makes it again."
        )
    model = store.client.create_logged_model(
        store.experiment_id, NAME, run_id, tags={DIGEST: digest}, params=params
    )
    with files.scratch() as scratch:
        local = str(scratch / "model")
        # MLflow warns that an input example is missing; the explicit signature replaces it.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            pyfunc.save_model(
                path=local,
                python_model=str(script),
                artifacts={wrapping.KEY: str(bundle)},
                signature=SIGNATURE,
                # The script checks this digest before it runs any code of the bundle.
                model_config={"device": "auto", "bundle_digest": digest},
                pip_requirements=str(bundle / REQUIREMENTS),
                mlflow_model=Model(
                    artifact_path=model.artifact_location,
                    model_uuid=model.model_id,
                    run_id=run_id,
                    model_id=model.model_id,
                ),
            )
        store.client.log_model_artifacts(model.model_id, local)
    store.client.log_outputs(run_id, [LoggedModelOutput(model.model_id, step=0)])
    return store.client.finalize_logged_model(model.model_id, LoggedModelStatus.READY)


def fetch_bundle(store: Store, model: str, version: str, target: Path) -> Path:
    """Download a version's artifact and return the path of its bundle. No code of it is run.

    `target` is an empty directory that only this process uses; artifacts on this machine are copied
    too, so that what is checked there is what is used.

    Raises:
        ArtifactError: The artifact is gone, or holds no bundle.
        TransientError: It cannot be downloaded or read now.
        MlflowException: The registry does not answer.
    """
    uri = store.client.get_model_version_download_uri(model, version)
    return _fetch(store, uri, f"{model} version {version}", target)


def fetch_logged(store: Store, model: LoggedModel, target: Path) -> Path:
    """Download a run's model, check the digest of its bundle and return the bundle's path.

    Arguments and errors are those of :func:`checked_bundle`.
    """
    name = f"the model of run {model.source_run_id}"
    bundle = _fetch(store, model.artifact_location, name, target)
    return _checked(bundle, name, model.tags[DIGEST], "logged")


def checked_bundle(
    store: Store, model: str, version: str, expected_digest: str, target: Path
) -> Path:
    """Call :func:`fetch_bundle` and check the bundle against the registered digest.

    Raises:
        ArtifactError: The artifact is gone, holds no bundle, was changed after registration, or has
            no registered digest.
        TransientError: It cannot be downloaded or read now.
        MlflowException: The registry does not answer.
    """
    bundle = fetch_bundle(store, model, version, target)
    return _checked(bundle, f"{model} version {version}", expected_digest, "registered")


def _checked(bundle: Path, name: str, expected: str, how: str) -> Path:
    try:
        actual = bundle_digest(bundle)
    except OSError as error:
        raise _not_now(name, error) from error
    except SegopsError as error:
        raise ArtifactError(f"{name}: {error}") from error
    if actual != expected:
        raise ArtifactError(
            f"{name}: its artifact has the digest {actual[:12]}; {expected[:12] or '(none)'} was "
            f"{how}. The artifact was changed, so its code is not run. Restore it from a backup, "
            "or choose another model."
        )
    return bundle


def _fetch(store: Store, uri: str, name: str, target: Path) -> Path:
    local = _downloaded(store, uri, name, target)
    wrong = f"{name}: its artifact at {uri} holds no segops bundle"
    try:
        tree = yaml.safe_load((local / "MLmodel").read_text(encoding="utf-8"))
        place = tree["flavors"]["python_function"]["artifacts"][wrapping.KEY]["path"]
        bundle = (local / str(place)).resolve()
        if not bundle.is_relative_to(local) or not bundle.is_dir():
            raise ArtifactError(f"{wrong} at {place!r}. Choose a version that segops registered.")
        fault = next(wrapping.faults(local, bundle, tree), None)
    except (FileNotFoundError, KeyError, TypeError, ValueError, yaml.YAMLError) as error:
        raise ArtifactError(
            f"{wrong} ({error}). Choose a version that segops registered."
        ) from None
    except OSError as error:
        raise _not_now(name, error) from error
    if fault is not None:
        raise ArtifactError(
            f"{name}: {fault}. The digest of the bundle does not cover that, and MLflow would use "
            "it, so no code of this model is run. Restore its artifact from a backup, or choose "
            "another model."
        )
    return bundle


def _downloaded(store: Store, uri: str, name: str, target: Path) -> Path:
    """Download what MLflow saved; what is on this machine is copied.

    Whether an artifact is gone, only its store can say: all else may pass.
    """
    from mlflow.artifacts import download_artifacts

    try:
        target.mkdir(parents=True, exist_ok=True)
        found = download_artifacts(uri, dst_path=str(target), tracking_uri=store.uri)
    except (MlflowException, OSError) as error:
        status = getattr(getattr(error, "response", None), "status_code", None)
        if not is_missing(error) and status != 404:
            raise _not_now(name, error) from error
        raise ArtifactError(
            f"{name}: its artifact at {without_credentials(uri)} is gone. Restore it from a "
            "backup, or choose another model."
        ) from error
    return Path(found).resolve()


def _not_now(name: str, error: Exception) -> TransientError:
    return TransientError(
        f"{name} cannot be fetched now: {public_line(error)}. Check the store of its artifacts, "
        "your login and the disk of this machine, then try again."
    )

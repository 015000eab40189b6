"""The steps that make a registered model again, as a script, and the command that runs it."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from segops import paths
from segops.params.model import ModelParams
from segops.params.train import TrainParams
from segops.record.lineage import project_of
from segops.record.tracking import EMBEDDED

TRAINED_WITH = "trained_with.yaml"
"""In a run's lineage: params.yaml as first recorded with the training. The code that trained may
not know parameters that were added before its weights were packaged again."""
WORKTREE = "worktree"
"""Name of the worktree, beside the directory of the lineage."""
NO_DATA = 66
"""Exit status of the script if the data are not to be had (EX_NOINPUT)."""
_SET = (
    "import pathlib, sys; from segops import edit; "
    'edit.plan(pathlib.Path("params.yaml"), {sys.argv[1]: sys.argv[2]}).write()'
)
"""Python that sets the parameter named by its first argument to its second argument."""


_IS_SAME = (
    "import hashlib, sys; "
    'sys.exit(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest() != sys.argv[2])'
)
"""Python that fails where the file of its first argument has another SHA-256 than its second."""


def bundle_directory(digest: str) -> str:
    """Return the name of a bundle's directory within the run's lineage directory."""
    return digest[:12]


def reproduce_command(run_id: str, digest: str, uri: str) -> str:
    """Return the command that reproduces this bundle in a separate worktree of the main checkout.

    The run holds the lineage; `uri` is MLflow's address without credentials.
    """
    folder = f"{paths.STATE}/reproduce-{digest[:8]}"
    return (
        f"(export MLFLOW_TRACKING_URI={shlex.quote(uri)}; mlflow artifacts download "
        f"--run-id {run_id} --artifact-path lineage --dst-path {folder} && "
        f"sh {folder}/lineage/{bundle_directory(digest)}/reproduce.sh)"
    )


def making_script(
    commit: str,
    packaged_at: str | None,
    data_path: str,
    replaced: Mapping[str, str],
    project: str = "",
    encoder: tuple[str, str] | None = None,
) -> str:
    """Return a script that makes a model again in a worktree beside its lineage.

    It lies in the bundle's directory of the lineage, and is run in the main checkout. It exits with
    :data:`NO_DATA` if the data are neither in DVC's cache nor in a remote.

    Args:
        commit: The commit of the code that trained.
        packaged_at: The commit of the code that packaged, where it differs from the first.
        data_path: The data directory, relative to the workspace.
        replaced: Parameters to replace, as :func:`worktree_params` returns them.
        project: The project, relative to the checkout; empty: the checkout itself.
        encoder: The encoder's local weights, as :func:`encoder_start` returns them.
    """
    enter = f'cd "$tree"/{shlex.quote(project)}\n' if project else ""
    pointer = shlex.quote(f"{data_path}.dvc")
    settings = first = f"""cp "$bundle/params.yaml" params.yaml
mkdir -p "$(dirname {pointer})"
cp "$bundle/data.dvc" {pointer}"""
    if packaged_at is not None:
        first += f"""
if [ -s "$training/{TRAINED_WITH}" ]; then cp "$training/{TRAINED_WITH}" params.yaml; fi"""
    for key, value in replaced.items():
        put = f"""
PYTHONPATH="$tree/src" python -c {shlex.quote(_SET)} {key} {value}"""
        settings, first = settings + put, first + put
    repro = 'SEGOPS_LIVE=0 PYTHONPATH="$tree/src" dvc repro --force'
    steps = f"{repro} evaluate"
    if packaged_at is not None:
        leave = 'cd "$tree"\n' if project else ""
        steps = f"""{repro} train
{leave}# Other code packaged the weights than trained them.
if [ -s "$training/code.patch" ]; then git apply --reverse "$training/code.patch"; fi
git checkout --quiet -- .
git checkout --quiet --detach {shlex.quote(packaged_at)}
if [ -s "$bundle/code.patch" ]; then git apply "$bundle/code.patch"; fi
{enter}{settings}
{repro} --downstream package"""
    return f"""#!/bin/sh
# Reproduces this model in a git worktree beside its lineage.
# Run it in the main checkout, with segops' environment on the PATH.
set -eu
bundle=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
training=$(dirname "$bundle")
main=$(git rev-parse --path-format=absolute --show-toplevel)
tree=$(dirname "$training")/{WORKTREE}
# segops finds the main checkout's own record from a worktree; a relative address would miss it.
if [ "${{MLFLOW_TRACKING_URI:-}}" = {EMBEDDED} ]; then unset MLFLOW_TRACKING_URI; fi
{"" if encoder is None else _check(*encoder)}git worktree add --detach "$tree" {shlex.quote(commit)}
cd "$tree"
if [ -s "$training/code.patch" ]; then git apply "$training/code.patch"; fi
{enter}{first}
dvc cache dir --local "$main/.dvc/cache"
dvc checkout {pointer} || dvc pull {pointer} || exit {NO_DATA}
{steps}
"""


def _check(file: str, sha256: str) -> str:
    """Return lines that end the script where the encoder's local weights are other ones."""
    return f"""if [ ! -f {file} ] || ! python -c {shlex.quote(_IS_SAME)} {file} {sha256}; then
  echo "model.encoder_weights:" {file} "is not the file that the training started from, of" >&2
  echo "SHA-256 {sha256}. Put that file there. What segops pretrain wrote is an" >&2
  echo "artifact of its run in MLflow, whose tag segops.encoder_sha256 is this hash." >&2
  exit 1
fi
"""


def reproduce_script(
    commit: str,
    packaged_at: str | None,
    data_path: str,
    weights_sha256: str,
    digest: str,
    replaced: Mapping[str, str],
    project: str = "",
    encoder: tuple[str, str] | None = None,
) -> bytes:
    """Return the script that :func:`reproduce_command` runs, stored with the bundle's lineage.

    It makes the model again, and fails on other weights than those of `weights_sha256` and on
    another bundle than that of `digest`. The other arguments are those of :func:`making_script`.
    """
    making = making_script(commit, packaged_at, data_path, replaced, project, encoder)
    return f"""{making}if ! grep -q '"weights_sha256": "{weights_sha256}"' {paths.TRAINING}; then
  echo "Other weights than {weights_sha256}: bits repeat only on one machine and device." >&2
  exit 1
fi
if ! grep -q '"bundle_digest": "{digest}"' {paths.PACKAGE}; then
  echo "The same weights, but another bundle than {digest}: its libraries differ." >&2
  exit 1
fi
echo "The same weights: {weights_sha256}"
echo "The same bundle: {digest}"
""".encode()


def worktree_params(
    root: Path, model: ModelParams, train: TrainParams, training: Mapping[str, Any]
) -> dict[str, str]:
    """Return replacements for parameters that would mean something else in a later worktree.

    The alias of a model to start from or of a teacher may point to another version by then,
    untracked files exist in the main checkout only, and another processor may choose another
    precision. `training` is the content of ``metrics/training.json``.

    Returns:
        Shell words by dotted key; `$main` is the main checkout.
    """
    replaced: dict[str, str] = {}
    weights, precision = model.encoder_weights, training.get("precision")
    models = {
        "model.start_from": (model.start_from, training.get("start_model")),
        "train.teacher": (train.teacher, training.get("teacher_model")),
    }
    if train.precision == "auto" and precision is not None:
        replaced["train.precision"] = shlex.quote(precision)
    for key, (address, found) in models.items():
        if address is not None and address.startswith("models:"):
            if "@" in address and found is not None:
                replaced[key] = shlex.quote(found)
        elif address is not None and _is_relative(address):
            replaced[key] = _word(root, address)
    if weights is not None and _is_relative(weights) and (root / weights).is_file():
        replaced["model.encoder_weights"] = _word(root, weights)
    return replaced


def encoder_start(
    root: Path, model: ModelParams, training: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Return the encoder's local weights that a training started from.

    Arguments are those of :func:`worktree_params`.

    Returns:
        The file as a shell word, and its SHA-256 then; None for published weights, for a random
        start, and where the file is missing.
    """
    weights, digest = model.encoder_weights, training.get("start_sha256")
    if weights is None or digest is None or not (root / Path(weights).expanduser()).is_file():
        return None
    return _word(root, weights), shlex.quote(digest)


def _is_relative(path: str) -> bool:
    return not Path(path).expanduser().is_absolute()


def _word(root: Path, path: str) -> str:
    """Return a path of a workspace as a shell word; `$main` is the main checkout."""
    if not _is_relative(path):
        return shlex.quote(str(Path(path).expanduser()))
    project = project_of(root)
    main = f'"$main"/{shlex.quote(project)}' if project else '"$main"'
    return f"{main}/{shlex.quote(path)}"

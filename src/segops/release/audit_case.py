"""What the links of an audit share: a version, its run and its files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from mlflow.artifacts import download_artifacts
from mlflow.entities import Run
from mlflow.exceptions import MlflowException
from securesystemslib.signer import SSlibKey  # type: ignore[attr-defined]

from segops import files, paths
from segops.params.file import Params
from segops.record import artifact
from segops.record.lineage import tag
from segops.record.reproduce import bundle_directory
from segops.record.runs import LINEAGE_DIRECTORY
from segops.record.tracking import Store, is_missing
from segops.record.update import EVALUATED_AS
from segops.release.chain import Entry
from segops.release.ledger import Ledger
from segops.release.versions import Version
from segops.runtime.errors import SegopsError


class Absent(SegopsError):
    """What a link needs is not to be had here; the message says what is missing."""


@dataclass(frozen=True)
class Case:
    """A version under audit.

    Attributes:
        root: The workspace.
        settings: Its parameters.
        store: The record.
        ledger: The ledger of the model.
        version: The version.
        scratch: A directory for downloads.
        key: The public key that must have signed the statement, or None.
    """

    root: Path
    settings: Params
    store: Store
    ledger: Ledger
    version: Version
    scratch: Path
    key: SSlibKey | None
    _listed: dict[str, set[str]] = field(init=False, default_factory=dict)

    @property
    def tags(self) -> Mapping[str, str]:
        """The version's tags."""
        return self.version.tags

    def stated(self, name: str) -> str:
        """Return a field of the version's lineage.

        Raises:
            Absent: The version lacks it.
        """
        value = self.tags.get(tag(name))
        if not value:
            raise Absent(f"The version has no tag {tag(name)}.")
        return value

    @cached_property
    def run(self) -> Run:
        """The version's run.

        Raises:
            SegopsError: There is none.
        """
        try:
            return self.store.client.get_run(self.version.run_id)
        except MlflowException as error:
            if not self.version.run_id or is_missing(error):
                raise SegopsError(f"There is no run {self.version.run_id or '(none)'}.") from None
            raise

    @cached_property
    def is_latest(self) -> bool:
        """Whether the run's evaluation is the one that the version was registered with.

        Raises:
            Absent: The run lacks the evaluation that its tags name.
            SegopsError: It has another one.
        """
        tags, names = self.run.data.tags, (tag("bundle_digest"), EVALUATED_AS)
        if all(tags.get(name) == self.tags.get(name) for name in names):
            return True
        content = self.held(paths.EVALUATION.as_posix())
        if content is None:
            raise Absent(f"The run holds no {paths.EVALUATION}.")
        what = f"SHA-256 of {paths.EVALUATION}"
        require_same(what, tags.get(EVALUATED_AS), files.sha256_bytes(content))
        bundle = json.loads(content).get("bundle_digest")
        require_same(f"Bundle in {paths.EVALUATION}", tags.get(tag("bundle_digest")), bundle)
        return False

    @cached_property
    def bundle(self) -> Path:
        """The version's bundle; no code of it is run.

        Raises:
            SegopsError: Its artifact is gone, or holds no bundle.
        """
        model, number = self.ledger.model, self.version.number
        return artifact.fetch_bundle(self.store, model, number, self.scratch / "bundle")

    @cached_property
    def entries(self) -> list[Entry]:
        """The entries of the ledger, all of them checked.

        Raises:
            TamperedError: The ledger was tampered with.
        """
        return self.ledger.verify().entries

    @property
    def trusted(self) -> list[Entry]:
        """The entries; none where the ledger was tampered with, which is a link of its own."""
        try:
            return self.entries
        except SegopsError:
            return []

    def held(self, path: str) -> bytes | None:
        """Return the content of a file of the run, or None."""
        client, directory = self.store.client, path.rpartition("/")[0]
        if directory not in self._listed:
            listed = client.list_artifacts(self.run.info.run_id, directory)
            self._listed[directory] = {file.path for file in listed}
        if path not in self._listed[directory]:
            return None
        target = self.scratch / "run"
        target.mkdir(exist_ok=True)
        # The client's method asks a server six times more a file.
        uri = f"{self.run.info.artifact_uri}/{path}"
        local = download_artifacts(uri, dst_path=str(target), tracking_uri=self.store.uri)
        return Path(local).read_bytes()

    def packaging_file(self, name: str) -> bytes | None:
        """Return a file of the lineage that is kept for this bundle alone, or None."""
        directory = bundle_directory(self.version.bundle_digest)
        return self.held(f"{LINEAGE_DIRECTORY}/{directory}/{name}")

    def lineage_file(self, name: str, field: str | None = None) -> bytes:
        """Return a file of the bundle's lineage.

        Args:
            name: Its name.
            field: The field of the lineage that holds its SHA-256; None: none does.

        Raises:
            Absent: The run holds no such file.
            SegopsError: It has another SHA-256.
        """
        content = self.packaging_file(name)
        if content is None:
            content = self.held(f"{LINEAGE_DIRECTORY}/{name}")
        if content is None:
            raise Absent(f"The run holds no {LINEAGE_DIRECTORY}/{name}.")
        if field is not None:
            require_same(f"SHA-256 of {name}", self.stated(field), files.sha256_bytes(content))
        return content


def require_same(what: str, stated: object, found: object) -> None:
    """Raise a SegopsError where something is not what was stated."""
    if stated != found:
        raise SegopsError(f"{what}: {_short(stated)} is stated, {_short(found)} was found.")


def _short(value: object) -> str:
    return str(value)[:40] or "(none)"

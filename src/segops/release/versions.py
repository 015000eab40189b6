"""Versions of the registered model and their aliases."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from segops.record.lineage import tag
from segops.record.tracking import Store, is_missing

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
ALIASES = (CHAMPION, PREVIOUS, CHALLENGER)
WITHDRAWN = tag("withdrawn")
NO_VALUE = "none"
"""The tag of a score that there was once, and that the images of now do not give."""


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Attributes:
        number: Its number, as MLflow spells it.
        run_id: The run that it came from.
        tags: Its tags.
    """

    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def bundle_digest(self) -> str:
        """SHA-256 of its artifact as it was when registered; empty where nobody wrote it down."""
        return self.tags.get(tag("bundle_digest"), "")

    @property
    def weights(self) -> str:
        """SHA-256 of its weights; empty where nobody wrote it down."""
        return self.tags.get(tag("weights_sha256"), "")

    @property
    def withdrawn(self) -> str | None:
        """Why a rollback withdrew it, or None."""
        return self.tags.get(WITHDRAWN)

    @property
    def miou(self) -> float | None:
        """The mIoU written down beside it, within 0 to 1."""
        value = self.tags.get(tag("miou"))
        return None if value in (None, NO_VALUE) else float(value)


def aliases(store: Store, model: str) -> dict[str, str]:
    """Alias -> version, those of :data:`ALIASES` first.

    An empty answer means that the registry answered: there is no such model, or no alias. When it
    does not answer, this raises.

    Raises:
        MlflowException: The registry does not answer or refuses.
    """
    try:
        found = store.client.get_registered_model(model)
    except MlflowException as error:
        if is_missing(error):
            return {}
        raise
    set_ = {alias: str(number) for alias, number in found.aliases.items()}
    return {alias: set_[alias] for alias in sorted(set_, key=_place)}


def _place(alias: str) -> tuple[int, str]:
    return (ALIASES.index(alias) if alias in ALIASES else len(ALIASES), alias)


def get(store: Store, model: str, number: str) -> Version:
    """One version.

    Raises:
        MlflowException: There is no such version, or the registry does not answer.
    """
    return _version(store.client.get_model_version(model, number))


def find(store: Store, model: str, bundle_digest: str) -> Version | None:
    """The oldest version that holds an artifact, or None.

    Args:
        store: The record.
        model: Name of the registered model.
        bundle_digest: SHA-256 of the artifact.

    Raises:
        MlflowException: The registry does not answer.
    """
    found = store.client.search_model_versions(
        f"name = '{model}' AND tags.`{tag('bundle_digest')}` = '{bundle_digest}'"
    )
    ready = [_version(one) for one in found if one.status == "READY"]
    return min(ready, key=lambda one: int(one.number), default=None)


def set_tags(store: Store, model: str, version: Version, tags: Mapping[str, str]) -> list[str]:
    """Bring a version's tags up to date.

    Returns:
        Names of the tags that changed.
    """
    changed = [name for name, value in tags.items() if version.tags.get(name) != value]
    for name in changed:
        store.client.set_model_version_tag(model, version.number, name, tags[name])
    return changed


def set_alias(store: Store, model: str, alias: str, number: str | None) -> None:
    """Point an alias at a version, or take it off with None; nothing happens where it is so."""
    now = aliases(store, model).get(alias)
    if now == number:
        return
    if number is None:
        store.client.delete_registered_model_alias(model, alias)
    else:
        store.client.set_registered_model_alias(model, alias, number)


def _version(found: ModelVersion) -> Version:
    return Version(str(found.version), str(found.run_id or ""), dict(found.tags))

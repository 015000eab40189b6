"""Versions of the registered model and their aliases."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from segops.record.lineage import tag
from segops.record.tracking import Store, is_missing, quoted
from segops.runtime.errors import SegopsError

CHAMPION = "champion"
PREVIOUS = "previous"
CHALLENGER = "challenger"
CANDIDATE = "candidate"
ALIASES = (CHAMPION, PREVIOUS, CANDIDATE, CHALLENGER)
WITHDRAWN = tag("withdrawn")
PAGE = 500
NO_VALUE = "none"
"""Value of a score's tag when the present images give no score."""


@dataclass(frozen=True)
class Version:
    """A version of the registered model.

    Attributes:
        number: Its number, as MLflow writes it.
        run_id: The run that it came from.
        tags: Its tags.
    """

    number: str
    run_id: str
    tags: Mapping[str, str]

    @property
    def bundle_digest(self) -> str:
        """SHA-256 of its artifact when it was registered; empty where not recorded."""
        return self.tags.get(tag("bundle_digest"), "")

    @property
    def weights(self) -> str:
        """SHA-256 of its weights; empty where not recorded."""
        return self.tags.get(tag("weights_sha256"), "")

    @property
    def withdrawn(self) -> str | None:
        """Reason of the rollback that withdrew it, or None."""
        return self.tags.get(WITHDRAWN)

    @property
    def miou(self) -> float | None:
        """The mIoU in its tags, within 0 to 1; None where not recorded.

        Raises:
            SegopsError: The tag holds something else.
        """
        value = self.tags.get(tag("miou"))
        if value is None or value == NO_VALUE:
            return None
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not 0 <= number <= 1:
            raise SegopsError(
                f"Version {self.number}: its tag {tag('miou')} is {value!r}. Expected a number "
                f"within 0 to 1, or {NO_VALUE!r}. The tag was changed; set it back."
            )
        return number


def aliases(store: Store, model: str) -> dict[str, str]:
    """Return alias -> version, those of :data:`ALIASES` first.

    Empty where the registry answers that there is no such model, or no alias.

    Raises:
        MlflowException: The registry does not answer or refuses.
    """
    try:
        registered = store.client.get_registered_model(model)
    except MlflowException as error:
        if is_missing(error):
            return {}
        raise
    by_alias = {alias: str(number) for alias, number in registered.aliases.items()}
    return {alias: by_alias[alias] for alias in sorted(by_alias, key=_place)}


def _place(alias: str) -> tuple[int, str]:
    return (ALIASES.index(alias) if alias in ALIASES else len(ALIASES), alias)


def get(store: Store, model: str, number: str) -> Version:
    """Return a version by its number.

    Raises:
        MlflowException: There is no such version, or the registry does not answer.
    """
    return of_entity(store.client.get_model_version(model, number))


def listed(store: Store, model: str) -> Iterator[ModelVersion]:
    """Yield the versions of a model as MLflow holds them, the first one first.

    Raises:
        MlflowException: The registry does not answer.
    """
    token: str | None = None
    while True:
        page = store.client.search_model_versions(
            f"name = {quoted(model)}",
            max_results=PAGE,
            order_by=["version_number ASC"],
            page_token=token,
        )
        yield from page
        token = page.token
        if not token:
            return


def find(store: Store, model: str, bundle_digest: str) -> Version | None:
    """Return the oldest version with this artifact, or None.

    Args:
        store: The record.
        model: Name of the registered model.
        bundle_digest: SHA-256 of the artifact.

    Raises:
        MlflowException: The registry does not answer.
    """
    matching = store.client.search_model_versions(
        f"name = {quoted(model)} AND tags.`{tag('bundle_digest')}` = '{bundle_digest}'"
    )
    ready = [of_entity(entity) for entity in matching if entity.status == "READY"]
    return min(ready, key=lambda version: int(version.number), default=None)


def set_tags(store: Store, model: str, version: Version, tags: Mapping[str, str]) -> list[str]:
    """Bring a version's tags up to date.

    Returns:
        Names of the tags that changed.
    """
    changed = [name for name, value in tags.items() if version.tags.get(name) != value]
    for name in changed:
        store.client.set_model_version_tag(model, version.number, name, tags[name])
    return changed


def delete_tag(store: Store, model: str, version: Version, name: str) -> None:
    """Delete a version's tag where it has it."""
    if name in version.tags:
        store.client.delete_model_version_tag(model, version.number, name)


def set_alias(store: Store, model: str, alias: str, number: str | None) -> None:
    """Point an alias at a version, or delete it with None; change nothing where it is set so."""
    now = aliases(store, model).get(alias)
    if now == number:
        return
    if number is None:
        store.client.delete_registered_model_alias(model, alias)
    else:
        store.client.set_registered_model_alias(model, alias, number)


def of_entity(entity: ModelVersion) -> Version:
    """Return what segops needs of a version of MLflow's."""
    return Version(str(entity.version), str(entity.run_id or ""), dict(entity.tags))

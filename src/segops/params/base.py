"""The base of every section of ``params.yaml``, and a reader of some sections alone."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Self

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from segops.params import yaml_guard
from segops.runtime.errors import SegopsError
from segops.runtime.section import Positive

Probability = Annotated[float, Field(ge=0, le=1)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


def _ordered(value: tuple[float, float]) -> tuple[float, float]:
    if value[0] > value[1]:
        raise ValueError("expected the smaller number first")
    return value


PositiveRange = Annotated[tuple[Positive, Positive], AfterValidator(_ordered)]
ShareRange = Annotated[tuple[Probability, Probability], AfterValidator(_ordered)]


class Sections(BaseModel):
    """Some sections of ``params.yaml``; a stage that reads them depends on no other section's code.

    :func:`segops.params.file.load_params` checks the file as a whole.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read these sections of a ``params.yaml``, or of that of a workspace directory.

        Raises:
            SegopsError: The file is missing, is not YAML, or one of these sections is not usable.
        """
        from segops.params.messages import listed

        tree, name = read_yaml(path)
        try:
            return cls.model_validate(tree)
        except ValidationError as error:
            raise SegopsError(listed(cls, error, name)) from None

    @classmethod
    def of(cls, whole: BaseModel) -> Self:
        """Take these sections of parameters that are already read."""
        fields = cls.model_fields.items()
        return cls(**{field.alias or name: getattr(whole, name) for name, field in fields})

    def flat(self) -> dict[str, Any]:
        """Every parameter under its dotted key, as ``params.yaml`` would spell it."""
        return flatten(self.model_dump(mode="json", by_alias=True))


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Turn nested mappings into a mapping with dotted keys; an empty mapping stays a value."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat.update(flatten(value, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_yaml(path: Path) -> tuple[Any, str]:
    """Read a ``params.yaml``, or that of a workspace directory, as it is written.

    Returns:
        The tree (an empty file is a mapping without sections), and the file's name for messages.

    Raises:
        SegopsError: The file is missing or is not YAML.
    """
    path = path / "params.yaml" if path.is_dir() else path
    try:
        tree = yaml_guard.load(read_text(path))
    except yaml.YAMLError as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None
    tree = {} if tree is None else tree
    require_sections(tree, str(path))
    return tree, str(path)


def read_text(path: Path) -> str:
    """Read a YAML file with its own line ends.

    Raises:
        SegopsError: It is missing, or is not text.
    """
    try:
        return path.read_bytes().decode()
    except FileNotFoundError:
        raise SegopsError(
            f"{path}: no such file. Run segops in the root of a checkout, beside dvc.yaml."
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None


def require_sections(tree: Any, name: str) -> None:
    """Raise a SegopsError where `tree` is no mapping."""
    if not isinstance(tree, dict):
        raise SegopsError(f"{name}: expected a mapping of sections, found {type(tree).__name__}.")

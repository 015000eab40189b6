"""Recipes: YAML files with the parameters of published trainings and the mIoU they aim at.

Using a recipe writes its values into ``params.yaml``, which stays the only configuration.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, ValidationError

from segops.edit import Edit, overlay_values, plan
from segops.params.file import Params, load_params
from segops.params.messages import problems
from segops.runtime.classes import VOC_CLASSES
from segops.runtime.errors import SegopsError
from segops.runtime.section import Section
from segops.voc.layout import SPLITS, open_layout

DIRECTORY = Path("recipes")
ABOUT = "recipe"
"""The key of a recipe's description; all other keys are parameters."""
SYNCHRONISED = "train.sync_batch_norm"


class Aim(Section):
    """The published figure that a recipe aims at.

    Attributes:
        miou: Published mIoU in per cent; None without a reliable figure.
        iterations: Optimiser steps after which it was measured.
        source: The publication, or why there is no figure.
    """

    miou: Annotated[float, Field(gt=0, lt=100)] | None
    iterations: Annotated[int, Field(ge=1)]
    source: str


class Needs(Section):
    """The data set of the published figure.

    Attributes:
        name: Its usual name.
        train_images: Images of its train split.
        val_images: Images of its val split.
        get: The command that installs it.
    """

    name: str
    train_images: Annotated[int, Field(ge=1)]
    val_images: Annotated[int, Field(ge=1)]
    get: str


class About(Section):
    """The description of a recipe.

    Attributes:
        title: A short title.
        aim: The published figure.
        network: The network of the published training.
        data: The data of the published training.
        differences: Differences from the published training.
    """

    title: str
    aim: Aim
    network: str
    data: Needs
    differences: tuple[str, ...]


@dataclass(frozen=True)
class Recipe:
    """A recipe that was read from its file.

    Attributes:
        path: Its file.
        about: Its description.
        values: Parameters by dotted key.
    """

    path: Path
    about: About
    values: dict[str, Any]

    @property
    def name(self) -> str:
        """The name for `segops run --recipe`: the file's name without its suffix."""
        return self.path.stem


def read(path: Path) -> Recipe:
    """Read a recipe; :func:`put_over` checks its parameters.

    Raises:
        SegopsError: The file is missing or not YAML, or its description is incomplete or has
            unknown keys.
    """
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SegopsError(f"{path}: no such recipe. `segops recipes` lists them.") from None
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise SegopsError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(tree, dict) or not isinstance(tree.get(ABOUT), dict):
        raise SegopsError(
            f"{path}: not a recipe; expected sections of params.yaml, and a mapping `{ABOUT}` with "
            f"{', '.join(About.model_fields)}."
        )
    try:
        about = About.model_validate(tree.pop(ABOUT))
    except ValidationError as error:
        lines = [f"  {ABOUT}.{problem}" for problem in problems(About, error.errors())]
        raise SegopsError("\n".join([f"{path}: not a usable recipe:", *lines])) from None
    return Recipe(path, about, overlay_values(tree))


def every(root: Path) -> list[Recipe]:
    """Return the recipes of a checkout, by name.

    Raises:
        SegopsError: A recipe is not readable.
    """
    return [read(path) for path in sorted((root / DIRECTORY).glob("*.yaml"))]


def find(root: Path, name: str) -> Recipe:
    """Find a recipe by its name or path.

    Args:
        root: The checkout.
        name: A file's name in ``recipes/`` without its suffix, or the path of a recipe.

    Raises:
        SegopsError: There is no such recipe; the message lists all names.
    """
    if name.endswith((".yaml", ".yml")) or "/" in name:
        return read(Path(name))
    path = root / DIRECTORY / f"{name}.yaml"
    if path.is_file():
        return read(path)
    names = [path.stem for path in sorted((root / DIRECTORY).glob("*.yaml"))]
    close = difflib.get_close_matches(name, names, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    raise SegopsError(
        f"{name}: no such recipe in {DIRECTORY}/.{hint} There "
        f"{'are ' + ', '.join(names) if names else 'is none'}; the path of a file is taken too."
    )


def put_over(root: Path, recipe: Recipe) -> Edit:
    """Return the change of ``params.yaml`` to a recipe's values, without writing it.

    On one device synchronised batch norm is refused, so there a recipe's `train.sync_batch_norm`
    becomes false.

    Raises:
        SegopsError: The recipe has an unknown key or a bad value; the message names file and key.
    """
    place = recipe.path
    if place.is_relative_to(root):
        place = place.relative_to(root)
    values = recipe.values
    if values.get(SYNCHRONISED) is True and _on_one_device(root, values):
        values = values | {SYNCHRONISED: False}
    return plan(root, values, str(place))


def _on_one_device(root: Path, values: dict[str, Any]) -> bool:
    train = load_params(root).train
    numbers = {"train.devices": train.devices, "train.nodes": train.nodes}
    return all(values.get(key, number) == 1 for key, number in numbers.items())


def doubts(root: Path, recipe: Recipe, settings: Params) -> list[str]:
    """Return reasons why the recipe's figure does not apply to the workspace, a text each.

    Args:
        root: The workspace.
        recipe: The recipe.
        settings: The parameters with the recipe's values.
    """
    needs = recipe.about.data
    get = f"`{needs.get}` installs {needs.name}."
    try:
        layout = open_layout(root / settings.data.path)
        present = {split: len(layout.ids(split)) for split in SPLITS}
    except SegopsError as error:
        return [f"{str(error).splitlines()[0].rstrip('.')}. {get}"]
    expected = {"train": needs.train_images, "val": needs.val_images}
    reasons = [
        f"{settings.data.path} holds {present[split]:,} {split} images, the recipe is for "
        f"{expected[split]:,}: its published figure does not apply to this data. {get}"
        for split in SPLITS
        if present[split] != expected[split]
    ]
    if settings.data.class_names != VOC_CLASSES:
        reasons.append(
            "data.classes are not those of VOC: they are kept, and the recipe's published figure "
            "does not apply to them."
        )
    return reasons
